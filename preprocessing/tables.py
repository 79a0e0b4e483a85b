"""Metadata tables to rows: MiraData's and Sekai's own CSV layouts, and CSV, TSV, JSONL and Parquet with columns of any name.

A table is recognised by its columns. MiraData: ``index, video_id, start_frame, end_frame, dense_caption``; a row is the clip that
its download script cut, else a span of the whole video. Sekai: ``videoFile``, which is ``<original>_<start>_<end>.mp4``; a row is that
file, else a span of ``<original>.mp4``; its mapping file has the same column. Any other table is read by the names in `TableColumns`.
MiraData's spans count frames at the rate in ``fps``, Sekai's at that of its transcodes, whatever the rate of the video at hand.
Rows are counted from 1, the header left out. A table that is none is refused; a row that names no video is an `UnusableRow`.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from preprocessing.config import TableColumns
from preprocessing.samples import Span
from preprocessing.table_formats import is_table, table_rows

__all__ = ["Place", "TableRow", "UnusableRow", "is_table", "is_utf8", "read_table"]

_MIRADATA = {"index", "video_id", "start_frame", "end_frame", "dense_caption"}
_MIRADATA_INDEX = re.compile(r"(?P<number>\d+)_(?P<original>[^/]+)-(?P<clip>\d+)")
_VIDEOS_A_FOLDER = 1000
"""MiraData's download script puts so many videos into one folder."""
_MIRADATA_COLUMNS = TableColumns(fps="fps")
_SEKAI = "videoFile"
_SEKAI_FPS = 30.0
"""Its spans count frames of transcodes at this rate."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the video of a row may be.

    Attributes:
        path: A path below the videos' folder, an absolute one, or a URI.
        span: Which part of that file the row means; None for all of it.
    """

    path: str
    span: Span | None


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row.

    Attributes:
        number: From 1.
        places: The first one that exists counts; if none does, the first is missing.
        caption: None if the row has none.
        group: The original video, empty if that is the file.
        extra: All other columns that have a value.
    """

    number: int
    places: tuple[Place, ...]
    caption: str | None
    licence: str
    group: str
    extra: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class UnusableRow:
    """A row that holds what its columns should not.

    Attributes:
        number: From 1.
        why: The column, and what was expected and found in it, for people.
    """

    number: int
    why: str


def read_table(name: str, file: BinaryIO, columns: TableColumns) -> Iterator[TableRow | UnusableRow]:
    """The rows of a table, one after the other.

    Args:
        name: For messages; its extension says what the file is.
        file: The table's bytes.
        columns: Names of the columns of a table that is neither MiraData's nor Sekai's.

    Raises:
        ValueError: If it is no table, or has not the columns that are asked for.
    """
    header, rows = table_rows(name, file)
    read = _layout(name, header, columns)
    for number, row in enumerate(rows, start=1):
        try:
            found = read(_Cells(number, row))
        except _WrongCell as error:
            found = UnusableRow(number=number, why=str(error))
        yield found


class _WrongCell(Exception):
    """What a cell holds is not what its column should hold."""


class _Cells:
    """The values of one row; taking one leaves the rest."""

    def __init__(self, number: int, row: Mapping[str, object]) -> None:
        self.number = number
        self._values = {name: text for name, value in row.items() if name and (text := _text(value))}
        for name, text in self._values.items():
            if "\0" in text or not is_utf8(text):
                raise self.error(name, f"it holds a zero character or half a surrogate pair; got {text!r}")

    def error(self, column: str, what: str) -> _WrongCell:
        return _WrongCell(f"column {column}: {what}")

    def take(self, column: str) -> str | None:
        return self._values.pop(column, None)

    def need(self, column: str) -> str:
        value = self.take(column)
        if value is None:
            raise self.error(column, "there is no value")
        return value

    def frame(self, column: str) -> int | None:
        value = self.take(column)
        if value is not None and not re.fullmatch(r"\d+(\.0+)?", value):  # other programs write whole numbers as 12.0
            raise self.error(column, f"expected a frame, a whole number from 0 on; got {value!r}")
        return None if value is None else int(value.partition(".")[0])

    def seconds(self, column: str) -> float | None:
        value = self.take(column)
        found = None if value is None else _number(value)
        if found is not None and not found >= 0:
            raise self.error(column, f"expected seconds, a number from 0 on; got {value!r}")
        return found

    def rate(self, column: str) -> float | None:
        """Frames a second; the column is passed through as well."""
        value = self._values.get(column)
        found = None if value is None else _number(value)
        if found is not None and not found > 0:
            raise self.error(column, f"expected frames a second, a number above 0; got {value!r}")
        return found

    def span(self, columns: TableColumns) -> Span | None:
        start_frame, end_frame = self.frame(columns.start_frame), self.frame(columns.end_frame)
        start_s, end_s = self.seconds(columns.start_s), self.seconds(columns.end_s)
        names = (columns.start_frame, columns.end_frame, columns.start_s, columns.end_s)
        values = (start_frame, end_frame, start_s, end_s)
        given = [name for name, value in zip(names, values, strict=True) if value is not None]
        if not given:
            return None
        rate = self.rate(columns.fps) if (start_frame, end_frame) != (None, None) else None
        try:
            return Span(start_frame=start_frame, end_frame=end_frame, start_s=start_s, end_s=end_s, table_fps=rate)
        except ValueError as error:
            raise self.error(" and ".join(given), str(error)) from error

    def rest(self) -> Mapping[str, str]:
        return dict(self._values)


def _text(value: object) -> str:
    """A cell as text, empty where it holds nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _number(text: str) -> float:
    """A finite number, or NaN."""
    try:
        found = float(text)
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def is_utf8(text: str) -> bool:
    """Whether it can be written; what was half a surrogate pair, or a byte of a file name, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _layout(name: str, header: Iterable[str], columns: TableColumns) -> Callable[[_Cells], TableRow]:
    found = set(header)
    changed = {field: value for field, value in columns.model_dump().items() if value != getattr(TableColumns(), field)}
    absent = [f"{value} (sources.columns.{field})" for field, value in changed.items() if value not in found]
    if absent:
        raise ValueError(
            f"{name}: there is no column {', '.join(absent)}; it has {', '.join(sorted(filter(None, found)))}"
        )
    if not changed and found >= _MIRADATA:
        return _miradata_row
    if not changed and _SEKAI in found:
        return _sekai_row
    if columns.path not in found and "uri" in found and "path" not in changed:
        columns = columns.model_copy(update={"path": "uri"})
    if columns.path not in found:
        raise ValueError(
            f"{name}: no column {columns.path} or uri; sources.columns.path says what it is called (it has "
            f"{', '.join(sorted(filter(None, found))) or 'no columns'})"
        )
    return lambda cells: _own_row(cells, columns)


def _own_row(cells: _Cells, columns: TableColumns) -> TableRow:
    place = Place(path=cells.need(columns.path), span=cells.span(columns))
    caption, licence = cells.take(columns.caption), cells.take(columns.licence) or ""
    group = cells.take(columns.group) or ""
    return TableRow(
        number=cells.number, places=(place,), caption=caption, licence=licence, group=group, extra=cells.rest()
    )


def _miradata_row(cells: _Cells) -> TableRow:
    index, group = cells.need("index"), cells.need("video_id")
    parts = _MIRADATA_INDEX.fullmatch(index)
    if parts is None:
        raise cells.error("index", f"expected one like 000000008783_AJp_ANXoGoM-000114; got {index!r}")
    span = cells.span(_MIRADATA_COLUMNS)
    if span is None:
        raise cells.error("start_frame", "there is no value")
    folder = f"{int(parts['number']) // _VIDEOS_A_FOLDER:09d}"
    whole = index.rpartition("-")[0]
    wholes = dict.fromkeys([whole, index.partition("-")[0]])  # the script ends the name at the first dash of an id
    clip = Place(path=f"clip_video/{folder}/{index}.mp4", span=None)
    raws = (Place(path=f"raw_video/{folder}/{name}.mp4", span=span) for name in wholes)
    caption = cells.take("dense_caption")
    extra = {"index": index, **cells.rest()}
    return TableRow(number=cells.number, places=(clip, *raws), caption=caption, licence="", group=group, extra=extra)


def _sekai_row(cells: _Cells) -> TableRow:
    name = cells.need(_SEKAI)
    path = PurePosixPath(name)
    original, *frames = path.stem.rsplit("_", 2)  # ids contain underscores
    places = [Place(path=name, span=None)]
    if len(frames) == 2 and all(map(str.isdigit, frames)) and int(frames[0]) < int(frames[1]):
        span = Span(start_frame=int(frames[0]), end_frame=int(frames[1]), table_fps=_SEKAI_FPS)
        places.append(Place(path=str(path.with_name(original + path.suffix)), span=span))
    else:
        original = path.stem
    caption = cells.take("caption")
    return TableRow(
        number=cells.number, places=tuple(places), caption=caption, licence="", group=original, extra=cells.rest()
    )
