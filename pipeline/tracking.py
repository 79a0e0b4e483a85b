"""MLflow, or nothing: the only file that knows MLflow, through its client and without a global active run.

A line is a parent run; every command on it is a child. What cannot be tracked is said once and never stops the work:
what a run missed while the server was away is logged when it is back.
"""

import json
import logging
import math
import os
import re
import shlex
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

T = TypeVar("T")

OFF = "none"
"""The tracking URI that tracks nothing."""

EXPERIMENT = "longtake"
"""All lines are runs of one MLflow experiment."""

MAX_METRICS = 1000
"""Metrics of one `log_batch` (MLflow's limit)."""

MAX_PARAMS = 100
"""Parameters or tags of one `log_batch` (MLflow's limit)."""

MAX_DIGEST = 36
"""Characters of a dataset's digest (MLflow's limit); the whole hash is in the dataset's source."""

RETRY_AFTER_S = 30.0
"""Before a server that went away is asked again."""

RUNS_FILE = "tracking.json"
"""File in a run directory that keeps the ids of its MLflow runs."""

SQLITE = "sqlite:///"

UI_FOLDER = Path("runs")
"""The database in this folder is the one that `longtake ui` shows where no other is named."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default, 7, waits four minutes for a server that is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a runner of 251 MB, and an attack surface, for nothing we use
}
"""How MLflow is run where the user's environment does not say otherwise."""


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


class Tracker:
    """A tracking server, a tracking database, or nothing.

    Where no run can be opened, tracking is off for the rest of the process: one warning, and no more waiting. A server that
    goes away later is asked again after `RETRY_AFTER_S`.
    """

    def __init__(self, uri: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Connects on first use.

        Args:
            uri: ``sqlite:///FILE``, ``http(s)://HOST`` or ``none``.
            clock: Seconds that never go back.
        """
        self.uri = uri
        self._off = uri == OFF
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._clock = clock
        self._ask_again_at = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether anything is tracked; False if no run could be opened."""
        return not self._off

    def line(self, name: str) -> str:
        """Id of the parent run of a line, which is made if there is none; "" where tracking is off."""
        return self._attempt(lambda client: self._find_or_create_line(client, name)) or ""

    def child(self, *, line: str, kind: str, run_key: str, home: Path) -> "TrackedRun":
        """The run of one command or stage; the same key in the same directory goes on in the same run.

        Args:
            line: Name of the line.
            kind: preprocess, train-teacher, train-direct, generate, evaluate ...
            run_key: Tells the runs of one kind in `home` apart, for example the manifest's hash; may be empty.
            home: Run directory; keeps the ids in `RUNS_FILE`.
        """
        run_id = self._attempt(lambda client: self._find_or_create_child(client, line, kind, run_key, home))
        return TrackedRun(self, run_id or "")

    def attach(self, run_id: str) -> "TrackedRun":
        """A run that another process made, by its id."""
        return TrackedRun(self, run_id)

    def _attempt(self, action: "Callable[[MlflowClient], T]") -> T | None:
        """What `action` gives, or None if tracking is off or fails, which turns it off."""
        if self._off:
            return None
        try:
            return action(self._connect())
        except _tracking_errors() as error:
            self._off = True
            logger.warning("tracking is off: %s; the work goes on without it", without_secrets(str(error)))
            return None

    def replay(self, actions: "list[Callable[[MlflowClient], object]]", *, patient: bool) -> None:
        """Do and remove actions in their order; those that the server is not there for stay.

        Args:
            actions: Each may be begun again, however far it came.
            patient: False asks a server again that was away a moment ago.
        """
        if self._off or (patient and self._clock() < self._ask_again_at):
            return
        was_away = self._ask_again_at > -math.inf
        while actions:
            try:
                actions[0](self._connect())
            except _tracking_errors() as error:
                if not _is_refusal(error):
                    self._put_off(error, was_away=was_away)
                    return
                logger.warning("not tracked: %s", without_secrets(str(error)))
            del actions[0]
        if was_away:
            self._ask_again_at = -math.inf
            logger.warning("%s answers again: what it missed is tracked now", without_secrets(self.uri))

    def _put_off(self, error: Exception, *, was_away: bool) -> None:
        self._ask_again_at = self._clock() + RETRY_AFTER_S
        if not was_away:
            message = without_secrets(str(error))
            logger.warning("tracking is away: %s; the work goes on, and what is missed is tracked later", message)

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            _prepare_environment()
            _check_database(self.uri)
            from mlflow import MlflowClient

            client = MlflowClient(self.uri)
            self._experiment_id = _find_or_create_experiment(client, self.uri)
            self._client = client
        return self._client

    def _find_or_create_line(self, client: "MlflowClient", name: str) -> str:
        lines = client.search_runs(
            [self._experiment_id],
            f"tags.`longtake.line` = {_quoted(name)} and tags.`longtake.kind` = 'line'",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=1,
        )
        if lines:
            return lines[0].info.run_id
        tags = {"longtake.line": name, "longtake.kind": "line"}
        return client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id

    def _find_or_create_child(self, client: "MlflowClient", line: str, kind: str, run_key: str, home: Path) -> str:
        parent = self._find_or_create_line(client, line)
        client.update_run(parent, status="RUNNING")
        slot = f"{without_secrets(self.uri)} {kind} {run_key}".rstrip()
        kept = _live_run(client, _kept_runs(home).get(slot, ""))
        if kept is not None:
            return _begin_next_attempt(client, kept)
        run_id = self._create_child(client, parent, line, kind, run_key)
        _keep_run(home, slot, run_id)
        return run_id

    def _create_child(self, client: "MlflowClient", parent: str, line: str, kind: str, run_key: str) -> str:
        tags = {
            "mlflow.parentRunId": parent,
            "longtake.line": line,
            "longtake.kind": kind,
            "longtake.run_key": run_key,
            "longtake.attempt": "1",
        }
        return client.create_run(self._experiment_id, tags=tags, run_name=kind).info.run_id


class TrackedRun:
    """One child run; every call is safe, also where tracking is off."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        """Names the run; nothing is asked of the server yet.

        Args:
            tracker: Where the run is.
            run_id: "" where tracking is off.
        """
        self.run_id = run_id
        self._tracker = tracker
        self._last_steps: dict[str, int] = {}
        self._waiting: list[Callable[[MlflowClient], object]] = []

    def log_params(self, params: Mapping[str, object]) -> None:
        """Logs parameters once; one that changed since an earlier attempt becomes a tag of this attempt."""
        self._attempt(lambda client: self._log_params(client, {key: str(value) for key, value in params.items()}))

    def log_metrics_batch(self, metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Logs curves: step -> name -> value; a step that a curve already has is not logged again."""
        self._attempt(lambda client: self._log_metrics(client, metrics))

    def log_artifact(self, path: Path, *, folder: str = "") -> None:
        """Uploads a file, or a folder with all that is in it, below `folder`."""
        upload = "log_artifacts" if path.is_dir() else "log_artifact"
        self._attempt(lambda client: getattr(client, upload)(self.run_id, str(path), folder or None))

    def log_dataset(self, *, name: str, manifest_sha256: str, uri: str) -> None:
        """Names a dataset version as an input: its manifest's hash is the digest."""
        self._attempt(lambda client: _log_dataset(client, self.run_id, name, manifest_sha256, uri))

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Sets tags; a later value replaces an earlier one."""
        self._attempt(lambda client: _set_tags(client, self.run_id, {key: str(value) for key, value in tags.items()}))

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Ends the run, and lets its line show the same status."""
        self._attempt(lambda client: _finish(client, self.run_id, status), patient=False)

    def _attempt(self, action: "Callable[[MlflowClient], object]", *, patient: bool = True) -> None:
        if self.run_id:
            self._waiting.append(action)
            self._tracker.replay(self._waiting, patient=patient)

    def _log_params(self, client: "MlflowClient", params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        run = client.get_run(self.run_id)
        # MLflow cuts long values, and a cut one must not look changed when it comes again.
        params = {key: value[: _max_param_length()] for key, value in params.items()}
        known = run.data.params
        fresh = [Param(key, value) for key, value in params.items() if key not in known]
        for chunk in _chunks(fresh, MAX_PARAMS):
            client.log_batch(self.run_id, params=chunk, synchronous=True)
        attempt = run.data.tags.get("longtake.attempt", "1")
        changed = {key: value for key, value in params.items() if known.get(key, value) != value}
        _set_tags(client, self.run_id, {f"attempt {attempt} {key}": value for key, value in changed.items()})

    def _log_metrics(self, client: "MlflowClient", metrics: Mapping[int, Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        self._load_last_steps(client, set(chain.from_iterable(metrics.values())))
        now_ms = int(time.time() * 1000)
        fresh = [
            Metric(key, float(value), now_ms, step)
            for step, values in sorted(metrics.items())
            for key, value in values.items()
            if step > self._last_steps[key]
        ]
        for chunk in _chunks(fresh, MAX_METRICS):
            client.log_batch(self.run_id, metrics=chunk, synchronous=True)
            self._last_steps |= {metric.key: metric.step for metric in chunk}

    def _load_last_steps(self, client: "MlflowClient", keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._last_steps:
                history = client.get_metric_history(self.run_id, key)
                self._last_steps[key] = max((metric.step for metric in history), default=-1)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What the command line says about tracking; opened when there is something to track.

    Attributes:
        uri: Server or database; None for the database beside the run directory.
        line: Name of the parent run; None for the one that the command knows itself.
    """

    uri: str | None
    line: str | None

    def open(self, *, kind: str, run_key: str, home: Path, line: str) -> TrackedRun:
        """The child run of a command.

        Args:
            kind: preprocess, train-teacher, train-direct, generate, evaluate ...
            run_key: Tells the runs of one kind in `home` apart; may be empty.
            home: Run directory; keeps the ids of its runs, and the default database lies beside it.
            line: Name of the line where none was asked for.
        """
        tracker = Tracker(self.uri or default_uri(home.resolve().parent))
        return tracker.child(line=self.line or line, kind=kind, run_key=run_key, home=home)


def _prepare_environment() -> None:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Both tell of every migration of a new database.
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


@cache
def _tracking_errors() -> tuple[type[Exception], ...]:
    """All that a server or database may answer with; requests' errors are `OSError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)


def _is_refusal(error: Exception) -> bool:
    """Whether the server was there and does not want what it got, now or ever."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and 400 <= error.get_http_status_code() < 500


@cache
def _max_param_length() -> int:
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    return MAX_PARAM_VAL_LENGTH


def _check_database(uri: str) -> None:
    """Opens a SQLite file first: MLflow tries ten times, which takes 100 s, if it cannot."""
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
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
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).resolve().parent / "mlflow-artifacts").as_uri()


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


def _begin_next_attempt(client: "MlflowClient", run: "Run") -> str:
    attempt = int(run.data.tags.get("longtake.attempt", "1")) + 1
    client.update_run(run.info.run_id, status="RUNNING")
    client.set_tag(run.info.run_id, "longtake.attempt", str(attempt))
    return run.info.run_id


def _kept_runs(home: Path) -> dict[str, str]:
    try:
        return json.loads((home / RUNS_FILE).read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        logger.warning("%s is not JSON; MLflow runs begin anew", home / RUNS_FILE)
        return {}


def _keep_run(home: Path, slot: str, run_id: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f".{RUNS_FILE}.{uuid.uuid4().hex}"
    temporary.write_text(json.dumps(_kept_runs(home) | {slot: run_id}, indent=2))
    temporary.replace(home / RUNS_FILE)


def _log_dataset(client: "MlflowClient", run_id: str, name: str, manifest_sha256: str, uri: str) -> None:
    from mlflow.entities import Dataset, DatasetInput

    source = json.dumps({"uri": without_secrets(uri), "manifest_sha256": manifest_sha256})
    dataset = Dataset(name=name, digest=manifest_sha256[:MAX_DIGEST], source_type="longtake", source=source)
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[])])


def _set_tags(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    for chunk in _chunks([RunTag(key, value) for key, value in tags.items()], MAX_PARAMS):
        client.log_batch(run_id, tags=chunk, synchronous=True)


def _finish(client: "MlflowClient", run_id: str, status: str) -> None:
    client.set_terminated(run_id, status)
    parent = client.get_run(run_id).data.tags.get("mlflow.parentRunId")
    if parent:
        client.set_terminated(parent, status)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _quoted(text: str) -> str:
    """A string of MLflow's filter language, which has no escapes; raises `ValueError` for one that has both quotes."""
    if "'" in text and '"' in text:
        raise ValueError(f"line {text!r} has both kinds of quotes; --line takes one kind at most")
    return f'"{text}"' if "'" in text else f"'{text}'"


def without_secrets(text: str) -> str:
    """The text without user names and passwords in URLs."""
    return re.sub(r"//[^/@\s]*@", "//", text)
