"""Warnings of a stage as files: how what its workers have to say reaches whoever started it, and MLflow.

What a worker logs stays with Ray, maybe on another machine. So each rank keeps the warnings of our packages in a file of its own
in the stage's folder. The driver says them again, each once, and keeps what was said, by itself too, in ``warnings.log``.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = ("pipeline", "training", "evaluation", "preprocessing")
"""Whose warnings are for people; libraries' stay with Ray."""

OF_RANKS = "warnings"
"""Folder of the ranks' files, in that of a stage."""

OF_STAGE = "warnings.log"
"""The driver's file, in the same place."""


def rank_file(stage_folder: Path, rank: int) -> Path:
    """Where a rank keeps its warnings."""
    return stage_folder / OF_RANKS / f"rank-{rank:05}.log"


def forget(stage_folder: Path) -> None:
    """Remove what the ranks of an earlier command kept."""
    for path in (stage_folder / OF_RANKS).glob("*.log"):
        path.unlink()


@contextmanager
def kept_warnings(path: Path) -> Iterator[None]:
    """Inside, every warning of our packages is added to a file, a line each, if it is not there yet."""
    handler = _Lines(path)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


class _Lines(logging.Handler):
    """Adds lines ``logger: message`` to a file, which comes with the first."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self._path = path
        self._kept = set(path.read_text("utf-8", errors="replace").splitlines()) if path.is_file() else set()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.name}: {' '.join(record.getMessage().split())}"
        if line in self._kept:
            return
        self._kept.add(line)
        with suppress(OSError):  # a full disk ends the run soon enough, and says so
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{line}\n")


class RankWarnings:
    """Follows the files of the ranks of a stage."""

    def __init__(self, stage_folder: Path) -> None:
        """Has said nothing yet."""
        self._folder = stage_folder / OF_RANKS
        self._offsets: dict[Path, int] = {}
        self._said: set[str] = set()

    def say_new(self) -> None:
        """Log what is new, under the name of the logger that it comes from; what several ranks say, once."""
        for path in sorted(self._folder.glob("*.log")):
            for line in self._new_lines(path):
                if line not in self._said:
                    self._said.add(line)
                    name, _, message = line.partition(": ")
                    logging.getLogger(name).warning("%s", message)

    def _new_lines(self, path: Path) -> list[str]:
        """Whole lines that were not read before."""
        try:
            with path.open("rb") as file:
                start = file.seek(self._offsets.get(path, 0))
                data = file.read()
        except OSError:  # a shared disk that stumbles must not end who follows; the next look reads them
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = start + len(whole)
        return whole.decode("utf-8", errors="replace").splitlines()
