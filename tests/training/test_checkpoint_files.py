import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.training.small_checkpoint import LIST, RECORD, engine, flip, no_disk, restore, write
from training.checkpoint import write_checkpoint
from training.checkpoint_files import complete_steps, newest_step, read_checkpoint, step_folder
from training.retention import set_aside_incomplete


def test_a_checkpoint_whose_other_rank_is_missing_is_not_whole(tmp_path: Path) -> None:
    folder = step_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    write_checkpoint(engine(), folder, replace(RECORD, num_ranks=2))
    assert complete_steps(tmp_path) == ()


def test_what_another_rank_is_writing_beside_it_is_no_part_of_a_rank_s_share(tmp_path: Path) -> None:
    folder = step_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    half_written = folder / ".rank-00001.safetensors.tmp"
    half_written.write_bytes(b"half")
    write_checkpoint(engine(), folder, RECORD)
    half_written.unlink()
    assert complete_steps(tmp_path) == (2,)


@pytest.mark.parametrize(("function", "name"), [("read_text", "checkpoint.json"), ("stat", "rank-00000.safetensors")])
def test_one_that_the_disk_does_not_show_is_not_taken_for_one_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, name: str
) -> None:
    for step in (2, 4):
        write(tmp_path, step)
    with monkeypatch.context() as patch:
        no_disk(patch, function, name)
        for look in (complete_steps, set_aside_incomplete, restore):
            with pytest.raises(OSError, match=r"Input/output error.*step-00000004"):
                look(tmp_path)
    assert complete_steps(tmp_path) == (2, 4)


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
    for look in (newest_step, set_aside_incomplete, restore):
        with pytest.raises(ValueError, match="was written by another version of longtake; use a new --run"):
            look(checkpoints)
    assert folder.is_dir()


def test_a_checkpoint_without_sums_from_an_older_version_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    sizes = {name: (folder / name).stat().st_size for name in ("checkpoint.json", "rank-00000.safetensors")}
    (folder / LIST).write_text(json.dumps(sizes))
    assert restore(tmp_path) == 2
    flip(folder / "checkpoint.json", 0)
    with pytest.raises(ValueError, match=r"checkpoint\.json is damaged: it is not what was written"):
        read_checkpoint(folder)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        set_aside_incomplete(tmp_path)


def test_a_checkpoint_whose_lists_have_no_sum_of_their_own_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    (folder / LIST).write_text(json.dumps(listed_files(folder), indent=2) + "\n")
    assert restore(tmp_path) == 2
    flip(folder / "rank-00000.safetensors", -1)
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        restore(tmp_path)


def test_a_checkpoint_of_another_version_says_so(tmp_path: Path) -> None:
    record = write(tmp_path, 2) / "checkpoint.json"
    record.write_text(record.read_text().replace("num_updates", "updates"))
    with pytest.raises(ValueError, match="another version of longtake"):
        read_checkpoint(record.parent)


def test_a_checkpoint_that_is_removed_while_it_is_looked_at_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 4):
        write(tmp_path, step)
    real = Path.read_text

    def removed_just_now(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "checkpoint.json" and path.parent.name == "step-00000002":
            path.unlink()
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", removed_just_now)
    assert complete_steps(tmp_path) == (4,)
