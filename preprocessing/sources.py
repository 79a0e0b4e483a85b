"""Inputs to sources: folders, globs, video files by name, and metadata tables, on this machine or in buckets.

Identity: a source's uri is the name of the input's folder and the path below it, so ``raw``, ``raw/*.mp4``, ``raw/a.mp4`` and
``s3://videos/raw`` all call the same file ``raw/a.mp4``, wherever ``raw`` is. `source_id` is a hash of the uri and of the span of the
file that a table's row names, if any. Two inputs that give one uri to two different files are refused; a source that two inputs
give is taken once, with the caption and columns of whichever has them. `content_id` is size and modification time in
nanoseconds, or etag. `group_id` is the original video that a table names, else the file; `preprocessing.groups` says who shares it.

A table's caption wins over one that lies beside the video.
"""

import glob
import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from preprocessing.config import SourcesConfig
from preprocessing.input_files import ABSENT, FileFacts, InputPlaces, is_remote, shown
from preprocessing.listing import GivenInput, InputSize, SourceListing
from preprocessing.samples import Source, Span
from preprocessing.sidecars import sidecar_captions, sidecar_names
from preprocessing.tables import Place, TableRow, UnusableRow, is_table, is_utf8, read_table


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What an input says of one source; whatever else there is to know lies beside the file."""

    uri: str
    location: str
    span: Span | None = None
    caption: str | None = None
    licence: str = ""
    group: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    from_table: bool = False
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def source_id(self) -> str:
        """See the module."""
        return _source_id(self.uri, self.span)

    @property
    def place(self) -> tuple[str, str]:
        """What tells it from the other sources of a listing."""
        return (self.location, str(self.span or ""))

    @property
    def order(self) -> tuple[str, int, float, str]:
        """By uri, then by where the span starts."""
        start, start_s = (self.span.start_frame, self.span.start_s) if self.span else (None, None)
        return (self.uri, start or 0, start_s or 0.0, str(self.span or ""))


def find_sources(inputs: Sequence[str], config: SourcesConfig, *, limit: int | None) -> SourceListing:
    """All sources of the inputs; the first `limit` of them by uri.

    Raises:
        ValueError: If an input does not exist, a glob matches nothing, a table is malformed, or two different files
            would get the same uri.
        StorageError: If a bucket cannot be listed.
    """
    places = InputPlaces()
    ignored: set[str] = set()
    if "" in inputs:
        raise ValueError("an empty path is no input; is a variable unset?")
    by_input = {given: tuple(_find(_path(given), config, places, ignored)) for given in inputs}
    found = _merged_by_place(chain.from_iterable(by_input.values()))
    _refuse_two_files_of_one_uri(found.values())
    chosen = sorted(found.values(), key=lambda item: item.order)[:limit]
    captions = sidecar_captions([item.location for item in chosen if item.caption is None], places, ignored)
    ignored -= {sidecar for item in found.values() for sidecar in sidecar_names(item.location)}
    facts = {item.location: places.of(item.location).facts(item.location) for item in found.values()}
    sources = {item.place: _source(item, facts[item.location], captions) for item in chosen}
    return SourceListing(
        inputs=tuple(_given_input(given, items, facts, places) for given, items in by_input.items()),
        sources=tuple(sources.values()),
        ignored=tuple(sorted(ignored)),
        whole=InputSize(num_sources=len(found), size_bytes=sum(of_file.size_bytes or 0 for of_file in facts.values())),
        present_ids=frozenset(i.source_id for i in found.values() if facts[i.location].content_id != ABSENT),
        elsewhere={item.source_id: item.elsewhere for item in found.values() if item.elsewhere},
    )


def file_group(uri: str) -> str:
    """The group of a file's sources where nobody names one."""
    return _short_hash(uri)


def _path(given: str) -> str:
    return given.removeprefix("file://")


def _given_input(
    given: str, items: Sequence[_Found], facts: Mapping[str, FileFacts], places: InputPlaces
) -> GivenInput:
    folder = _folder(_path(given), places)
    rows = items if is_table(given) and not folder else ()
    present = (row.location for row in rows if facts[row.location].content_id != ABSENT)
    return GivenInput(
        given=given,
        folder=folder,
        row_folders=frozenset(map(posixpath.dirname, present)),
        source_ids=frozenset(item.source_id for item in items),
    )


def _folder(given: str, places: InputPlaces) -> str:
    """Where an input looks for videos; empty for a file or a table."""
    location = places.of(given).absolute(given)
    if places.of(given).is_folder(location):
        return location
    return _above_magic(location) if glob.has_magic(given) and places.is_absent(location) else ""


def _find(given: str, config: SourcesConfig, places: InputPlaces, ignored: set[str]) -> Iterator[_Found]:
    if not is_utf8(given):
        raise ValueError(f"the name of {shown(given)} is not UTF-8; rename it")
    files = places.of(given)
    location = files.absolute(given)
    if files.is_folder(location):
        yield from _videos(location, files.walk(location, ignored), config, ignored)
    elif not places.is_absent(location) or (not is_remote(location) and Path(location).is_symlink()):
        yield from _read_table(location, config, places, ignored) if is_table(location) else [_plain(location)]
    elif not glob.has_magic(given):
        raise ValueError(f"input {given} does not exist")
    else:
        matches = list(files.glob(location))
        if not matches:
            raise ValueError(f"no file matches {given}")
        yield from _videos(_above_magic(location), matches, config, ignored)


def _above_magic(pattern: str) -> str:
    while glob.has_magic(pattern):
        pattern = posixpath.dirname(pattern)
    return pattern


def _videos(root: str, files: Iterable[str], config: SourcesConfig, ignored: set[str]) -> Iterator[_Found]:
    for location in files:
        if not is_utf8(location):
            ignored.add(f"{shown(location)} (its name is not UTF-8)")
        elif posixpath.splitext(location)[1].lower() in config.video_extensions:
            yield _Found(uri=_uri(root, location), location=location)
        else:
            ignored.add(location)


def _plain(location: str) -> _Found:
    return _Found(uri=_uri(posixpath.dirname(location), location), location=location)


def _uri(root: str, location: str) -> str:
    inside = location.startswith(f"{root.rstrip('/')}/")
    root = root.rstrip("/") if inside else posixpath.dirname(location)
    return f"{posixpath.basename(root)}/{location.removeprefix(root).strip('/')}".lstrip("/")


def _merged_by_place(items: Iterable[_Found]) -> dict[tuple[str, str], _Found]:
    found: dict[tuple[str, str], _Found] = {}
    for item in items:
        found[item.place] = _merged(found[item.place], item) if item.place in found else item
    return found


def _merged(first: _Found, second: _Found) -> _Found:
    """One source that two inputs give: what the first does not say, the second may."""
    return replace(
        first,
        span=second.span if first.span and first.span.table_fps is None else first.span,
        caption=second.caption if first.caption is None else first.caption,
        licence=first.licence or second.licence,
        group=first.group or second.group,
        extra={**second.extra, **first.extra},
        from_table=first.from_table or second.from_table,
        elsewhere={**second.elsewhere, **first.elsewhere},
    )


def _refuse_two_files_of_one_uri(items: Iterable[_Found]) -> None:
    locations: dict[str, str] = {}
    for item in items:
        other = locations.setdefault(item.uri, item.location)
        if not _same_file(other, item.location):
            raise ValueError(
                f"{other} and {item.location} would both be {item.uri}: "
                "give a folder above both as the input, or rename one of their folders"
            )


def _same_file(left: str, right: str) -> bool:
    if left == right or is_remote(left) or is_remote(right):
        return left == right
    return Path(left).exists() and Path(right).exists() and Path(left).samefile(right)


def _source(item: _Found, facts: FileFacts, captions: Mapping[str, str]) -> Source:
    beside = captions.get(item.location, "") if item.caption is None else ""
    return Source(
        source_id=item.source_id,
        group_id=item.group or file_group(item.uri),
        uri=item.uri,
        location=item.location,
        content_id=facts.content_id,
        caption=item.caption or beside,
        licence=item.licence,
        extra=item.extra,
        from_table=item.from_table,
        caption_beside=bool(beside),
        size_bytes=facts.size_bytes,
        span=item.span,
    )


def _source_id(uri: str, span: Span | None) -> str:
    return _short_hash(uri if span is None else f"{uri} {span}")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- tables ---


def _read_table(table: str, config: SourcesConfig, places: InputPlaces, ignored: set[str]) -> Iterator[_Found]:
    folder = config.videos_folder or posixpath.dirname(table)
    folder = places.of(folder).absolute(folder)
    rows_by_place: dict[tuple[str, str], int] = {}
    with places.of(table).open(table) as file:
        for row in _usable_rows(table, read_table(table, file, config.columns), ignored):
            candidates = [replace(place, path=_below(folder, place.path, places)) for place in row.places]
            place = _first_present(candidates, places)
            first = rows_by_place.setdefault((place.path, str(place.span or "")), row.number)
            if first == row.number:
                others = [other for other in candidates if other != place]
                yield _row_found(row, place, others, folder)
            else:
                ignored.add(f"{table}, row {row.number} (the same video and span as row {first})")


def _usable_rows(table: str, rows: Iterable[TableRow | UnusableRow], ignored: set[str]) -> Iterator[TableRow]:
    """The rows that name a video; the others go into `ignored`.

    Raises:
        ValueError: If none does: then the table is wrong, or what its columns are said to be.
    """
    first_unusable, found = None, False
    for row in rows:
        if isinstance(row, UnusableRow):
            first_unusable = first_unusable or row
            ignored.add(f"{table}, row {row.number} ({row.why})")
        else:
            found = True
            yield row
    if first_unusable and not found:
        raise ValueError(f"{table}: no row can be used; row {first_unusable.number}, {first_unusable.why}")


def _first_present(candidates: Sequence[Place], places: InputPlaces) -> Place:
    """Where a row's video is; the first place that it could be if it is nowhere."""
    if len(candidates) == 1:
        return candidates[0]
    return next((place for place in candidates if not places.is_absent(place.path)), candidates[0])


def _below(folder: str, path: str, places: InputPlaces) -> str:
    whole = path if is_remote(path) or path.startswith("/") else f"{folder}/{path}"
    return places.of(whole).absolute(whole)


def _row_found(row: TableRow, place: Place, others: Sequence[Place], folder: str) -> _Found:
    return _Found(
        uri=_uri(folder, place.path),
        location=place.path,
        span=place.span,
        caption=row.caption,
        licence=row.licence,
        group=row.group,
        extra=row.extra,
        from_table=True,
        elsewhere={_source_id(_uri(folder, other.path), other.span): other.path for other in others},
    )
