import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.training.engine import rank_worker
from tests.training.small_dataset import CODEC, MODEL
from training import checkpoint_files
from training.checkpoint import load_weights, restore_newest, start_weights, write_checkpoint
from training.checkpoint_files import complete_steps, newest_step, read_checkpoint, step_folder
from training.config import CheckpointConfig, ModelConfig
from training.engine.plain import PlainEngine
from training.model.weights import save_model, weights_sha256
from training.retention import prune, remove_incomplete
from training.types import CheckpointRecord

LIST = "files-of-rank-00000.json"
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
    [*(("checkpoint.json", place) for place in range(1, 160, 13)), (LIST, 0)],
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


def names(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir())


def test_one_character_that_changes_in_a_list_of_files_never_removes_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 2)
    folder = write(tmp_path, 4)
    as_written = (folder / LIST).read_bytes()
    digits = as_written.index(b'"size": ') + len(b'"size": ')
    for place in range(len(as_written)):
        flip(folder / LIST, place)
        remove_incomplete(tmp_path)
        # a last line that is none looks as if it had been cut off
        aside = "damaged-1-step-00000004" if place < len(as_written) - 3 else "cut-off-step-00000004"
        assert names(tmp_path) == [aside, "step-00000002"]
        (tmp_path / aside).rename(folder)
        (folder / LIST).write_bytes(as_written)
    shutil.rmtree(step_folder(tmp_path, 2))
    for place in (digits, as_written.index(b"safetensors")):
        flip(folder / LIST, place)
        with pytest.raises(ValueError, match="none of the 1 checkpoints"):
            remove_incomplete(tmp_path)
        (folder / LIST).write_bytes(as_written)
    assert restore(tmp_path) == 4


@pytest.mark.parametrize("name", [LIST, "checkpoint.json", "rank-00000.safetensors"])
def test_a_copy_that_is_under_way_is_in_nobody_s_way_and_one_that_was_cut_off_in_no_later_start_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    write(tmp_path, 2)
    file = write(tmp_path, 4) / name
    as_written, aside = file.read_bytes(), tmp_path / "cut-off-step-00000004"
    for size in {*range(0, min(len(as_written) - 1, 500), 9), len(as_written) - 2}:
        file.write_bytes(as_written[:size])
        assert kept(tmp_path, keep=1) == (2,)
        assert file.parent.is_dir()
        remove_incomplete(tmp_path)
        assert names(tmp_path) == [aside.name, "step-00000002"]
        aside.rename(file.parent)
    assert restore(tmp_path) == 2
    assert f"It is now {aside.name} until a checkpoint as late as it is whole" in caplog.text


@pytest.mark.parametrize("name", [LIST, "rank-00000.safetensors"])
def test_a_run_whose_first_checkpoint_was_cut_off_begins_and_keeps_it_till_there_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    file = write(tmp_path, 4) / name
    file.write_bytes(file.read_bytes()[:100])
    remove_incomplete(tmp_path)
    assert restore(tmp_path) == 0
    for step in (2, 4):
        assert (tmp_path / "cut-off-step-00000004" / name).is_file()
        write(tmp_path, step)
        prune(tmp_path, CheckpointConfig())
    assert names(tmp_path) == ["step-00000002", "step-00000004"]
    assert "cut-off-step-00000004 is not whole, and removed: step-00000004 is" in caplog.text


def test_copies_that_are_cut_off_at_every_start_do_not_fill_the_disk(tmp_path: Path) -> None:
    write(tmp_path, 2)
    for left in (["cut-off-step-00000004"], []) * 2:
        (write(tmp_path, 4) / "rank-00000.safetensors").write_bytes(b"")
        remove_incomplete(tmp_path)
        assert names(tmp_path) == [*left, "step-00000002"]


def test_one_that_was_set_aside_counts_again_once_its_files_are_back(tmp_path: Path) -> None:
    file = write(tmp_path, 4) / "rank-00000.safetensors"
    as_written = file.read_bytes()
    file.unlink()
    assert restore(tmp_path) == 0
    (tmp_path / "cut-off-step-00000004" / file.name).write_bytes(as_written)
    assert restore(tmp_path) == 4
    assert names(tmp_path) == ["step-00000004"]


def test_workers_that_begin_again_clear_what_their_predecessors_left_of_a_copy(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (write(tmp_path, 4) / "rank-00000.safetensors").unlink()
    assert restore(tmp_path) == 2
    assert names(tmp_path) == ["cut-off-step-00000004", "step-00000002"]


def test_workers_that_begin_again_do_not_begin_a_stage_anew_whose_only_list_is_damaged(tmp_path: Path) -> None:
    flip(write(tmp_path, 2) / LIST, 30)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        restore(tmp_path)


def test_what_others_put_beside_the_checkpoints_stays(tmp_path: Path) -> None:
    for name in ("cut-off-analysis", "cut-off-step-00000002.bak"):
        (tmp_path / name).mkdir()
    (tmp_path / "cut-off-notes.txt").write_text("of somebody")
    write(tmp_path, 4)
    before = names(tmp_path)
    remove_incomplete(tmp_path)
    prune(tmp_path, CheckpointConfig())
    assert names(tmp_path) == before


def test_one_that_is_not_whole_is_removed_with_a_line_where_a_later_one_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (write(tmp_path, 2) / "rank-00000.safetensors").unlink()
    write(tmp_path, 4)
    remove_incomplete(tmp_path)
    assert names(tmp_path) == ["step-00000004"]
    assert "step-00000002 is not whole, and removed: step-00000004 is" in caplog.text


def write_list(folder: Path, files: Mapping[str, object], **more: object) -> None:
    """As another version of longtake may."""
    values = {"files": files, **more}
    xxh3 = xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())
    (folder / LIST).write_text(json.dumps({**values, "xxh3": xxh3}, indent=2) + "\n")


def test_checkpoints_of_another_version_are_refused_and_stay(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    record, files = folder / "checkpoint.json", listed_files(folder)
    record.write_text(json.dumps({**json.loads(record.read_text()), "of_a_newer_version": 1}))
    size = {"size": record.stat().st_size, "xxh3": xxhash.xxh3_128(record.read_bytes()).hexdigest()}
    write_list(folder, {**files, record.name: size})
    refuse_version(tmp_path)


def test_lists_of_another_version_are_refused_and_stay(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    files = listed_files(folder)
    newer = {name: {**file, "of_a_newer_version": 1} for name, file in files.items()}
    write_list(folder, newer)
    refuse_version(tmp_path)
    (folder / LIST).write_text(json.dumps(newer))
    refuse_version(tmp_path)
    write_list(folder, files)
    assert restore(tmp_path) == 2


def listed_files(folder: Path) -> dict[str, dict[str, object]]:
    return json.loads((folder / LIST).read_text())["files"]


def refuse_version(checkpoints: Path) -> None:
    folder = step_folder(checkpoints, 2)
    for look in (newest_step, remove_incomplete, restore):
        with pytest.raises(ValueError, match="was written by another version of longtake; use a new --run"):
            look(checkpoints)
    assert folder.is_dir()


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


def test_a_checkpoint_without_sums_from_an_older_version_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    sizes = {name: (folder / name).stat().st_size for name in ("checkpoint.json", "rank-00000.safetensors")}
    (folder / LIST).write_text(json.dumps(sizes))
    assert restore(tmp_path) == 2
    flip(folder / "checkpoint.json", 0)
    with pytest.raises(ValueError, match=r"checkpoint\.json is damaged: it is not what was written"):
        read_checkpoint(folder)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        remove_incomplete(tmp_path)


def test_a_checkpoint_whose_lists_have_no_sum_of_their_own_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    (folder / LIST).write_text(json.dumps(listed_files(folder), indent=2) + "\n")
    assert restore(tmp_path) == 2
    flip(folder / "rank-00000.safetensors", -1)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        restore(tmp_path)


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
    assert names(tmp_path) == ["cut-off-step-00000004", whole.name]


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
