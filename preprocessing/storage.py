"""Where a dataset's bytes live: a local folder or an object store behind one interface.

The only home of fsspec, whose object stores `object_store` wraps. Keys are relative POSIX paths below the root; no key may leave it. Whatever is written appears
whole or not at all: a unique temporary name and a rename locally, one put on an object store.
"""

import io
import os
import shutil
import uuid
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from errno import ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP, EXDEV
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.folders import refuse_file
from preprocessing.keys import StorageError, checked_key, explained_writes, whole
from preprocessing.lease import LEASE_KEY, LeaseTaken
from preprocessing.object_store import ObjectStorage

TEMPORARY_SUFFIX = ".tmp"
"""Names that end so are half-written files of a dead process; `Storage.list` hides them."""

_NO_LOCKS = (ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP)
"""What a file system says that knows no flock, or whose server for it does not answer."""

EXTRAS = {"s3": "s3fs", "gs": "gcsfs"}
"""Which distribution gives fsspec each scheme."""


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
        ValueError: If it is empty, a file, the scheme is unknown or its library is not installed.
    """
    if not uri:
        raise ValueError("an empty path names no dataset; is a variable unset?")
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        root = Path(rest if separator else uri).absolute()
        refuse_file(root)
        return LocalStorage(root=root)
    return open_object_store(scheme, rest)


def open_object_store(scheme: str, root: str) -> ObjectStorage:
    """A bucket, or a prefix of one.

    Raises:
        ValueError: If the scheme is unknown or its library is not installed.
    """
    return ObjectStorage(scheme=scheme, root=root.strip("/"), filesystem=_filesystem(scheme))


def _filesystem(scheme: str) -> Any:  # noqa: ANN401  fsspec's classes have no types
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        extra = EXTRAS.get(scheme, scheme)
        raise ValueError(f"{scheme}:// needs a library that is not installed: pip install {extra}") from error
    except ValueError as error:
        raise ValueError(f"unknown scheme {scheme}://; use a local path, s3:// or gs://") from error


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
            return whole(file.read(size), key, offset, size)

    def write_atomic(self, key: str, data: bytes) -> None:
        """Temporary name, fsync, rename, fsync of the folder."""
        with self._writing(key) as temporary, temporary.open("wb") as file:
            file.write(data)

    def upload_atomic(self, key: str, local_path: Path) -> None:
        """A rename where both lie on one disk, else a copy beside the target first."""
        with self._writing(key) as temporary:
            try:
                local_path.replace(temporary)
            except OSError as error:
                if error.errno != EXDEV:  # another disk
                    raise
                shutil.copyfile(local_path, temporary)
                local_path.unlink()

    @contextmanager
    def _writing(self, key: str) -> Generator[Path]:
        """A temporary name that becomes the file if the block ends well, and is removed if the disk fails."""
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        with explained_writes(str(path)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                yield temporary
                _fsync(temporary)
                temporary.replace(path)
                _fsync(path.parent)
            except OSError:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise

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
        """An flock: the kernel frees it when the process dies, whatever killed it.

        Raises:
            LeaseTaken: If another driver holds it.
            StorageError: If the file system knows no locks.
        """
        with self._lease_file() as file:
            self._lock(file)
            with explained_writes(str(self.root / LEASE_KEY)):
                _overwrite(file, owner)
            try:
                yield
            finally:
                _overwrite(file, "")

    def _lock(self, file: io.FileIO) -> None:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseTaken((self.root / LEASE_KEY).read_text()) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise StorageError(
                f"{self.root} is on a file system that locks no files ({error.strerror}), so two drivers could write there at"
                " once: have it mounted with locks (NFS with a lock manager, Lustre with -o flock), or choose another disk"
            ) from error

    def _lease_file(self) -> io.FileIO:
        with explained_writes(str(self.root)):
            self.root.mkdir(parents=True, exist_ok=True)
            return (self.root / LEASE_KEY).open(
                "ab", buffering=0
            )  # else closing writes once more what a full disk refused


def _overwrite(file: io.FileIO, text: str) -> None:
    file.truncate(0)
    os.write(file.fileno(), text.encode())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        FileNotFoundError: If there is none.
        ValueError: If it is no Parquet file, or not the one that was written.
    """
    path = storage.local_path(key)
    source = pa.memory_map(str(path)) if path is not None else pa.BufferReader(storage.read_bytes(key))
    try:
        return _table_of(source, columns)
    except (OSError, ValueError) as error:  # pyarrow's OSError is of a page's checksum: the file is open already
        raise ValueError(f"{key} is not what was written: {error}") from error


def parquet_table(data: bytes) -> pa.Table:
    """The table of :func:`parquet_bytes`."""
    return _table_of(pa.BufferReader(data), columns=None)


def _table_of(source: pa.NativeFile, columns: list[str] | None) -> pa.Table:
    # not pq.read_table: it imports pyarrow.dataset, and with it pandas, and now and then aborts a process that ends soon after
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        return file.read(columns=columns)


def iterate_chunks(storage: Storage, key: str, chunk_bytes: int) -> Iterator[bytes]:
    """A file's bytes in order, in pieces, so that a shard never sits in memory whole."""
    size = storage.size(key)
    for offset in range(0, size, chunk_bytes):
        yield storage.read_range(key, offset, min(chunk_bytes, size - offset))
