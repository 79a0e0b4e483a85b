"""Columns of the ledger's tables as NumPy arrays: a million clips are an ordinary case."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def floats(table: pa.Table, name: str) -> Floats:
    """A column of numbers; NaN where there is none."""
    return table[name].cast(pa.float64()).to_numpy()


def ints(table: pa.Table, name: str) -> Ints:
    """A column of integers without gaps."""
    return table[name].cast(pa.int64()).to_numpy()


def scores(clips: pa.Table, name: str) -> Floats:
    """One score of every clip, or one of its columns of that name; NaN where it was not measured."""
    if name in clips.column_names:
        return floats(clips, name)
    of_clips = clips["scores"]
    if of_clips.type.get_field_index(name) < 0:
        return np.full(clips.num_rows, np.nan)
    return pc.struct_field(of_clips, name).cast(pa.float64()).to_numpy()


def score_names(clips: pa.Table) -> list[str]:
    """All scores that the table can hold."""
    return [field.name for field in clips.schema.field("scores").type]


def places(table: pa.Table, sources: pa.Table) -> Ints:
    """For each row, the row of its source in `sources`."""
    at = pc.index_in(table["source_id"], value_set=sources["source_id"].combine_chunks())
    return at.cast(pa.int64()).to_numpy()


def first_reasons(clips: pa.Table) -> pa.ChunkedArray:
    """The reason that counts, of dropped clips."""
    return pc.list_element(clips["reasons"], 0)


def clip_seconds(clips: pa.Table) -> Floats:
    """Duration of every clip."""
    return floats(clips, "end_s") - floats(clips, "start_s")


def where(table: pa.Table, column: str, value: str) -> pa.Table:
    """The rows that hold this value."""
    return table.filter(pa.array(holds(table[column], value)))


def holds(column: pa.ChunkedArray | pa.Array, value: str) -> Bools:
    """Where a column of texts holds this value."""
    return np.asarray(pc.fill_null(pc.equal(column, pa.scalar(str(value))), pa.scalar(False))).astype(bool)


def texts(column: pa.ChunkedArray) -> list[str]:
    """A column of texts without gaps."""
    return [str(value) for value in column.to_pylist()]


def rows_at(table: pa.Table, rows: Ints) -> pa.Table:
    """These rows, in this order."""
    return table.take(pa.array(rows.tolist(), pa.int64()))


def rows_among(table: pa.Table, column: str, values: Iterable[str]) -> pa.Table:
    """The rows whose text is one of these."""
    return table.filter(pc.is_in(table[column], value_set=pa.array(list(values), pa.string())))


def sums_by(names: pa.ChunkedArray, values: Floats) -> dict[str, float]:
    """Sums of the values by name, the largest first."""
    grouped = (
        pa.table([names, pa.array(values)], names=["name", "value"]).group_by("name").aggregate([("value", "sum")])
    )
    pairs = zip(texts(grouped["name"]), floats(grouped, "value_sum").tolist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def counts_by(names: pa.ChunkedArray) -> dict[str, int]:
    """How often each name comes, the most frequent first."""
    return {name: int(number) for name, number in sums_by(names, np.ones(len(names))).items()}
