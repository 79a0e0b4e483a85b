"""Numbered Parquet parts below ``ledger/``, ``<kind>-<number>.parquet``: never changed once they count, written by one driver.

The folder is listed once and every small part is read once: from then on, this process knows what it writes itself.
"""

from collections.abc import Collection, Mapping

import pyarrow as pa

from preprocessing.storage import Storage, read_parquet, write_parquet

PART = pa.field("part", pa.int64())
"""Column that says which part a row of `Parts.all` is from."""

ADDED: Mapping[str, Collection[str]] = {"plan": ("extra",), "sources": ("table_fps", "from_table", "caption_beside")}
"""Last columns of a kind that parts of older datasets lack; null there."""


class Parts:
    """The parts of one dataset's ledger."""

    def __init__(self, storage: Storage) -> None:
        """Read nothing yet."""
        self._storage = storage
        self._listed: dict[str, list[int]] | None = None
        self._read: dict[str, dict[int, Mapping[bytes, bytes]]] = {}  # kind -> part -> metadata
        self._whole: dict[str, pa.Table] = {}

    def numbers(self, kind: str) -> tuple[int, ...]:
        """Of all parts of a kind, in order."""
        return tuple(self._numbers().get(kind, ()))

    def next(self, kind: str) -> int:
        """The number of the part that comes next."""
        return max(self.numbers(kind), default=-1) + 1

    def write(self, kind: str, part: int, table: pa.Table) -> None:
        """Write a part; one of the same number that nobody was to see yet is replaced."""
        write_parquet(self._storage, part_key(kind, part), table)
        if part in self.numbers(kind):
            self._read.pop(kind, None)
            self._whole.pop(kind, None)
        else:
            self._numbers().setdefault(kind, []).append(part)

    def read(self, kind: str, part: int) -> pa.Table:
        """One part, as it was written."""
        return read_parquet(self._storage, part_key(kind, part))

    def all(self, kind: str, schema: pa.Schema) -> pa.Table:
        """The rows of all parts in order, with one more column: `PART`."""
        known = self._read.setdefault(kind, {})
        new = [part for part in self.numbers(kind) if part not in known]
        tables = [self.read(kind, part) for part in new]
        known |= {part: table.schema.metadata or {} for part, table in zip(new, tables, strict=True)}
        whole = self._whole.get(kind)
        numbered = [
            _numbered(with_added(table, schema, ADDED.get(kind, ())).cast(schema), part)
            for part, table in zip(new, tables, strict=True)
        ]
        if whole is None:
            whole = pa.concat_tables([schema.append(PART).empty_table(), *numbered]).combine_chunks()
        elif numbered:
            whole = pa.concat_tables([whole, *numbered])
        self._whole[kind] = whole
        return whole

    def metadata(self, kind: str) -> Mapping[int, Mapping[bytes, bytes]]:
        """What the schemas of all parts of a kind say besides, by part; of those that `all` has read."""
        return self._read.get(kind, {})

    def _numbers(self) -> dict[str, list[int]]:
        if self._listed is None:
            self._listed = {}
            for key in self._storage.list("ledger"):
                kind, _, number = key.removeprefix("ledger/").removesuffix(".parquet").rpartition("-")
                if number.isdigit():
                    self._listed.setdefault(kind, []).append(int(number))
        return self._listed


def with_added(part: pa.Table, schema: pa.Schema, added: Collection[str]) -> pa.Table:
    """A part with those of the added columns that it was written without."""
    for field in map(schema.field, added):
        if field.name not in part.column_names:
            part = part.append_column(field, pa.nulls(part.num_rows, field.type))
    return part


def _numbered(table: pa.Table, part: int) -> pa.Table:
    return table.replace_schema_metadata().append_column(PART, pa.repeat(part, table.num_rows).cast(PART.type))


def part_key(kind: str, part: int) -> str:
    """Where a part lies in the dataset."""
    return f"ledger/{kind}-{part:08d}.parquet"
