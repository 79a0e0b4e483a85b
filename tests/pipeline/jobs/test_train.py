from pathlib import Path

import pytest
import ray.train

from pipeline.jobs.train import _clean_up, _report_checkpoint
from tests.training.engine import rank_worker
from tests.training.small_dataset import MODEL, train_config
from training.checkpoint import write_checkpoint
from training.checkpoint_files import complete_steps, step_folder
from training.engine.fragments import Fragment
from training.engine.plain import PlainEngine
from training.engine.watchdog import Pulse
from training.stage import StageJob


def job_in(run: Path) -> StageJob:
    return StageJob(stage="teacher", model=MODEL, train=train_config(), datasets=(), init=None, folder=run / "teacher")


def test_no_whole_checkpoint_is_removed_before_the_newest_has_been_read(tmp_path: Path) -> None:
    job, engine = job_in(tmp_path), PlainEngine(rank_worker.module("teacher"), rank_worker.optimizer())
    assert job.train.checkpoint.keep == 2
    for step in (2, 4, 6, 8):
        folder = step_folder(job.checkpoints, step)
        folder.mkdir(parents=True)
        write_checkpoint(engine, folder, rank_worker.record(engine))
    (folder / "rank-00000.safetensors").unlink()
    _clean_up(job)
    assert complete_steps(job.checkpoints) == (2, 4, 6)
    assert not folder.exists()


def test_a_rank_that_saves_is_under_watch_in_its_own_files_and_in_ray_s_barrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulse, seen = Pulse(), {}

    class Noting(PlainEngine):
        @property
        def fragments(self) -> tuple[Fragment, ...]:
            seen["writes"] = pulse.waiting, pulse.beat().meetings
            return super().fragments

    def report(*_: object, **__: object) -> None:
        seen["reports"] = pulse.waiting, pulse.beat().meetings

    monkeypatch.setattr(ray.train, "report", report)
    engine = Noting(rank_worker.module("teacher"), rank_worker.optimizer())

    _report_checkpoint(job_in(tmp_path), tmp_path, pulse, engine, rank_worker.record(engine))

    assert seen == {"writes": (True, 1), "reports": (True, 2)}
    assert not pulse.waiting
