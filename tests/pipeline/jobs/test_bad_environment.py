"""A full disk, a read-only target, two drivers at once: one clear line, nothing spoiled, and the same command goes on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.runs import faults, shards_and_manifest
from pipeline.cli import FAILED, WRONG
from preprocessing.dataset import Dataset
from preprocessing.rendering.demo_set import write_film
from preprocessing.rendering.takes import takes
from preprocessing.storage import LocalStorage
from tests.pipeline.commands import Done, longtake

MIB = 1 << 20


def words(videos: Path, dataset: Path) -> list[str]:
    return ["preprocess", str(videos), "--dataset", str(dataset), "--tracking-uri", "none", "--json"]


def preprocess(videos: Path, dataset: Path) -> Done:
    """In a process of its own: whatever a library says beside our line counts."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *words(videos, dataset)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    return Done(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def preprocess_here(videos: Path, dataset: Path) -> Done:
    return longtake(*words(videos, dataset))


@contextmanager
def small_disk(folder: Path, size: int, *options: str) -> Iterator[Path]:
    """A file system of its own; needs root."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def grow(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for film in takes()[:2]:
        write_film(film, folder, seed=1)
    return folder


def assert_one_line(done: Done, status: int, *words: str) -> None:
    assert (done.status, done.stderr.count("\n")) == (status, 1), done.stderr
    assert done.stderr.startswith("longtake: ")
    for word in words:
        assert word in done.stderr


def test_a_target_that_cannot_be_written_is_one_line(videos: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MIB, "ro") as disk:
        assert_one_line(preprocess(videos, disk / "d"), FAILED, "Read-only", str(disk / "d"))


def test_a_file_where_the_dataset_should_be_is_one_line(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "d").write_text("in the way")
    assert_one_line(preprocess(videos, tmp_path / "d"), WRONG, f"{tmp_path / 'd'} is a file; expected a folder")
    assert_one_line(preprocess(videos, tmp_path / "d" / "e"), WRONG, f"{tmp_path / 'd'} is a file; expected a folder")
    assert (tmp_path / "d").read_text() == "in the way"


def test_a_second_driver_names_the_first_and_changes_nothing(videos: Path, tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "d"))
    before = dataset.storage.list("")
    with dataset.storage.lease("somebody on some host, process 7"):
        assert_one_line(preprocess(videos, tmp_path / "d"), FAILED, "somebody on some host, process 7")
    assert [key for key in dataset.storage.list("") if key != ".lease"] == list(before)


def test_inputs_that_are_not_there_are_a_wrong_command(tmp_path: Path) -> None:
    assert_one_line(preprocess(tmp_path / "nothing", tmp_path / "d"), WRONG, "nothing")


def test_a_write_that_fails_leaves_no_half_written_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        storage = LocalStorage(root=disk)
        storage.write_atomic("a", b"whole")
        for write in (storage.write_atomic, lambda key, data: _upload(storage, tmp_path, key, data)):
            with pytest.raises(OSError, match="no space left"):
                write("a", bytes(1 << 20))
        assert storage.list("") == ("a",)
        assert storage.temporary() == ()
        assert storage.read_bytes("a") == b"whole"


def _upload(storage: LocalStorage, tmp_path: Path, key: str, data: bytes) -> None:
    (tmp_path / "local").write_bytes(data)
    storage.upload_atomic(key, tmp_path / "local")


@pytest.mark.ray
@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_the_same_command_finishes_when_it_is_larger(
    videos: Path, local_ray: None, tmp_path: Path
) -> None:
    assert preprocess_here(videos, tmp_path / "expected").status == 0
    expected = shards_and_manifest(tmp_path / "expected")
    used = sum(path.stat().st_size for path in (tmp_path / "expected" / "shards").rglob("*") if path.is_file())
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        assert_one_line(preprocess(videos, disk / "d"), FAILED, "no space left", "goes on from here")
        grow(disk, used)  # enough for the ledger, not for a shard beside it
        assert_one_line(preprocess_here(videos, disk / "d"), FAILED, "no space left", "goes on from here")
        grow(disk, 4 * used + MIB)
        assert preprocess_here(videos, disk / "d").status == 0
        assert faults(disk / "d", expected, {}) == []
