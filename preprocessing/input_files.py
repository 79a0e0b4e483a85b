"""Where raw videos lie: local folders, and buckets, behind one interface. A location is an absolute path or a URI.

Buckets are listed folder by folder, and what was listed is not asked for again.
"""

import glob
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from preprocessing.keys import StorageError, StoreUnreachable, is_key
from preprocessing.object_store import ObjectStorage, RemoteFile
from preprocessing.storage import open_object_store

_ASK_FIRST = 50
"""So many objects of a table are asked for one by one, before their folders are listed."""

ABSENT = "absent"
"""Content id of a file that is not there."""

UNREADABLE = "unreadable: "
"""Content ids of what cannot be looked at begin so; the reason follows."""

NOT_A_FILE = f"{UNREADABLE}not a file"
"""Content id of a pipe, a socket or a device: opening one may wait for ever."""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What tells one content from another without reading it.

    Attributes:
        content_id: Size and modification time in nanoseconds, or etag; `ABSENT`; or why it cannot be told.
        size_bytes: None where it cannot be told.
    """

    content_id: str
    size_bytes: int | None = None


class InputFiles(Protocol):
    """What listing inputs asks of a place."""

    def absolute(self, given: str) -> str:
        """The location that was meant; links are not followed, because the name given counts."""
        ...

    def is_folder(self, location: str) -> bool:
        """Whether there is such a folder."""
        ...

    def facts(self, location: str) -> FileFacts:
        """Of a file."""
        ...

    def walk(self, folder: str, unreadable: set[str]) -> Iterator[str]:
        """All files below a folder; folders that cannot be read go into `unreadable`, with the reason."""
        ...

    def glob(self, pattern: str) -> Iterator[str]:
        """All files that match, sorted."""
        ...

    def open(self, location: str) -> BinaryIO:
        """A file's bytes."""
        ...

    def read_many(self, locations: Iterable[str]) -> Mapping[str, bytes | Exception]:
        """Small files; what went wrong in the place of one that cannot be read."""
        ...


def is_remote(location: str) -> bool:
    """Whether a location is in a bucket."""
    return "://" in location


def input_files(given: str) -> InputFiles:
    """The place of a location.

    Raises:
        ValueError: If its scheme is unknown or its library is not installed.
    """
    if not is_remote(given):
        return LocalFiles()
    scheme, _, rest = given.partition("://")
    if scheme in ("http", "https"):
        raise ValueError(f"{given}: web addresses are not supported; give a local path, s3:// or gs://")
    return BucketFiles(open_object_store(scheme, rest.partition("/")[0]))


def shown(location: str) -> str:
    """For people, also where a name is not UTF-8."""
    return os.fsencode(location).decode("utf-8", "backslashreplace")


class InputPlaces:
    """This machine and the buckets that were named, each opened once."""

    def __init__(self) -> None:
        """Nothing opened yet."""
        self._opened: dict[str, InputFiles] = {}
        self._away: set[str] = set()

    def of(self, location: str) -> InputFiles:
        """The place that a location is in."""
        root = _root(location)
        if root not in self._opened:
            self._opened[root] = input_files(location)
        return self._opened[root]

    def is_absent(self, location: str) -> bool:
        """Whether there is no such file.

        Raises:
            StorageError: If its place cannot be asked.
            ValueError: If its scheme is unknown or its library is not installed.
        """
        return self.of(location).facts(location).content_id == ABSENT

    def is_gone(self, location: str) -> bool:
        """Whether there is surely no such file: a place that cannot be asked says nothing."""
        return self._content_id(location) == ABSENT

    def is_there(self, location: str) -> bool:
        """Whether there surely is something of that name, readable or not."""
        return self._content_id(location) not in (None, ABSENT)

    def is_readable(self, location: str) -> bool:
        """Whether there surely is such a file, and nothing is known that forbids to read it."""
        return self.is_there(location) and not str(self._content_id(location)).startswith(UNREADABLE)

    def _content_id(self, location: str) -> str | None:
        """None where its place does not say; one that does not answer at all is not asked again."""
        root = _root(location)
        if root in self._away:
            return None
        try:
            return self.of(location).facts(location).content_id
        except (StoreUnreachable, ValueError):  # or there is no library for it here
            self._away.add(root)
        except StorageError:
            pass
        return None

    def read_many(self, locations: Iterable[str]) -> Mapping[str, bytes | Exception]:
        """Small files, wherever they are; what went wrong in the place of one that cannot be read."""
        by_place: dict[int, tuple[InputFiles, list[str]]] = {}
        for location in locations:
            files = self.of(location)
            by_place.setdefault(id(files), (files, []))[1].append(location)
        return {key: data for files, names in by_place.values() for key, data in files.read_many(names).items()}


def _root(location: str) -> str:
    return "/".join(location.split("/")[:3]) if is_remote(location) else ""


class LocalFiles:
    """Folders of this machine."""

    def absolute(self, given: str) -> str:
        """The path itself, from the root."""
        return os.path.abspath(given)  # noqa: PTH100 - Path.resolve would follow links

    def is_folder(self, location: str) -> bool:
        """Whether there is such a folder."""
        return Path(location).is_dir()

    def facts(self, location: str) -> FileFacts:
        """By its status."""
        try:
            status = Path(location).stat()
        except (FileNotFoundError, NotADirectoryError):
            return FileFacts(content_id=ABSENT)
        except OSError as error:
            return FileFacts(content_id=f"{UNREADABLE}{error.strerror}")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return FileFacts(content_id=NOT_A_FILE)
        return FileFacts(content_id=f"{status.st_size}-{status.st_mtime_ns}", size_bytes=status.st_size)

    def walk(self, folder: str, unreadable: set[str]) -> Iterator[str]:
        """All files below a folder, also behind links to folders elsewhere; no folder twice, so that links in a ring end."""
        root = os.path.realpath(folder)
        walked = {root}

        def is_new(path: str) -> bool:
            real = os.path.realpath(path)
            if real in walked or (Path(path).is_symlink() and f"{real}/".startswith(f"{root}/")):
                return False
            walked.add(real)
            return True

        def refused(error: OSError) -> None:
            unreadable.add(f"{shown(error.filename)} ({error.strerror})")

        for top, folders, names in os.walk(folder, onerror=refused, followlinks=True):
            folders[:] = [name for name in sorted(folders) if is_new(f"{top}/{name}")]
            yield from (f"{top.rstrip('/')}/{name}" for name in names)

    def glob(self, pattern: str) -> Iterator[str]:
        """All files that match."""
        matches = glob.glob(self.absolute(pattern), recursive=True)  # noqa: PTH207 - absolute and ** patterns
        return (match for match in sorted(matches) if not Path(match).is_dir())

    def open(self, location: str) -> BinaryIO:
        """The file."""
        return Path(location).open("rb")

    def read_many(self, locations: Iterable[str]) -> Mapping[str, bytes | Exception]:
        """One after the other."""
        return {location: _read(location) for location in locations}


def _read(location: str) -> bytes | OSError:
    try:
        return Path(location).read_bytes()
    except OSError as error:
        return error


class BucketFiles:
    """One bucket."""

    def __init__(self, store: ObjectStorage) -> None:
        """Nothing listed yet; the root of `store` is the bucket."""
        self._store = store
        self._asked = 0
        self._listed: dict[str, RemoteFile] = {}
        self._folders: list[str] = []

    def _key(self, location: str) -> str:
        return location.removeprefix(self._store.uri).strip("/")

    def _location(self, key: str) -> str:
        return f"{self._store.uri}/{key}"

    def absolute(self, given: str) -> str:
        """The URI, without dots and doubled slashes."""
        scheme, _, rest = given.partition("://")
        return f"{scheme}://{posixpath.normpath(rest)}"

    def is_folder(self, location: str) -> bool:
        """Whether anything lies below it; lists it."""
        self._list(self._key(location))
        prefix = f"{self._key(location)}/".lstrip("/")
        return any(key.startswith(prefix) for key in self._listed)

    def facts(self, location: str) -> FileFacts:
        """By its size and etag."""
        key = self._key(location)
        if not self._covered(key):
            self._asked += 1
            if self._asked > _ASK_FIRST:
                self._list(posixpath.dirname(key))
        found = self._listed.get(key) if self._covered(key) else self._store.file(key)
        if found is None:
            return FileFacts(content_id=ABSENT)
        return FileFacts(content_id=f"{found.size_bytes}-{found.version}", size_bytes=found.size_bytes)

    def _covered(self, key: str) -> bool:
        return any(key.startswith(folder) for folder in self._folders)

    def _list(self, key: str) -> None:
        prefix = f"{key}/".lstrip("/")
        if not self._covered(prefix):
            self._listed |= self._store.files(key)
            self._folders.append(prefix)

    def walk(self, folder: str, unreadable: set[str]) -> Iterator[str]:
        """All objects below a prefix."""
        self._list(self._key(folder))
        prefix = f"{self._key(folder)}/".lstrip("/")
        for key in sorted(self._listed):
            if key.startswith(prefix) and is_key(key):
                yield self._location(key)
            elif key.startswith(prefix):
                unreadable.add(f"{self._location(key)} (its name is no path)")

    def glob(self, pattern: str) -> Iterator[str]:
        """All objects that match."""
        return map(self._location, sorted(self._store.glob(self._key(pattern))))

    def open(self, location: str) -> BinaryIO:
        """The object, read as a stream."""
        return self._store.open(self._key(location))

    def read_many(self, locations: Iterable[str]) -> Mapping[str, bytes | Exception]:
        """Beside each other."""
        found = self._store.read_many([self._key(location) for location in locations])
        return {self._location(key): data for key, data in found.items()}
