"""Where a dataset's bytes live: a local folder or an object store behind one interface.

The only home of fsspec. Keys are relative POSIX paths below the root; no key may leave it. Whatever is written appears
whole or not at all: a unique temporary name and a rename locally, one put on an object store.
"""

import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Event, Thread
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY_SUFFIX = ".tmp"
"""Names that end so are half-written files of a dead process; `Storage.list` hides them."""

LEASE_KEY = ".lease"
HEARTBEAT_S = 10.0
"""An object-store lease is renewed this often, and is free when six beats are missed."""

EXTRAS = {"s3": "s3fs", "gs": "gcsfs"}
"""Which distribution gives fsspec each scheme."""


class LeaseTaken(Exception):
    """Another driver writes this dataset; `owner` says which."""

    def __init__(self, owner: str) -> None:
        """Keep the owner for the caller's message."""
        super().__init__(f"another driver is at work on this dataset: {owner or 'unknown owner'}")
        self.owner = owner


class Storage(Protocol):
    """What the rest of the package may ask of a place; `open_storage` makes one."""

    @property
    def uri(self) -> str:
        """The root, as `open_storage` takes it."""
        ...

    def read_bytes(self, key: str) -> bytes:
        """All bytes of a file; FileNotFoundError if there is none."""
        ...

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; ValueError where the file ends before."""
        ...

    def write_atomic(self, key: str, data: bytes) -> None:
        """Write a file that is seen whole or not at all, replacing an older one."""
        ...

    def upload_atomic(self, key: str, local_path: Path) -> None:
        """Move a finished local file here; it is gone from `local_path` afterwards."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        ...

    def size(self, key: str) -> int:
        """Bytes of a file; FileNotFoundError if there is none."""
        ...

    def list(self, prefix: str) -> tuple[str, ...]:
        """Sorted keys of all files below the folder `prefix` ("" for all), temporary ones left out."""
        ...

    def temporary(self) -> tuple[str, ...]:
        """Sorted keys of half-written files that dead processes left."""
        ...

    def delete(self, key: str) -> None:
        """Remove a file; nothing happens if there is none."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Where the file is on this machine's disk, None on an object store."""
        ...

    def lease(self, owner: str) -> AbstractContextManager[None]:
        """Hold the right to write while the context is open; LeaseTaken if another driver holds it."""
        ...


def open_storage(uri: str) -> Storage:
    """A local path, ``file://``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    Raises:
        ValueError: If the scheme is unknown or its library is not installed.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return LocalStorage(root=Path(rest if separator else uri).absolute())
    return ObjectStorage(scheme=scheme, root=rest.strip("/"), filesystem=_filesystem(scheme))


def _filesystem(scheme: str) -> Any:  # noqa: ANN401  fsspec's classes have no types
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        extra = EXTRAS.get(scheme, scheme)
        raise ValueError(f"{scheme}:// needs a library that is not installed: pip install {extra}") from error
    except ValueError as error:
        raise ValueError(f"unknown scheme {scheme}://; use a local path, s3:// or gs://") from error


def checked_key(key: str) -> str:
    """The key itself, if it is a plain relative path.

    Raises:
        ValueError: If it is empty, absolute, or climbs out of the root.
    """
    plain = bool(key) and "\0" not in key and "\\" not in key and not key.startswith("/")
    if not plain or str(PurePosixPath(key)) != key or ".." in PurePosixPath(key).parts:
        raise ValueError(f"{key!r} is not a path below the dataset's root")
    return key


@dataclass(frozen=True, kw_only=True)
class LocalStorage:
    """A folder on a local or shared disk."""

    root: Path

    @property
    def uri(self) -> str:
        """The root, as `open_storage` takes it."""
        return str(self.root)

    def local_path(self, key: str) -> Path | None:
        """Where the file is."""
        return self._path(key)

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def read_bytes(self, key: str) -> bytes:
        """All bytes of a file."""
        return self._path(key).read_bytes()

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`."""
        with self._path(key).open("rb") as file:
            file.seek(offset)
            return _whole(file.read(size), key, offset, size)

    def write_atomic(self, key: str, data: bytes) -> None:
        """Temporary name, fsync, rename, fsync of the folder."""
        temporary = self._temporary_path(key)
        with temporary.open("wb") as file:
            file.write(data)
        self._publish(temporary, key)

    def upload_atomic(self, key: str, local_path: Path) -> None:
        """A rename where both lie on one disk, else a copy beside the target first."""
        temporary = self._temporary_path(key)
        try:
            local_path.replace(temporary)
        except OSError:  # another disk: EXDEV
            shutil.copyfile(local_path, temporary)
            local_path.unlink()
        self._publish(temporary, key)

    def _temporary_path(self, key: str) -> Path:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")

    def _publish(self, temporary: Path, key: str) -> None:
        path = self._path(key)
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        """Bytes of a file."""
        return self._path(key).stat().st_size

    def list(self, prefix: str) -> tuple[str, ...]:
        """Sorted keys of the files below a folder."""
        return tuple(key for key in self._files(prefix) if not key.endswith(TEMPORARY_SUFFIX))

    def temporary(self) -> tuple[str, ...]:
        """Half-written files."""
        return tuple(key for key in self._files("") if key.endswith(TEMPORARY_SUFFIX))

    def _files(self, prefix: str) -> tuple[str, ...]:
        top = self._path(prefix) if prefix else self.root
        return tuple(sorted(path.relative_to(self.root).as_posix() for path in top.rglob("*") if path.is_file()))

    def delete(self, key: str) -> None:
        """Remove a file."""
        self._path(key).unlink(missing_ok=True)

    @contextmanager
    def lease(self, owner: str) -> Generator[None]:
        """An flock: the kernel frees it when the process dies, whatever killed it."""
        import fcntl

        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LEASE_KEY).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LeaseTaken((self.root / LEASE_KEY).read_text()) from error
            _overwrite(file, owner)
            try:
                yield
            finally:
                _overwrite(file, "")


def _overwrite(file: io.TextIOWrapper, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole(data: bytes, key: str, offset: int, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{key} ends before byte {offset + size}: it is shorter than its index says")
    return data


@dataclass(frozen=True, kw_only=True)
class ObjectStorage:
    """A prefix of a bucket; puts are atomic there, renames don't exist."""

    scheme: str
    root: str
    filesystem: Any

    @property
    def uri(self) -> str:
        """The root, as `open_storage` takes it."""
        return f"{self.scheme}://{self.root}"

    def local_path(self, key: str) -> Path | None:
        """None: not on this machine."""
        checked_key(key)
        return None

    def _path(self, key: str) -> str:
        return f"{self.root}/{checked_key(key)}"

    def read_bytes(self, key: str) -> bytes:
        """All bytes of an object."""
        return self.filesystem.cat_file(self._path(key))

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """One range request."""
        return _whole(self.filesystem.cat_file(self._path(key), start=offset, end=offset + size), key, offset, size)

    def write_atomic(self, key: str, data: bytes) -> None:
        """One put."""
        self.filesystem.pipe_file(self._path(key), data)

    def upload_atomic(self, key: str, local_path: Path) -> None:
        """One put, multipart if large, which the store publishes as one."""
        self.filesystem.put_file(str(local_path), self._path(key))
        local_path.unlink()

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        self.filesystem.invalidate_cache()
        return self.filesystem.isfile(self._path(key))

    def size(self, key: str) -> int:
        """Bytes of an object."""
        return int(self.filesystem.info(self._path(key))["size"])

    def list(self, prefix: str) -> tuple[str, ...]:
        """Sorted keys of the objects below a prefix."""
        self.filesystem.invalidate_cache()
        top = self._path(prefix) if prefix else self.root
        found = (str(path).lstrip("/").removeprefix(self.root + "/") for path in self.filesystem.find(top))
        return tuple(sorted(found))

    def temporary(self) -> tuple[str, ...]:
        """None: an unfinished put is never seen."""
        return ()

    def delete(self, key: str) -> None:
        """Remove an object."""
        if self.exists(key):
            self.filesystem.rm_file(self._path(key))

    @contextmanager
    def lease(self, owner: str) -> Generator[None]:
        """A heartbeat object, because object stores have no locks.

        Two drivers that start within one round trip of a store without conditional puts are told apart by who wrote
        last: each reads its own name back before it goes on.
        """
        holder = self._holder()
        if holder is not None:
            raise LeaseTaken(holder)
        self._beat(owner)
        if self._holder() != owner:
            raise LeaseTaken(self._holder() or "")
        stopped = Event()
        beater = Thread(target=self._keep_beating, args=(owner, stopped), daemon=True)
        beater.start()
        try:
            yield
        finally:
            stopped.set()
            beater.join()
            self.delete(LEASE_KEY)

    def _holder(self) -> str | None:
        if not self.exists(LEASE_KEY):
            return None
        beat = json.loads(self.read_bytes(LEASE_KEY))
        fresh = time.time() - float(beat["time_s"]) < 6 * HEARTBEAT_S
        return str(beat["owner"]) if fresh else None

    def _beat(self, owner: str) -> None:
        self.write_atomic(LEASE_KEY, json.dumps({"owner": owner, "time_s": time.time()}).encode())

    def _keep_beating(self, owner: str, stopped: Event) -> None:
        while not stopped.wait(HEARTBEAT_S):
            self._beat(owner)


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as Parquet; equal tables give equal bytes (options pinned, no times, no host)."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, version="2.6", data_page_version="1.0", compression="zstd", compression_level=3,
        use_dictionary=False, write_statistics=True, write_page_checksum=True, row_group_size=65536,
    )  # fmt: skip
    return sink.getvalue().to_pybytes()


def write_parquet(storage: Storage, key: str, table: pa.Table) -> None:
    """Write a table under a key, atomically."""
    storage.write_atomic(key, parquet_bytes(table))


def read_parquet(storage: Storage, key: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns; a local file is mapped, not copied.

    Raises:
        OSError: If a page's checksum is wrong.
        ValueError: If it is no Parquet file.
    """
    path = storage.local_path(key)
    source = path if path is not None else pa.BufferReader(storage.read_bytes(key))
    return pq.read_table(
        source, columns=columns, partitioning=None, memory_map=path is not None, page_checksum_verification=True
    )


def iterate_chunks(storage: Storage, key: str, chunk_bytes: int) -> Iterator[bytes]:
    """A file's bytes in order, in pieces, so that a shard never sits in memory whole."""
    size = storage.size(key)
    for offset in range(0, size, chunk_bytes):
        yield storage.read_range(key, offset, min(chunk_bytes, size - offset))
