"""Paths that are folders, or may become ones."""

from pathlib import Path


def refuse_file(path: Path, *, holds: str = "") -> None:
    """Raise where a folder could neither be there nor be made.

    Args:
        path: Of the folder.
        holds: What shall be in it, for people.

    Raises:
        ValueError: If the path, or one above it, is a file.
    """
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            inside = holds or (str(path) if part != path else "")
            raise ValueError(f"{part} is a file; expected a folder" + (f" for {inside}" if inside else ""))
