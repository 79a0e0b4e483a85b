"""A prefix of a bucket as a dataset's place, and buckets as places of raw videos; through fsspec's file systems.

Listings are never taken from a cache: another driver may have written. Errors of the store's client become one line that names the
object. While an instance holds the lease, every write asks first whether it still does.
"""

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from preprocessing.keys import StorageError, StoreUnreachable, checked_key, explained_writes, whole
from preprocessing.lease import HeartbeatLease

_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "urllib3")
"""Libraries whose own exceptions reach us."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """An object of a listing: its size, and a text that changes with its content."""

    size_bytes: int
    version: str


@dataclass(frozen=True, kw_only=True)
class ObjectStorage:
    """A prefix of a bucket; puts are atomic there, renames don't exist."""

    scheme: str
    root: str
    filesystem: Any
    _held: list[HeartbeatLease] = field(default_factory=list)

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

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Errors of the store as one line."""
        place = f"{self.uri}/{key}".rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{place}: {error}") from error
        except (FileExistsError, StorageError):
            raise
        except PermissionError as error:
            raise StorageError(f"{place}: the store does not permit it: {error}") from error
        except OSError as error:
            raise StorageError(f"{place}: {error}") from error
        except Exception as error:
            if not type(error).__module__.startswith(_CLIENTS):
                raise
            raise StoreUnreachable(f"{place} cannot be reached: {error}; are address and credentials right?") from error

    # --- a dataset's files ---

    def read_bytes(self, key: str) -> bytes:
        """All bytes of an object."""
        with self._asking(key):
            return self.filesystem.cat_file(self._path(key))

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """One range request."""
        with self._asking(key):
            found = self.filesystem.cat_file(self._path(key), start=offset, end=offset + size)
        return whole(found, key, offset, size)

    def write_atomic(self, key: str, data: bytes) -> None:
        """One put."""
        self._check_lease()
        with self._asking(key):
            self.filesystem.pipe_file(self._path(key), data)

    def upload_atomic(self, key: str, local_path: Path) -> None:
        """One put, multipart if large, which the store publishes as one."""
        self._check_lease()
        with self._asking(key):
            self.filesystem.put_file(str(local_path), self._path(key))
        local_path.unlink()

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.file(key) is not None

    def size(self, key: str) -> int:
        """Bytes of an object."""
        found = self.file(key)
        if found is None:
            raise FileNotFoundError(f"{self.uri}/{key}")
        return found.size_bytes

    def list(self, prefix: str) -> tuple[str, ...]:
        """Sorted keys of the objects below a prefix."""
        return tuple(sorted(self.files(prefix)))

    def temporary(self) -> tuple[str, ...]:
        """None: an unfinished put is never seen."""
        return ()

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._check_lease()
        with self._asking(key):
            try:
                self.filesystem.rm_file(self._path(key))
            except FileNotFoundError:
                return

    # --- the lease ---

    @contextmanager
    def lease(self, owner: str) -> Generator[None]:
        """A heartbeat object, because object stores have no locks."""
        with HeartbeatLease(self, owner) as held:
            self._held.append(held)
            try:
                yield
            finally:
                self._held.remove(held)

    def _check_lease(self) -> None:
        for held in self._held:
            held.check()

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Bytes and version of an object, None if there is none; of one state of it."""
        with self._asking(key):
            while (before := self.file(key)) is not None:
                try:
                    data = self.filesystem.cat_file(self._path(key))
                except FileNotFoundError:
                    continue
                if self.file(key) == before:
                    return data, before.version
        return None

    def write_version(self, key: str, data: bytes, replaces: str | None) -> str:
        """Write if the object still has this version (None: if there is none), and give the new one.

        Raises:
            FileExistsError: If it has another version; a store without conditional puts may miss one of the same moment.
        """
        current = self.file(key)
        if (current.version if current else None) != replaces:
            raise FileExistsError(f"{self.uri}/{key} has changed")
        condition = {"mode": "create"} if replaces is None else {"IfMatch": replaces} if self.scheme == "s3" else {}
        with self._asking(key), _conflicts_as_existing():
            self.filesystem.pipe_file(self._path(key), data, **condition)
        written = self.file(key)
        return written.version if written else ""

    # --- raw videos ---

    def file(self, key: str) -> RemoteFile | None:
        """What the store says of an object now, None if there is none."""
        with self._asking(key):
            self.filesystem.invalidate_cache()
            try:
                info = self.filesystem.info(self._path(key))
            except FileNotFoundError:
                return None
        return _remote_file(info) if info["type"] == "file" else None

    def files(self, prefix: str) -> Mapping[str, RemoteFile]:
        """All objects below a folder, by key; "" for the root."""
        top = self._path(prefix) if prefix else self.root
        with self._asking(prefix):
            self.filesystem.invalidate_cache()
            try:
                return self._by_key(self.filesystem.find(top, detail=True))
            except FileNotFoundError:  # there is no such bucket
                return {}

    def glob(self, pattern: str) -> Mapping[str, RemoteFile]:
        """All objects whose key matches, by key."""
        with self._asking(pattern):
            self.filesystem.invalidate_cache()
            return self._by_key(self.filesystem.glob(f"{self.root}/{pattern}", detail=True))

    def _by_key(self, found: Mapping[str, Mapping]) -> dict[str, RemoteFile]:
        infos = {str(path).lstrip("/").removeprefix(f"{self.root}/"): info for path, info in found.items()}
        return {
            key: _remote_file(info)
            for key, info in infos.items()
            if info["type"] == "file" and not key.endswith("/")  # folders that a console made are empty objects
        }

    def read_many(self, keys: Collection[str]) -> Mapping[str, bytes | Exception]:
        """Small objects, read beside each other; what went wrong in the place of one that cannot be read."""
        if not keys:
            return {}
        by_path = {self._path(key): key for key in keys}
        with self._asking(""):
            found = self.filesystem.cat(list(by_path), on_error="return")
        return {by_path[str(path).lstrip("/")]: data for path, data in found.items()}

    def open(self, key: str) -> BinaryIO:
        """An object as a stream of bytes."""
        with self._asking(key):
            return self.filesystem.open(self._path(key), "rb")

    def download(self, key: str, local_path: Path) -> None:
        """Copy an object to a local file."""
        with self._asking(key), explained_writes(str(local_path)):
            self.filesystem.get_file(self._path(key), str(local_path))


def _remote_file(info: Mapping) -> RemoteFile:
    """The version is the etag, Google's generation, or the time of the last change, whichever the store has."""
    names = ("ETag", "etag", "generation", "LastModified", "mtime", "created")
    version = next((str(info[name]) for name in names if info.get(name)), "")
    return RemoteFile(size_bytes=int(info["size"]), version=version.strip('"'))


@contextmanager
def _conflicts_as_existing() -> Iterator[None]:
    """S3's answers to a conditional put that lost."""
    try:
        yield
    except OSError as error:
        code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
        if isinstance(error, FileNotFoundError) or code in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
            raise FileExistsError(str(error)) from error
        raise
