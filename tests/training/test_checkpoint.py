from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.engine import rank_worker
from tests.training.small_checkpoint import LIST, RECORD, flip, names, no_disk, restore, write
from tests.training.small_dataset import CODEC, MODEL
from training import checkpoint_files
from training.checkpoint import load_weights, restore_newest, start_weights, write_checkpoint
from training.checkpoint_files import complete_steps, newest_step, step_folder
from training.config import ModelConfig
from training.disk_errors import DamagedError
from training.engine.plain import PlainEngine
from training.model.weights import save_model, weights_sha256


def test_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 2)
    cut_off = write(tmp_path, 4) / "rank-00000.safetensors"
    cut_off.write_bytes(cut_off.read_bytes()[:-1])
    assert newest_step(tmp_path) == 2
    assert restore(tmp_path) == 2


@pytest.mark.parametrize(("name", "place"), [("rank-00000.safetensors", -1), ("rank-00000.safetensors", 20)])
def test_a_damaged_checkpoint_is_passed_over_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, place: int
) -> None:
    write(tmp_path, 2)
    flip(write(tmp_path, 4) / name, place)
    flip(write(tmp_path, 6) / name, place)
    assert complete_steps(tmp_path) == (2, 4, 6)
    assert restore(tmp_path) == 2
    for step in (4, 6):
        assert f"{step_folder(tmp_path, step)} is damaged and passed over: {name}" in caplog.text


def test_a_checkpoint_that_the_disk_does_not_give_is_passed_over_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4):
        write(tmp_path, step)
    with monkeypatch.context() as patch:
        no_disk(patch, "open", "rank-00000.safetensors")
        assert restore(tmp_path) == 2
    assert "step-00000004 is damaged and passed over: [Errno 5] Input/output error" in caplog.text
    (tmp_path / "damaged-1-step-00000004").rename(step_folder(tmp_path, 4))
    assert restore(tmp_path) == 4


def test_workers_that_begin_again_clear_what_their_predecessors_left_of_a_copy(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (write(tmp_path, 4) / "rank-00000.safetensors").unlink()
    assert restore(tmp_path) == 2
    assert names(tmp_path) == ["cut-off-step-00000004", "step-00000002"]


def test_workers_that_begin_again_do_not_begin_a_stage_anew_whose_only_list_is_damaged(tmp_path: Path) -> None:
    flip(write(tmp_path, 2) / LIST, 30)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        restore(tmp_path)


def test_no_stage_begins_anew_because_all_of_its_checkpoints_are_damaged(tmp_path: Path) -> None:
    for step in (2, 4):
        flip(write(tmp_path, step) / "rank-00000.safetensors", -1)
    with pytest.raises(ValueError, match=r"none of the 2 checkpoints in .* can be read as it was written"):
        restore(tmp_path)
    assert complete_steps(tmp_path) == (2, 4)


def test_every_piece_that_is_read_for_a_checkpoint_is_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "READ_BYTES", 1 << 16)
    read = []

    class Noting(PlainEngine):
        def has_read(self) -> None:
            read.append(1)

    noting = Noting(rank_worker.module("teacher"), rank_worker.optimizer())
    folder = step_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    write_checkpoint(noting, folder, RECORD)
    pieces = (folder / "rank-00000.safetensors").stat().st_size >> 16
    assert pieces > 3
    assert len(read) > pieces
    read.clear()
    assert restore_newest(noting, tmp_path, RECORD, allow_changed=False) == 2
    assert len(read) > pieces + len(noting.fragments)


@pytest.mark.parametrize("place", [-1, 20])
def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path, place: int) -> None:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    folder = write(tmp_path, 2, base_sha256=weights_sha256(model.state_dict()))
    load_weights(model, folder, "live")
    flip(folder / "rank-00000.safetensors", place)
    with pytest.raises(ValueError, match=r"is damaged: rank-00000\.safetensors not what was written"):
        load_weights(model, folder, "live")


def test_a_run_without_a_checkpoint_begins(tmp_path: Path) -> None:
    assert restore(tmp_path) == 0


def test_weights_of_a_checkpoint_need_the_frozen_ones_that_it_began_with(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    with pytest.raises(ValueError, match="not of a stage that began from these weights"):
        load_weights(start_weights(MODEL, CODEC, init=None, seed=1), folder, "live")


def test_a_model_of_another_size_is_no_beginning(tmp_path: Path) -> None:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, tmp_path, config=MODEL, codec=CODEC, fps=24.0, sizes_px=((64, 64),))
    with pytest.raises(ValueError, match=r"model.preset was 'tiny' and is 'small'"):
        start_weights(ModelConfig(preset="small"), CODEC, init=tmp_path, seed=0)
    with pytest.raises(ValueError, match="latent_channels was 4 and is 8"):
        start_weights(MODEL, replace(CODEC, latent_channels=8), init=tmp_path, seed=0)


def test_a_model_that_is_damaged_is_no_beginning(tmp_path: Path) -> None:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, tmp_path, config=MODEL, codec=CODEC, fps=24.0, sizes_px=((64, 64),))
    assert weights_sha256(start_weights(MODEL, CODEC, init=tmp_path, seed=1).state_dict()) == weights_sha256(
        model.state_dict()
    )
    flip(tmp_path / "diffusion_pytorch_model.safetensors", -1)
    with pytest.raises(DamagedError, match="is damaged: its weights have the hash"):
        start_weights(MODEL, CODEC, init=tmp_path, seed=1)
