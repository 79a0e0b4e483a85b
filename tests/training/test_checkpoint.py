import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.training.engine import rank_worker
from tests.training.small_dataset import CODEC, MODEL
from training import checkpoint
from training.checkpoint import (
    complete_steps,
    load_weights,
    newest_step,
    prune,
    read_checkpoint,
    remove_incomplete,
    restore_newest,
    start_weights,
    step_folder,
    write_checkpoint,
)
from training.config import CheckpointConfig, ModelConfig
from training.engine.plain import PlainEngine
from training.model.weights import save_model, weights_sha256
from training.types import CheckpointRecord

RECORD = CheckpointRecord(
    stage="teacher", step=2, num_updates=2, val_loss=None, settings={"train.seed": 0}, plan_hash="p", base_sha256="b",
    num_ranks=1,
)  # fmt: skip


def engine() -> PlainEngine:
    return PlainEngine(rank_worker.module("teacher"), rank_worker.optimizer())


def write(checkpoints: Path, step: int, val_loss: float | None = None, base_sha256: str = "b") -> Path:
    folder = step_folder(checkpoints, step)
    folder.mkdir(parents=True)
    write_checkpoint(engine(), folder, replace(RECORD, step=step, val_loss=val_loss, base_sha256=base_sha256))
    return folder


def restore(checkpoints: Path) -> int:
    return restore_newest(engine(), checkpoints, RECORD, allow_changed=False)


def test_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 2)
    cut_off = write(tmp_path, 4) / "rank-00000.safetensors"
    cut_off.write_bytes(cut_off.read_bytes()[:-1])
    assert newest_step(tmp_path) == 2
    assert restore(tmp_path) == 2


def test_a_checkpoint_whose_other_rank_is_missing_is_not_whole(tmp_path: Path) -> None:
    folder = step_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    write_checkpoint(engine(), folder, replace(RECORD, num_ranks=2))
    assert complete_steps(tmp_path) == ()


def flip(path: Path, place: int) -> None:
    """A bit of one byte, as a disk may."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


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


def test_a_damaged_checkpoint_is_set_aside_and_no_good_one_is_removed_for_it(tmp_path: Path) -> None:
    write(tmp_path, 2)
    flip(write(tmp_path, 4, val_loss=0.1) / "rank-00000.safetensors", -1)
    assert restore(tmp_path) == restore(tmp_path) == newest_step(tmp_path) == 2
    assert kept(tmp_path, keep=1) == (2,)
    flip(write(tmp_path, 4) / "rank-00000.safetensors", -1)
    assert restore(tmp_path) == 2
    remove_incomplete(tmp_path)
    aside = ["damaged-1-step-00000004", "damaged-2-step-00000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*aside, "step-00000002"]
    assert all((tmp_path / name / "rank-00000.safetensors").is_file() for name in aside)


def no_disk(monkeypatch: pytest.MonkeyPatch, function: str, name: str) -> None:
    """Reading a file of this name, or looking for it, is an I/O error."""
    real = getattr(Path, function)

    def failing(path: Path, *arguments: Any, **options: Any) -> object:
        if path.name == name and "step-00000004" in str(path.parent):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, function, failing)


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


@pytest.mark.parametrize(("function", "name"), [("read_text", "checkpoint.json"), ("stat", "rank-00000.safetensors")])
def test_one_that_the_disk_does_not_show_is_not_taken_for_one_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, name: str
) -> None:
    for step in (2, 4):
        write(tmp_path, step)
    with monkeypatch.context() as patch:
        no_disk(patch, function, name)
        for look in (complete_steps, remove_incomplete, restore):
            with pytest.raises(OSError, match=r"Input/output error.*step-00000004"):
                look(tmp_path)
    assert complete_steps(tmp_path) == (2, 4)


@pytest.mark.parametrize(
    ("name", "place"),
    [*(("checkpoint.json", place) for place in range(1, 160, 13)), ("files-of-rank-00000.json", 0)],
)
def test_a_checkpoint_that_says_what_nobody_wrote_is_set_aside_and_never_removed(
    tmp_path: Path, name: str, place: int
) -> None:
    write(tmp_path, 2)
    flip(write(tmp_path, 4) / name, place)
    remove_incomplete(tmp_path)
    assert restore(tmp_path) == newest_step(tmp_path) == 2
    assert (tmp_path / "damaged-1-step-00000004" / name).is_file()
    flip(step_folder(tmp_path, 2) / name, place)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        remove_incomplete(tmp_path)
    assert step_folder(tmp_path, 2).is_dir()


def test_checkpoints_of_another_version_are_refused_and_stay(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    record, listed = folder / "checkpoint.json", folder / "files-of-rank-00000.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "of_a_newer_version": 1}))
    size = {"size": record.stat().st_size, "xxh3": xxhash.xxh3_128(record.read_bytes()).hexdigest()}
    listed.write_text(json.dumps({**json.loads(listed.read_text()), record.name: size}))
    for look in (newest_step, remove_incomplete, restore):
        with pytest.raises(ValueError, match="was written by another version of longtake; use a new --run"):
            look(tmp_path)
    assert folder.is_dir()


def test_no_stage_begins_anew_because_all_of_its_checkpoints_are_damaged(tmp_path: Path) -> None:
    for step in (2, 4):
        flip(write(tmp_path, step) / "rank-00000.safetensors", -1)
    with pytest.raises(ValueError, match=r"none of the 2 checkpoints in .* can be read as it was written"):
        restore(tmp_path)
    assert complete_steps(tmp_path) == (2, 4)


def test_every_piece_that_is_read_for_a_checkpoint_is_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "READ_BYTES", 1 << 16)
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


def test_a_checkpoint_without_sums_from_an_older_version_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    sizes = {name: (folder / name).stat().st_size for name in ("checkpoint.json", "rank-00000.safetensors")}
    (folder / "files-of-rank-00000.json").write_text(json.dumps(sizes))
    assert restore(tmp_path) == 2


def test_what_another_rank_is_writing_beside_it_is_no_part_of_a_rank_s_share(tmp_path: Path) -> None:
    folder = step_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    half_written = folder / ".rank-00001.safetensors.tmp"
    half_written.write_bytes(b"half")
    write_checkpoint(engine(), folder, RECORD)
    half_written.unlink()
    assert complete_steps(tmp_path) == (2,)


def test_a_run_without_a_checkpoint_begins(tmp_path: Path) -> None:
    assert restore(tmp_path) == 0


def kept(checkpoints: Path, **config: object) -> tuple[int, ...]:
    prune(checkpoints, CheckpointConfig.model_validate(config))
    return complete_steps(checkpoints)


def test_the_newest_checkpoints_are_kept_and_the_best(tmp_path: Path) -> None:
    for step, val_loss in ((2, 0.9), (4, 0.5), (6, None), (8, 0.7), (10, None)):
        write(tmp_path, step, val_loss)
    assert kept(tmp_path, keep=2) == (4, 8, 10)
    assert kept(tmp_path, keep=1, keep_best=False) == (10,)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_held_out_loss_that_is_no_number_is_never_the_best(tmp_path: Path, broken: float) -> None:
    for step, val_loss in ((2, broken), (4, 0.5), (6, 0.9), (8, broken)):
        write(tmp_path, step, val_loss)
    assert kept(tmp_path, keep=1) == (4, 8)


def test_of_equally_good_checkpoints_the_last_is_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        write(tmp_path, step, 0.5)
    assert kept(tmp_path, keep=1) == (6,)


def test_one_that_is_being_written_is_not_in_the_way_until_nobody_writes(tmp_path: Path) -> None:
    whole, cut_off = write(tmp_path, 2), write(tmp_path, 4)
    (cut_off / "checkpoint.json").unlink()
    prune(tmp_path, CheckpointConfig(keep=1))
    assert cut_off.is_dir()
    remove_incomplete(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


def test_a_checkpoint_of_another_version_says_so(tmp_path: Path) -> None:
    record = write(tmp_path, 2) / "checkpoint.json"
    record.write_text(record.read_text().replace("num_updates", "updates"))
    with pytest.raises(ValueError, match="another version of longtake"):
        read_checkpoint(record.parent)


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
