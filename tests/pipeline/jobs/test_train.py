from pathlib import Path

import pytest
import ray.train

from pipeline.jobs.train import _report_checkpoint
from tests.training.engine import rank_worker
from tests.training.small_dataset import MODEL, train_config
from training.engine.fragments import Fragment
from training.engine.plain import PlainEngine
from training.engine.watchdog import Pulse
from training.stage import StageJob


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
    job = StageJob(
        stage="teacher", model=MODEL, train=train_config(), datasets=(), init=None, folder=tmp_path / "teacher"
    )

    _report_checkpoint(job, tmp_path, pulse, engine, rank_worker.record(engine))

    assert seen == {"writes": (True, 1), "reports": (True, 2)}
    assert not pulse.waiting
