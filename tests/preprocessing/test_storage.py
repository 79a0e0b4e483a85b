import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pyarrow as pa
import pytest

from preprocessing import storage as storage_module
from preprocessing.keys import StorageError
from preprocessing.storage import (
    LeaseTaken,
    LocalStorage,
    ObjectStorage,
    Storage,
    iterate_chunks,
    open_storage,
    parquet_bytes,
    read_parquet,
    write_parquet,
)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "data") if request.param == "local" else f"memory://bucket{tmp_path}")


def test_what_is_written_is_read_back_whole_and_by_range(storage: Storage) -> None:
    storage.write_atomic("a/b.bin", b"0123456789")
    assert storage.read_bytes("a/b.bin") == b"0123456789"
    assert storage.read_range("a/b.bin", 3, 4) == b"3456"
    assert storage.size("a/b.bin") == 10
    assert b"".join(iterate_chunks(storage, "a/b.bin", 3)) == b"0123456789"
    with pytest.raises(ValueError, match="shorter than its index"):
        storage.read_range("a/b.bin", 8, 4)


def test_listing_is_sorted_and_below_the_folder_asked_for(storage: Storage) -> None:
    for key in ("b/2.bin", "b/1.bin", "a.bin"):
        storage.write_atomic(key, b"x")
    assert storage.list("b") == ("b/1.bin", "b/2.bin")
    assert storage.list("") == ("a.bin", "b/1.bin", "b/2.bin")
    assert storage.list("none") == ()
    storage.delete("b/1.bin")
    storage.delete("b/1.bin")
    assert not storage.exists("b/1.bin")


def test_an_uploaded_file_moves(storage: Storage, tmp_path: Path) -> None:
    local = tmp_path / "finished"
    local.write_bytes(b"tar")
    storage.upload_atomic("shards/x.tar", local)
    assert storage.read_bytes("shards/x.tar") == b"tar"
    assert not local.exists()


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\\b", "a\0b", "a/"])
def test_no_key_leaves_the_root(storage: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="below the dataset's root"):
        storage.write_atomic(key, b"x")


def test_a_write_that_dies_leaves_the_old_file_and_one_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_atomic("x", b"old")
    monkeypatch.setattr(storage_module, "_fsync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.write_atomic("x", b"new")
    assert storage.read_bytes("x") == b"old"
    assert storage.list("") == ("x",)
    assert len(storage.temporary()) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space left to write .*/x: free some and run the same command again, it goes on from here"),
        (errno.EROFS, "writing .*/x is not permitted \\(Read-only file system\\)"),
    ],
)
def test_a_disk_that_takes_no_more_is_one_clear_line_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    storage = open_storage(str(tmp_path))
    storage.write_atomic("x", b"old")
    monkeypatch.setattr(storage_module, "_fsync", refuse)
    with pytest.raises(StorageError, match=message):
        storage.write_atomic("x", b"new")
    assert (storage.read_bytes("x"), storage.temporary()) == (b"old", ())


def test_a_second_driver_is_told_who_the_first_one_is(storage: Storage) -> None:
    with storage.lease("host a, process 1"), pytest.raises(LeaseTaken) as taken, storage.lease("host b, process 2"):
        pass
    assert taken.value.owner == "host a, process 1"
    with storage.lease("host b, process 2"):
        pass


def test_a_lease_on_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    storage = open_storage(str(tmp_path))
    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        with pytest.raises(StorageError, match=r"no space left to write .*/\.lease: free some"), storage.lease("ann"):
            pass
    with storage.lease("bob"):
        assert (tmp_path / ".lease").read_text() == "bob"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_that_locks_no_files_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as lockless:
        lockless.setattr(fcntl, "flock", refuse)
        expected = rf"^{tmp_path} is on a file system that locks no files \({os.strerror(code)}\).* another disk$"
        with pytest.raises(StorageError, match=expected), open_storage(str(tmp_path)).lease("ann"):
            pass
    with open_storage(str(tmp_path)).lease("bob"):
        assert (tmp_path / ".lease").read_text() == "bob"


def _hold_and_die(root: str) -> None:
    import os

    with open_storage(root).lease("the dead one"):
        os._exit(9)


def test_a_killed_driver_frees_its_lease(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(str(tmp_path),))
    process.start()
    process.join()
    with open_storage(str(tmp_path)).lease("the next one"):
        assert (tmp_path / ".lease").read_text() == "the next one"


def test_an_object_store_lease_without_heartbeat_goes_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage("memory://stale")
    storage.write_atomic(".lease", b'{"owner": "the dead one", "time_s": 0}')
    with storage.lease("the next one"):
        assert b"the next one" in storage.read_bytes(".lease")


def test_equal_tables_are_equal_bytes_and_read_back(storage: Storage) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})
    assert parquet_bytes(table) == parquet_bytes(pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]}))
    write_parquet(storage, "t.parquet", table)
    assert read_parquet(storage, "t.parquet").equals(table)
    assert read_parquet(storage, "t.parquet", ["b"]).column_names == ["b"]


@pytest.mark.parametrize("change", ["a bit flipped", "cut short", "empty"])
def test_a_table_that_is_not_what_was_written_is_named(storage: Storage, change: str) -> None:
    written = parquet_bytes(pa.table({"a": range(1000)}))
    middle = len(written) // 3  # of the pages, before the footer
    flipped = written[:middle] + bytes([written[middle] ^ 1]) + written[middle + 1 :]
    data = {"a bit flipped": flipped, "cut short": written[:middle], "empty": b""}[change]
    storage.write_atomic("t.parquet", data)
    with pytest.raises(ValueError, match=r"t\.parquet is not what was written"):
        read_parquet(storage, "t.parquet")


def test_schemes_choose_the_place_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    assert isinstance(open_storage(f"file://{tmp_path}"), LocalStorage)
    assert isinstance(open_storage("memory://x"), ObjectStorage)
    with pytest.raises(ValueError, match="unknown scheme nonsense://"):
        open_storage("nonsense://bucket")


def test_a_scheme_without_its_library_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def absent(scheme: str) -> None:
        raise ImportError(f"Install {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(ValueError, match="pip install s3fs"):
        open_storage("s3://bucket/prefix")
