"""An MLflow server or database: how it is reached, and what its errors mean."""

import logging
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking.uris import database_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "longtake"
"""All lines are runs of one MLflow experiment."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the outbox asks again; 7, the default, waits four minutes, and logs each
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a runner of 251 MB, and an attack surface, for nothing we use
}
"""How MLflow is run where the user's environment does not say otherwise."""

TRY_LATER = (408, 429)
"""HTTP statuses of a server that is there, and too busy now."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A tracking server or database that answered.

    Attributes:
        uri: Its tracking URI.
        client: MLflow's, without a global active run.
        experiment_id: Of `EXPERIMENT` there.
    """

    uri: str
    client: "MlflowClient"
    experiment_id: str


def connect(uri: str) -> Server:
    """Reaches a server or database; raises one of `tracking_errors`.

    Args:
        uri: ``sqlite:///FILE`` or ``http(s)://HOST``.
    """
    _prepare_environment()
    _check_database(uri)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return Server(uri=uri, client=client, experiment_id=_find_or_create_experiment(client, uri))


def holds_runs(database: Path) -> bool:
    """Whether a run was ever tracked in a SQLite file, which is only read; False if there is none.

    Raises:
        sqlite3.Error: If it is not a database, or damaged.
    """
    if not database.is_file():
        return False
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return False  # MLflow has not made its tables yet
        return connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None


@cache
def tracking_errors() -> tuple[type[Exception], ...]:
    """All that a server or database may answer with; requests' errors are `OSError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)


def is_refusal(error: Exception) -> bool:
    """Whether asking again is of no use: the server does not want what it got, or there is no such file."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return 400 <= status < 500 and status not in TRY_LATER
    # sqlite3 raises this class itself, and none below it, for a file that is not a database or is damaged
    return type(error) is sqlite3.DatabaseError or isinstance(error, (FileNotFoundError, NotADirectoryError))


def _prepare_environment() -> None:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Both tell of every migration of a new database.
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _check_database(uri: str) -> None:
    """Opens a SQLite file first: MLflow tries ten times, which takes 100 s, if it cannot."""
    path = database_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        finally:
            connection.close()


def _find_or_create_experiment(client: "MlflowClient", uri: str) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return known.experiment_id
    try:
        return client.create_experiment(EXPERIMENT, artifact_location=_artifact_location(uri))
    except MlflowException as error:
        known = client.get_experiment_by_name(EXPERIMENT)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or known is None:
            raise
        return known.experiment_id


def _artifact_location(uri: str) -> str | None:
    """A folder beside a database; a server chooses its own."""
    path = database_path(uri)
    return None if path is None else (path.resolve().parent / "mlflow-artifacts").as_uri()
