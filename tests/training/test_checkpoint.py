from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.engine import rank_worker
from tests.training.small_dataset import CODEC, MODEL
from training.checkpoint import (
    complete_steps,
    newest_step,
    prune,
    refuse_other_run,
    restore_newest,
    start_weights,
    step_folder,
    write_checkpoint,
)
from training.config import ModelConfig
from training.engine.plain import PlainEngine
from training.model.weights import save_model
from training.types import CheckpointRecord

RECORD = CheckpointRecord(
    stage="teacher", step=2, recipe_fingerprint="f", plan_hash="p", base_sha256="b", num_ranks=1, zero_stage=1
)


def engine() -> PlainEngine:
    return PlainEngine(rank_worker.module("teacher"), rank_worker.optimizer())


def write(checkpoints: Path, step: int) -> Path:
    folder = step_folder(checkpoints, step)
    folder.mkdir(parents=True)
    write_checkpoint(engine(), folder, replace(RECORD, step=step))
    return folder


def test_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 2)
    cut_off = write(tmp_path, 4) / "plain.pt"
    cut_off.write_bytes(cut_off.read_bytes()[:-1])
    assert newest_step(tmp_path) == 2
    assert restore_newest(engine(), tmp_path, RECORD) == 2


def test_a_checkpoint_whose_other_rank_is_missing_is_not_whole(tmp_path: Path) -> None:
    folder = step_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    write_checkpoint(engine(), folder, replace(RECORD, num_ranks=2))
    assert complete_steps(tmp_path) == ()


def test_a_run_without_a_checkpoint_begins(tmp_path: Path) -> None:
    assert restore_newest(engine(), tmp_path, RECORD) == 0


def test_only_the_newest_whole_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        write(tmp_path, step)
    (write(tmp_path, 8) / "checkpoint.json").unlink()
    prune(tmp_path, keep=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]


def test_a_checkpoint_of_another_run_is_refused_with_every_difference(tmp_path: Path) -> None:
    other = replace(RECORD, step=9, plan_hash="q", num_ranks=2)
    with pytest.raises(ValueError, match=r"plan_hash.*'p' and is 'q'; number of ranks.*1 and is 2"):
        refuse_other_run(tmp_path, RECORD, other)
    refuse_other_run(tmp_path, RECORD, replace(RECORD, step=9))


def test_a_model_of_another_size_is_no_beginning(tmp_path: Path) -> None:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, tmp_path, config=MODEL, codec=CODEC, fps=24.0, sizes_px=((64, 64),))
    with pytest.raises(ValueError, match=r"model.preset was 'tiny' and is 'small'"):
        start_weights(ModelConfig(preset="small"), CODEC, init=tmp_path, seed=0)
    with pytest.raises(ValueError, match="latent_channels was 4 and is 8"):
        start_weights(MODEL, replace(CODEC, latent_channels=8), init=tmp_path, seed=0)
