"""Where to track: MLflow's tracking URIs."""

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

OFF = "none"
"""The tracking URI that tracks nothing."""

SQLITE = "sqlite:///"

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Databases that MLflow takes, alone or with a driver, as in ``mysql+pymysql://``."""

STORES = ("", "file", "http", "https", "databricks", *DATABASES)
"""Schemes that MLflow takes by itself; "" is a path."""

PLUGINS = "mlflow.tracking_store"
"""Entry points of this group, named as their schemes, are stores that other packages add to MLflow."""

UI_FOLDER = Path("runs")
"""The database in this folder is the one that `longtake ui` shows where no other is named."""


def default_uri(folder: Path) -> str:
    """The tracking database beside a run: a SQLite file in `folder`, its artifacts in a folder beside it."""
    return f"{SQLITE}{folder.resolve() / 'mlflow.db'}"


def refuse_unknown_store(uri: str | None) -> str | None:
    """A tracking URI as it is, or None; asks no server, and MLflow is not imported.

    Raises:
        ValueError: If MLflow has no store for its scheme.
    """
    if not uri or uri in (OFF, "databricks"):
        return uri
    scheme = urlsplit(uri).scheme
    base, _, driver = scheme.partition("+")
    known = base in DATABASES if driver else scheme in STORES
    if not known and scheme not in entry_points(group=PLUGINS).names:
        raise ValueError(
            f"--tracking-uri {without_secrets(uri)}: MLflow tracks nothing in {scheme}:; expected http(s)://HOST,"
            f" sqlite:///FILE, another database ({', '.join(DATABASES[1:])}), a folder, or none"
        )
    return uri


def database_path(uri: str) -> Path | None:
    """The file of a SQLite database; None for what is none."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


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
