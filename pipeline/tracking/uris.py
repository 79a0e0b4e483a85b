"""Where to track: MLflow's tracking URIs."""

import re
import shlex
from pathlib import Path

OFF = "none"
"""The tracking URI that tracks nothing."""

SQLITE = "sqlite:///"

UI_FOLDER = Path("runs")
"""The database in this folder is the one that `longtake ui` shows where no other is named."""


def default_uri(folder: Path) -> str:
    """The tracking database beside a run: a SQLite file in `folder`, its artifacts in a folder beside it."""
    return f"{SQLITE}{folder.resolve() / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    """What to type for the page of a tracking URI; where nothing was tracked, that."""
    if uri == OFF:
        return "not tracked"
    if uri == default_uri(UI_FOLDER):
        return "make ui"
    return f"longtake ui --tracking-uri {shlex.quote(without_secrets(uri))}"


def without_secrets(text: str) -> str:
    """The text without user names and passwords in URLs."""
    return re.sub(r"//[^/@\s]*@", "//", text)
