"""Results go to stdout, everything else to stderr."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_results = sys.stdout


def claim_stdout() -> None:
    """Keeps stdout for results: what any library or child process writes to it from now on goes to stderr."""
    global _results
    sys.stdout.flush()
    _results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def say(text: str) -> None:
    """One result, or a line of one."""
    _results.write(text + "\n")
    _results.flush()


def emit(result: Mapping[str, Any], *, as_json: bool, lines: Iterable[str]) -> None:
    """The result as one JSON object, or as lines for people."""
    say(json.dumps(result, ensure_ascii=False, default=str) if as_json else "\n".join(lines))


def counts(title: str, numbers: Mapping[str, int]) -> str:
    """One line: ``title: 3 of this, 2 of that``."""
    return f"{title}: " + (", ".join(f"{number} {name}" for name, number in numbers.items()) or "none")


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV; lists as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row[name]) for name in columns} for row in rows)
    return text.getvalue().rstrip("\n")


def as_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows in columns of equal width, for people."""
    cells = [list(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)
