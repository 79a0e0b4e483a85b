"""A file on this machine for decoders: local ones as they are, those of buckets downloaded first.

A process keeps one download at a time, because clips and spans of one video follow each other, and removes it when it needs
another or ends. What killed processes left is removed by the next one on their machine.
"""

import atexit
import errno
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from preprocessing.input_files import is_remote
from preprocessing.keys import DISK_FULL, StorageError
from preprocessing.process_folder import process_folder
from preprocessing.storage import open_object_store

_PREFIX = "longtake-downloads-"
_ATTEMPTS = 3
_PAUSE_S = 2.0
"""Before the second attempt; twice as long before each later one."""
_SPARE_BYTES = 64 << 20
"""Left free on the disk that downloads go to."""


class NoRoom(StorageError):
    """This machine's disk is full: no video is to blame, and the run should end."""


@cache
def process_downloads() -> "Downloads":
    """The downloads of this process."""
    return Downloads()


@dataclass(frozen=True, kw_only=True)
class _Kept:
    location: str
    content_id: str
    path: Path


class Downloads:
    """The last download of this process, in a folder of its own."""

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Nothing downloaded yet."""
        self._kept: _Kept | None = None
        self._folder: Path | None = None
        self._sleep = sleep
        self._hashed = ("", "", "")

    def local_path(self, location: str, content_id: str) -> str:
        """Where the file is on this machine; downloads it where it is in a bucket.

        Args:
            location: An absolute path or a URI.
            content_id: A download of another content is not used again.

        Raises:
            FileNotFoundError: If a bucket does not have it.
            NoRoom: If this machine has no room for it now.
            StorageError: If the store does not hand it out, or it is larger than this machine's disk.
        """
        if not is_remote(location):
            return location
        if self._kept is None or (self._kept.location, self._kept.content_id) != (location, content_id):
            self._forget()
            self._kept = _Kept(location=location, content_id=content_id, path=self._download(location))
        return str(self._kept.path)

    def sha256(self, location: str, content_id: str) -> str:
        """Of the file's bytes, in hex; empty where a local file cannot be read. Raises what `local_path` raises."""
        if self._hashed[:2] != (location, content_id):
            self._hashed = (location, content_id, file_sha256(self.local_path(location, content_id)))
        return self._hashed[2]

    def close(self) -> None:
        """Remove the download."""
        self._forget()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept.path.unlink(missing_ok=True)
            self._kept = None

    def _download(self, location: str) -> Path:
        scheme, _, rest = location.partition("://")
        bucket, _, key = rest.partition("/")
        store = open_object_store(scheme, bucket)
        path = self._own_folder() / f"video{Path(key).suffix}"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _refuse_without_room(location, store.size(key), path.parent)
                store.download(key, path)
                return path
            except StorageError as error:
                path.unlink(missing_ok=True)
                if attempt == _ATTEMPTS:
                    raise _blamed(error) from error
                self._sleep(_PAUSE_S * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _own_folder(self) -> Path:
        if self._folder is None:
            self._folder = process_folder(_PREFIX)
            atexit.register(self.close)
        return self._folder


def _blamed(error: StorageError) -> StorageError:
    return NoRoom(str(error)) if error.errno in DISK_FULL else error


def _refuse_without_room(location: str, size_bytes: int, folder: Path) -> None:
    disk = shutil.disk_usage(folder)
    if size_bytes + _SPARE_BYTES > disk.free:
        error = StorageError(
            f"no room for {location} in {folder.parent}: it has {size_bytes / 1e6:.0f} MB, and {disk.free / 1e6:.0f} MB of "
            f"{disk.total / 1e6:.0f} are free; free some, or let TMPDIR name a larger disk, and run the same command again"
        )
        error.errno = errno.ENOSPC if size_bytes + _SPARE_BYTES <= disk.total else None
        raise error


def file_sha256(path: str) -> str:
    """SHA-256 of a local file, in hex; empty if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
