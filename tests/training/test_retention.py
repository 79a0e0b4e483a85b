import shutil
from pathlib import Path

import pytest

from tests.training.small_checkpoint import FRAGMENTS, LIST, flip, names, restore, write
from training.checkpoint_files import complete_steps, newest_step, step_folder
from training.config import CheckpointConfig
from training.retention import prune, set_aside_incomplete


def test_a_damaged_checkpoint_is_set_aside_and_no_good_one_is_removed_for_it(tmp_path: Path) -> None:
    write(tmp_path, 2)
    flip(write(tmp_path, 4, val_loss=0.1) / FRAGMENTS, -1)
    assert restore(tmp_path) == restore(tmp_path) == newest_step(tmp_path) == 2
    assert kept(tmp_path, keep=1) == (2,)
    flip(write(tmp_path, 4) / FRAGMENTS, -1)
    assert restore(tmp_path) == 2
    set_aside_incomplete(tmp_path)
    aside = ["damaged-1-step-00000004", "damaged-2-step-00000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*aside, "step-00000002"]
    assert all((tmp_path / name / FRAGMENTS).is_file() for name in aside)


@pytest.mark.parametrize(
    ("name", "place"),
    [*(("checkpoint.json", place) for place in range(1, 160, 13)), (LIST, 0)],
)
def test_a_checkpoint_that_says_what_nobody_wrote_is_set_aside_and_never_removed(
    tmp_path: Path, name: str, place: int
) -> None:
    write(tmp_path, 2)
    flip(write(tmp_path, 4) / name, place)
    set_aside_incomplete(tmp_path)
    assert restore(tmp_path) == newest_step(tmp_path) == 2
    assert (tmp_path / "damaged-1-step-00000004" / name).is_file()
    flip(step_folder(tmp_path, 2) / name, place)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        set_aside_incomplete(tmp_path)
    assert step_folder(tmp_path, 2).is_dir()


def test_one_character_that_changes_in_a_list_of_files_never_removes_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 2)
    folder = write(tmp_path, 4)
    as_written = (folder / LIST).read_bytes()
    digits = as_written.index(b'"size": ') + len(b'"size": ')
    for place in range(len(as_written)):
        flip(folder / LIST, place)
        set_aside_incomplete(tmp_path)
        assert names(tmp_path) == ["damaged-1-step-00000004", "step-00000002"]
        (tmp_path / "damaged-1-step-00000004").rename(folder)
        (folder / LIST).write_bytes(as_written)
    shutil.rmtree(step_folder(tmp_path, 2))
    for place in (digits, as_written.index(b"safetensors")):
        flip(folder / LIST, place)
        with pytest.raises(ValueError, match="none of the 1 checkpoints"):
            set_aside_incomplete(tmp_path)
        (folder / LIST).write_bytes(as_written)
    assert restore(tmp_path) == 4


@pytest.mark.parametrize("name", [LIST, "checkpoint.json", FRAGMENTS])
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
        set_aside_incomplete(tmp_path)
        assert names(tmp_path) == [aside.name, "step-00000002"]
        aside.rename(file.parent)
    assert restore(tmp_path) == 2
    assert f"It is now {aside.name} until a checkpoint as late as it is whole" in caplog.text


@pytest.mark.parametrize("name", [LIST, FRAGMENTS])
def test_a_run_whose_first_checkpoint_was_cut_off_begins_and_keeps_it_till_there_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    file = write(tmp_path, 4) / name
    file.write_bytes(file.read_bytes()[:100])
    set_aside_incomplete(tmp_path)
    assert restore(tmp_path) == 0
    for step in (2, 4):
        assert (tmp_path / "cut-off-step-00000004" / name).is_file()
        write(tmp_path, step)
        prune(tmp_path, CheckpointConfig())
    assert names(tmp_path) == ["step-00000002", "step-00000004"]
    assert "cut-off-step-00000004 is removed: there is a checkpoint of step 4" in caplog.text


def test_copies_that_are_cut_off_at_every_start_do_not_fill_the_disk(tmp_path: Path) -> None:
    write(tmp_path, 2)
    for left in (["cut-off-step-00000004"], []) * 2:
        (write(tmp_path, 4) / FRAGMENTS).write_bytes(b"")
        set_aside_incomplete(tmp_path)
        assert names(tmp_path) == [*left, "step-00000002"]


def test_one_that_was_set_aside_counts_again_once_its_files_are_back(tmp_path: Path) -> None:
    file = write(tmp_path, 4) / FRAGMENTS
    as_written = file.read_bytes()
    file.unlink()
    assert restore(tmp_path) == 0
    (tmp_path / "cut-off-step-00000004" / file.name).write_bytes(as_written)
    assert restore(tmp_path) == 4
    assert names(tmp_path) == ["step-00000004"]


@pytest.mark.parametrize("meanwhile", ["", "cut off", "list damaged"])
def test_what_stands_in_the_place_of_one_whose_files_are_back_gives_way(tmp_path: Path, meanwhile: str) -> None:
    write(tmp_path, 2)
    write(tmp_path, 4).rename(tmp_path / "cut-off-step-00000004")
    if meanwhile == "cut off":
        (write(tmp_path, 4) / FRAGMENTS).unlink()
    if meanwhile == "list damaged":
        flip(write(tmp_path, 4) / LIST, 30)
    assert restore(tmp_path) == newest_step(tmp_path) == 4
    assert names(tmp_path) == [*(["damaged-1-step-00000004"] if meanwhile else []), "step-00000002", "step-00000004"]


@pytest.mark.parametrize("step", [4, 6])
def test_none_is_removed_for_a_later_one_that_proves_damaged(tmp_path: Path, step: int) -> None:
    write(tmp_path, 2)
    write(tmp_path, 4).rename(tmp_path / "cut-off-step-00000004")
    flip(write(tmp_path, step) / FRAGMENTS, -1)
    restore(tmp_path)
    assert restore(tmp_path) == 4


def test_none_is_removed_where_all_others_are_damaged(tmp_path: Path) -> None:
    file = write(tmp_path, 2) / FRAGMENTS
    as_written = file.read_bytes()
    file.unlink()
    flip(write(tmp_path, 4) / FRAGMENTS, -1)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        restore(tmp_path)
    (tmp_path / "cut-off-step-00000002" / FRAGMENTS).write_bytes(as_written)
    assert restore(tmp_path) == 2


def test_a_whole_copy_beside_the_only_one_which_is_damaged_is_named(tmp_path: Path) -> None:
    write(tmp_path, 4).rename(tmp_path / "cut-off-step-00000004")
    damaged = write(tmp_path, 4)
    flip(damaged / FRAGMENTS, -1)
    with pytest.raises(
        ValueError, match="remove step-00000004, and cut-off-step-00000004, which is whole, counts again;"
    ):
        restore(tmp_path)
    shutil.rmtree(damaged)
    assert restore(tmp_path) == 4


def test_a_damaged_one_is_not_removed_for_a_second_copy_that_is_cut_off(tmp_path: Path) -> None:
    flip(write(tmp_path, 4) / LIST, 30)
    (tmp_path / "step-00000004").rename(tmp_path / "cut-off-step-00000004")
    (write(tmp_path, 4) / FRAGMENTS).unlink()
    set_aside_incomplete(tmp_path)
    assert names(tmp_path) == ["cut-off-step-00000004", "damaged-1-cut-off-step-00000004"]


def test_what_others_put_beside_the_checkpoints_stays(tmp_path: Path) -> None:
    for name in ("cut-off-analysis", "cut-off-step-00000002.bak", "step-notes", "step-00000004.being-copied"):
        (tmp_path / name).mkdir()
    for name in ("cut-off-notes.txt", "step-notes.txt", "step-00000006"):
        (tmp_path / name).write_text("of somebody")
    shutil.copytree(write(tmp_path, 4), tmp_path / "step-00000004.bak")
    before = names(tmp_path)
    assert restore(tmp_path) == 4
    prune(tmp_path, CheckpointConfig())
    assert names(tmp_path) == before


def test_one_that_is_not_whole_is_removed_with_a_line_once_a_later_one_was_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (write(tmp_path, 2) / FRAGMENTS).unlink()
    write(tmp_path, 4)
    set_aside_incomplete(tmp_path)
    assert names(tmp_path) == ["cut-off-step-00000002", "step-00000004"]
    assert restore(tmp_path) == 4
    assert names(tmp_path) == ["step-00000004"]
    assert "cut-off-step-00000002 is removed: there is a checkpoint of step 4" in caplog.text


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
    set_aside_incomplete(tmp_path)
    assert names(tmp_path) == ["cut-off-step-00000004", whole.name]
