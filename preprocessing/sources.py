"""Inputs to sources: a folder, a glob, a video file by name, or a table of paths and captions (CSV, JSONL, Parquet).

Identity: a source's uri is the name of the input's folder and the path below it, so ``raw``, ``raw/*.mp4`` and
``raw/a.mp4`` all call the same file ``raw/a.mp4``, wherever ``raw`` is mounted. `source_id` is a hash of the uri. Two
inputs that give one uri to two different files are refused; one file that two inputs give is taken once. `content_id` is
size and modification time in nanoseconds.

Captions: ``a.mp4.txt`` or ``a.txt`` beside ``a.mp4`` is its caption (UTF-8). A table's caption wins.
"""

import csv
import glob
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from preprocessing.config import SourcesConfig
from preprocessing.samples import Source, Split

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
MAX_CAPTION_BYTES = 1 << 16
"""A longer sidecar file is no caption."""


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """How much there is to do.

    Attributes:
        num_sources: Videos.
        size_bytes: Of their files together, as far as these tell.
    """

    num_sources: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class SourceListing:
    """What the inputs hold.

    Attributes:
        sources: Sorted by uri.
        ignored: Paths that got no row, with the reason in brackets where it is not the extension; sorted.
        whole: All sources that the inputs hold, also those beyond a limit.
    """

    sources: tuple[Source, ...]
    ignored: tuple[str, ...]
    whole: InputSize


@dataclass(frozen=True, kw_only=True)
class _Found:
    uri: str
    path: Path
    caption: str | None
    licence: str
    extra: Mapping[str, str]


def find_sources(inputs: Sequence[str], config: SourcesConfig, *, limit: int | None) -> SourceListing:
    """All sources of the inputs; the first `limit` of them by uri.

    Raises:
        ValueError: If an input does not exist, a glob matches nothing, a table is malformed, or two different files
            would get the same uri.
    """
    ignored: set[str] = set()
    by_path: dict[Path, _Found] = {}
    for given in inputs:
        for item in _find(given, config, ignored):
            by_path.setdefault(item.path, item)
    by_uri = _by_uri(by_path.values())
    chosen = [by_uri[uri] for uri in sorted(by_uri)][:limit]
    used = {str(sidecar) for path in by_path for sidecar in _sidecars(path)}
    return SourceListing(
        sources=tuple(map(_source, chosen)), ignored=tuple(sorted(ignored - used)), whole=_whole(by_uri.values())
    )


def _whole(items: Collection[_Found]) -> InputSize:
    return InputSize(num_sources=len(items), size_bytes=sum(_size_bytes(item.path) or 0 for item in items))


def split_of(group_id: str, eval_percent: int) -> Split:
    """The split of a group: a hash decides, so a larger share only moves groups from train to eval."""
    place = int.from_bytes(hashlib.sha256(f"split {group_id}".encode()).digest()[:8], "big") / 2**64
    return Split.EVAL if place < eval_percent / 100 else Split.TRAIN


def vanished_sources(inputs: Sequence[str], known: Iterable[Source]) -> tuple[Source, ...]:
    """Known sources that lay in these inputs' folders and are no longer there; other folders are left alone."""
    roots = [_root(given) for given in inputs if not Path(given).is_file()]
    return tuple(s for s in known if any(map(Path(s.location).is_relative_to, roots)) and not Path(s.location).exists())


def _root(given: str) -> Path:
    path = Path(os.path.abspath(given))  # noqa: PTH100  Path.resolve would follow links: the name given counts
    if path.exists():
        return path if path.is_dir() else path.parent
    while glob.has_magic(str(path)):
        path = path.parent
    return path


def _find(given: str, config: SourcesConfig, ignored: set[str]) -> Iterator[_Found]:
    if "://" in given:
        raise ValueError(f"{given}: listing a remote input is not supported yet; give a local folder, file or table")
    if not _is_utf8(Path(given)):
        raise ValueError(f"the name of {_shown(Path(given))} is not UTF-8; rename it")
    path, root = Path(os.path.abspath(given)), _root(given)  # noqa: PTH100
    if path.is_dir():
        yield from (_plain(root, video) for video in _videos_below(path, config, ignored))
    elif path.suffix.lower() in TABLE_SUFFIXES and path.exists():
        yield from _read_table(path)
    elif path.exists() or path.is_symlink():
        yield _plain(root, path)
    else:
        yield from _find_glob(given, config, ignored)


def _find_glob(given: str, config: SourcesConfig, ignored: set[str]) -> Iterator[_Found]:
    if not glob.has_magic(given):
        raise ValueError(f"input {given} does not exist")
    matches = sorted(glob.glob(os.path.abspath(given), recursive=True))  # noqa: PTH207, PTH100  absolute and ** patterns
    if not matches:
        raise ValueError(f"no file matches {given}")
    for match in map(Path, matches):
        if match.is_dir():
            continue
        if _is_video(match, config) and _is_utf8(match):
            yield _plain(_root(given), match)
        else:
            ignored.add(_shown(match))


def _videos_below(folder: Path, config: SourcesConfig, ignored: set[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        ignored.add(f"{_shown(Path(error.filename))} ({error.strerror})")

    for top, _, names in os.walk(folder, onerror=unreadable):
        for path in (Path(top) / name for name in names):
            if not _is_utf8(path):
                ignored.add(f"{_shown(path)} (its name is not UTF-8)")
            elif _is_video(path, config):
                yield path
            else:
                ignored.add(str(path))


def _is_video(path: Path, config: SourcesConfig) -> bool:
    return path.suffix.lower() in config.video_extensions


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _plain(root: Path, path: Path) -> _Found:
    return _Found(uri=_uri(root, path), path=path, caption=None, licence="", extra={})


def _uri(root: Path, path: Path) -> str:
    if not path.is_relative_to(root):
        return f"{path.parent.name}/{path.name}"
    return f"{root.name}/{path.relative_to(root).as_posix()}".lstrip("/")


def _by_uri(items: Iterable[_Found]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for item in items:
        other = found.setdefault(item.uri, item)
        if not _same_file(other.path, item.path):
            raise ValueError(
                f"{other.path} and {item.path} would both be {item.uri}: "
                "give a folder above both as the input, or rename one of their folders"
            )
    return found


def _same_file(left: Path, right: Path) -> bool:
    return left == right or (left.exists() and right.exists() and left.samefile(right))


def _source(item: _Found) -> Source:
    identity = _short_hash(item.uri)
    return Source(
        source_id=identity,
        group_id=identity,
        uri=item.uri,
        location=str(item.path),
        content_id=content_id(item.path),
        caption=_sidecar_caption(item.path) if item.caption is None else item.caption,
        licence=item.licence,
        extra=item.extra,
        size_bytes=_size_bytes(item.path),
    )


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_id(path: Path) -> str:
    """Which content a file has, by size and time of change in nanoseconds; for one that is gone, why it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{status.st_size}-{status.st_mtime_ns}"


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sidecars(video: Path) -> tuple[Path, ...]:
    return tuple(path for path in (Path(f"{video}.txt"), video.with_suffix(".txt")) if path != video and path.is_file())


def _sidecar_caption(video: Path) -> str:
    for sidecar in _sidecars(video):
        if sidecar.stat().st_size <= MAX_CAPTION_BYTES:
            return " ".join(sidecar.read_text(encoding="utf-8", errors="replace").split())
    return ""


def _read_table(path: Path) -> Iterator[_Found]:
    for number, row in enumerate(_table_rows(path), start=1):
        known = {name: str(value) for name, value in row.items() if name and value not in (None, "")}
        place = known.pop("path", None) or known.pop("uri", None)
        if place is None:
            raise ValueError(f"{path}, row {number}: no path; expected a column named path or uri")
        if "://" in place:
            raise ValueError(f"{path}, row {number}: {place} is remote, which is not supported yet")
        video = Path(os.path.abspath(path.parent / place))  # noqa: PTH100
        caption, licence = known.pop("caption", None), known.pop("licence", "")
        yield _Found(uri=_uri(path.parent, video), path=video, caption=caption, licence=licence, extra=known)


def _table_rows(path: Path) -> list[dict]:
    try:
        match path.suffix.lower():
            case ".csv":
                with path.open(encoding="utf-8-sig", newline="") as file:
                    return list(csv.DictReader(file))
            case ".jsonl":
                return [
                    dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
                ]
            case _:
                return pq.read_table(path).to_pylist()
    except (ValueError, TypeError, csv.Error) as error:  # pyarrow's and json's errors are ValueErrors
        raise ValueError(f"{path} is no readable table: {error}") from error
