"""How far long work is: a bar on a terminal, a line a minute elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 60.0
"""Time between lines where there is no terminal."""


class Meter:
    """Counts finished pieces of one kind of work; `advance` is called from one thread."""

    def __init__(self, label: str, total: int | None, bar: "Progress | None") -> None:
        """Starts at zero of `total` pieces, None if that is not known yet."""
        self._label, self._total, self._count, self._note = label, total, 0, ""
        self._bar = bar
        self._task = bar.add_task(label, total=total, note="") if bar else None
        self._last_line_s = time.monotonic()

    def advance(self, pieces: int = 1, note: str = "") -> None:
        """Says that some pieces are done, with a word about where we are."""
        self._count += pieces
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._count, note=note)
        elif time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            sys.stderr.write(f"{self._label}: {self._count} of {self._total or '?'} {note}\n")

    def grow(self, pieces: int) -> None:
        """Adds pieces to the total."""
        self._total = (self._total or 0) + pieces
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=self._total)


@contextmanager
def progress() -> Iterator["Meters"]:
    """Meters that end with the block."""
    if not sys.stderr.isatty():
        yield Meters(None)
        return
    with _bar() as bar:
        yield Meters(bar)


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))


class Meters:
    """Makes meters that share one display."""

    def __init__(self, bar: "Progress | None") -> None:
        """Takes the display, None where there is no terminal."""
        self._bar = bar

    def meter(self, label: str, total: int | None = None) -> Meter:
        """A new meter, at zero."""
        return Meter(label, total, self._bar)
