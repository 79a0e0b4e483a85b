"""A folder of this process on this machine's disk; what killed processes left is removed by the next one of their kind."""

import shutil
import tempfile
from pathlib import Path

from preprocessing.lease import is_dead, this_process

_OWNER = "owner"


def process_folder(prefix: str) -> Path:
    """A new folder below `TMPDIR`, after those of processes that are gone have been removed; the caller removes this one.

    Args:
        prefix: Of the names of all folders of one kind. A folder whose process lives, or ran on another machine or in
            another container, stays.
    """
    _remove_remnants(Path(tempfile.gettempdir()), prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    (folder / _OWNER).write_text(this_process(), "utf-8")
    return folder


def _remove_remnants(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        try:
            owner = (folder / _OWNER).read_text("utf-8")
        except OSError:
            continue  # just being made, or somebody else's
        if is_dead(owner):
            shutil.rmtree(folder, ignore_errors=True)
