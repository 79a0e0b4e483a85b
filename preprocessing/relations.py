"""Whole tables at once: which rows match, which is the last of each. Nothing here loops over rows in Python."""

from collections.abc import Collection, Sequence
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def ascending(*columns: str) -> list[tuple[str, Literal["ascending", "descending"]]]:
    """As `pa.Table.sort_by` takes it."""
    return [(column, "ascending") for column in columns]


def only(table: pa.Table, column: str, values: Collection[str] | pa.Array) -> pa.Table:
    """The rows whose text in a column is one of the values, in their order."""
    wanted = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    return table.filter(pc.is_in(table[column], value_set=wanted))


def last_of_each(table: pa.Table, column: str) -> pa.Table:
    """The last row of each value of a column, in their order."""
    numbered = pa.table([table[column], _row_numbers(table)], names=["value", "row"])
    last = numbered.group_by("value").aggregate([("row", "max")])["row_max"].to_numpy()
    return table.take(np.sort(last))


def matching_rows(left: pa.Table, right: pa.Table, on: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of all pairs that agree in some columns, sorted by the left row, then by the right one.

    Args:
        left: Has the columns of `on`, none of them null.
        right: Has them too, of the same types.
        on: Names of columns.

    Returns:
        Rows of `left`, and for each the row of `right`.
    """
    keys = list(on)
    numbered = left.select(keys).append_column("left_row", _row_numbers(left))
    others = right.select(keys).append_column("right_row", _row_numbers(right))
    pairs = numbered.join(others, keys=keys, join_type="inner")
    rows = [pairs[name].to_numpy() for name in ("left_row", "right_row")]
    order = np.lexsort(rows[::-1])
    return rows[0][order], rows[1][order]


def _row_numbers(table: pa.Table) -> pa.Array:
    return pa.array(np.arange(table.num_rows))


def texts(column: pa.ChunkedArray) -> list[str]:
    """The values of a text column that has no nulls."""
    return cast("list[str]", column.to_pylist())


def float_columns(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    """The columns of a table of numbers; null is NaN."""
    return {name: table[name].cast(pa.float64()).to_numpy() for name in table.column_names}
