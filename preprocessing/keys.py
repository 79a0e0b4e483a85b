"""Names of files below a dataset's root, and errors that say what a store did and what to do about it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class StorageError(OSError):
    """A store did not do what it was asked; the message says which, why, and what to do next."""


class StoreUnreachable(StorageError):
    """It did not answer, whatever was asked."""


def checked_key(key: str) -> str:
    """The key itself, if it is a plain relative path.

    Raises:
        ValueError: If it is empty, absolute, or climbs out of the root.
    """
    if not is_key(key):
        raise ValueError(f"{key!r} is not a path below the dataset's root")
    return key


def is_key(name: str) -> bool:
    """Whether a name is a plain relative path that climbs nowhere."""
    plain = bool(name) and "\0" not in name and "\\" not in name and not name.startswith("/")
    return plain and str(PurePosixPath(name)) == name and ".." not in PurePosixPath(name).parts


def whole(data: bytes, key: str, offset: int, size: int) -> bytes:
    """The data, if it is as long as was asked for.

    Raises:
        ValueError: If it is not.
    """
    if len(data) != size:
        raise ValueError(f"{key} ends before byte {offset + size}: it is shorter than its index says")
    return data


@contextmanager
def explained_writes(place: str) -> Iterator[None]:
    """Turns a full disk and a read-only target into one clear message.

    Raises:
        StorageError: Instead of the operating system's error; all other errors pass.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _with_code(
                f"no space left to write {place}: free some and run the same command again, it goes on from here", error
            ) from error
        if error.errno in _FORBIDDEN:
            raise _with_code(f"writing {place} is not permitted ({error.strerror})", error) from error
        raise


def _with_code(message: str, error: OSError) -> StorageError:
    explained = StorageError(message)
    explained.errno = error.errno
    return explained
