"""Lines and their runs: a line is a parent run, every command on it a child that goes on when the command does."""

import json
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking.mlflow_run import MlflowRun
from pipeline.tracking.server import Server
from pipeline.tracking.uris import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

RUNS_FILE = "tracking.json"
"""File in a run directory that keeps the ids of its MLflow runs."""


@dataclass(frozen=True, kw_only=True)
class RunSlot:
    """Which run a command is; the same slot in the same directory is the same run.

    Attributes:
        line: Name of the line.
        kind: preprocess, train-teacher, train-direct, generate, evaluate ...
        run_key: Tells the runs of one kind in `home` apart, for example a hash of what is tracked; may be empty.
        home: Run directory; keeps the ids in `RUNS_FILE`.
        begun_ms: When the command began, in milliseconds since 1970.
    """

    line: str
    kind: str
    run_key: str
    home: Path
    begun_ms: int

    def __post_init__(self) -> None:
        """Refuse a name that MLflow, whose filter language has no escapes, could not be asked for."""
        if "'" in self.line and '"' in self.line:
            raise ValueError(f"line {self.line!r} has both kinds of quotes; --line takes one kind at most")

    def key_at(self, uri: str) -> str:
        """The slot's key in `RUNS_FILE`, for one server."""
        return f"{without_secrets(uri)} {self.kind} {self.run_key}".rstrip()


def open_run(server: Server, slot: RunSlot) -> MlflowRun:
    """The run of a slot, made or gone on with; its line runs as well."""
    parent = find_or_create_line(server, slot.line)
    server.client.update_run(parent, status="RUNNING")
    kept = _live_run(server.client, _kept_runs(slot.home).get(slot.key_at(server.uri), ""))
    if kept is not None:
        _begin_next_attempt(server.client, kept)
        return MlflowRun(server.client, kept.info.run_id)
    run_id = _create_child(server, slot, parent)
    _keep_run(slot.home, slot.key_at(server.uri), run_id)
    return MlflowRun(server.client, run_id)


def find_or_create_line(server: Server, name: str) -> str:
    """Id of the parent run of a line."""
    lines = server.client.search_runs(
        [server.experiment_id],
        f"tags.`longtake.line` = {_quoted(name)} and tags.`longtake.kind` = 'line'",
        order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        max_results=1,
    )
    if lines:
        return lines[0].info.run_id
    tags = {"longtake.line": name, "longtake.kind": "line"}
    return server.client.create_run(server.experiment_id, tags=tags, run_name=name).info.run_id


def _create_child(server: Server, slot: RunSlot, parent: str) -> str:
    tags = {
        "mlflow.parentRunId": parent,
        "longtake.line": slot.line,
        "longtake.kind": slot.kind,
        "longtake.run_key": slot.run_key,
        "longtake.attempt": "1",
    }
    run = server.client.create_run(server.experiment_id, start_time=slot.begun_ms, tags=tags, run_name=slot.kind)
    return run.info.run_id


def _live_run(client: "MlflowClient", run_id: str) -> "Run | None":
    from mlflow.exceptions import MlflowException

    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _begin_next_attempt(client: "MlflowClient", run: "Run") -> None:
    attempt = int(run.data.tags.get("longtake.attempt", "1")) + 1
    client.update_run(run.info.run_id, status="RUNNING")
    client.set_tag(run.info.run_id, "longtake.attempt", str(attempt))


def _kept_runs(home: Path) -> dict[str, str]:
    try:
        return json.loads((home / RUNS_FILE).read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        logger.warning("%s is not JSON; MLflow runs begin anew", home / RUNS_FILE)
        return {}


def _keep_run(home: Path, key: str, run_id: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f".{RUNS_FILE}.{uuid.uuid4().hex}"
    temporary.write_text(json.dumps(_kept_runs(home) | {key: run_id}, indent=2))
    temporary.replace(home / RUNS_FILE)


def _quoted(text: str) -> str:
    """A string of MLflow's filter language."""
    return f'"{text}"' if "'" in text else f"'{text}'"
