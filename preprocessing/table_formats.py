"""CSV, TSV, JSONL and Parquet to rows of named values.

Quotes follow CSV's rules in TSV too: what begins with one ends with one, may hold tabs and ends of lines, and doubles those in it.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_ABOUT_QUOTES = (
    'is a quote (") not closed, or not doubled? In CSV and TSV a value that begins with a quote ends at the next single one, over '
    "lines too: begin no value with one, or put it in quotes and double those in it"
)

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def is_table(name: str) -> bool:
    """Whether a file's name says that it is a table."""
    return PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES


def table_rows(name: str, file: BinaryIO) -> tuple[Iterable[str], Iterator[Mapping[str, object]]]:
    """Column names, and the rows, read as they are asked for.

    Raises:
        ValueError: If the file is no such table; it names the row.
    """
    match PurePosixPath(name).suffix.lower():
        case ".csv":
            return _csv_rows(name, file, delimiter=",")
        case ".tsv":
            return _csv_rows(name, file, delimiter="\t")
        case ".jsonl":
            return _jsonl_rows(name, file)
        case _:
            return _parquet_rows(name, file)


def _csv_rows(name: str, file: BinaryIO, *, delimiter: str) -> tuple[Iterable[str], Iterator[Mapping[str, object]]]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True, delimiter=delimiter)
    with _refusing(name, lambda: "header"):
        header = next(reader, [])
    twice = {column for column in header if column and header.count(column) > 1}
    if twice:
        raise ValueError(f"{name}: there are two columns {', '.join(sorted(twice))}")

    def rows() -> Iterator[Mapping[str, object]]:
        number, line = 0, reader.line_num + 1
        with _refusing(name, lambda: f"row {number + 1}, from line {line} on"):
            for values in filter(None, reader):
                if any(values[len(header) :]):
                    raise ValueError(f"it has {len(values)} values, the header {len(header)} columns")
                number += 1
                line = reader.line_num + 1
                yield dict(zip(header, values, strict=False))

    return header, rows()


def _jsonl_rows(name: str, file: BinaryIO) -> tuple[Iterable[str], Iterator[Mapping[str, object]]]:
    """Reads the file twice: any row may be the first to name a column."""
    columns = dict.fromkeys(column for row in _json_objects(name, file) for column in row)
    file.seek(0)
    return columns, _json_objects(name, file)


def _json_objects(name: str, file: BinaryIO) -> Iterator[Mapping[str, object]]:
    number = 0
    with _refusing(name, lambda: f"row {number + 1}"):
        for line in filter(bytes.strip, file):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected a JSON object, got {line.strip()[:40].decode(errors='replace')}")
            number += 1
            yield row


def _parquet_rows(name: str, file: BinaryIO) -> tuple[Iterable[str], Iterator[Mapping[str, object]]]:
    with _refusing(name, lambda: "footer"):
        table = pq.ParquetFile(file)

    def rows() -> Iterator[Mapping[str, object]]:
        with _refusing(name, lambda: "data"):
            for batch in table.iter_batches():
                yield from batch.to_pylist()

    return table.schema_arrow.names, rows()


@contextmanager
def _refusing(name: str, place: Callable[[], str]) -> Iterator[None]:
    """Turns what readers raise into one message that names the table and the place."""
    try:
        yield
    except csv.Error as error:
        raise ValueError(f"{name} is no readable table ({place()}): {error}; {_ABOUT_QUOTES}") from error
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{name} is no readable table ({place()}): {error}") from error
