"""The study's rows as the tables and curves of a page."""

from pathlib import Path


def write_report(rows: Path, page: Path) -> None:
    """Put the rows' tables into a page."""
    raise NotImplementedError
