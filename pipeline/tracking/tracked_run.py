"""The run of a command, as the command sees it: opened with what the command line says, safe to log to at any time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.lines import RunSlot, open_run
from pipeline.tracking.mlflow_run import MlflowRun, Status
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.receipts import Receipts
from pipeline.tracking.server import connect
from pipeline.tracking.uris import OFF, default_uri
from preprocessing.storage import Storage


class TrackedRun:
    """One child run; no call raises or waits for long, also where tracking is off or its server away."""

    def __init__(self, outbox: Outbox[MlflowRun] | None, *, on_whole: Callable[[], None] | None = None) -> None:
        """Asks nothing.

        Args:
            outbox: Takes what is logged; None where tracking is off.
            on_whole: Called when the run has ended and the server has all of it.
        """
        self._outbox, self._on_whole = outbox, on_whole

    def log_params(self, params: Mapping[str, object]) -> None:
        """Logs parameters once; one that changed since an earlier attempt becomes a tag of this attempt."""
        texts = {key: str(value) for key, value in params.items()}
        self._add("parameters", lambda run: run.log_params(texts))

    def log_metrics_batch(self, metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Logs curves: step -> name -> value; a step that a curve already has is not logged again."""
        at_ms = _now_ms()
        self._add("metrics", lambda run: run.log_metrics(metrics, at_ms=at_ms))

    def log_artifact(self, path: Path, *, folder: str = "") -> None:
        """Uploads a file, or a folder with all that is in it, below `folder`; it has to stay until the run has finished."""
        self._add(f"artifact {path}", lambda run: run.log_artifact(path, folder))

    def log_dataset(self, *, name: str, manifest_sha256: str, uri: str) -> None:
        """Names a dataset version as an input: its manifest's hash is the digest."""
        self._add(f"dataset {name}", lambda run: run.log_dataset(name=name, manifest_sha256=manifest_sha256, uri=uri))

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Sets tags; a later value replaces an earlier one."""
        texts = {key: str(value) for key, value in tags.items()}
        self._add("tags", lambda run: run.set_tags(texts))

    def finish(self, status: Status) -> None:
        """Ends the run, and lets its line show the same status; says what never reached the server."""
        if self._outbox is None:
            return
        is_whole = self._outbox.close(f"status {status}", lambda run: run.finish(status))
        if is_whole and self._on_whole is not None:
            self._on_whole()

    def _add(self, what: str, write: Callable[[MlflowRun], object]) -> None:
        if self._outbox is not None:
            self._outbox.add(what, write)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What the command line says about tracking; opened when there is something to track.

    Attributes:
        uri: Server or database; None for the database beside the run directory.
        line: Name of the parent run; None for the one that the command knows itself.
    """

    uri: str | None
    line: str | None

    def open(self, *, kind: str, run_key: str, home: Path, line: str, kept_in: str) -> TrackedRun:
        """The child run of a command; where the server is away, it is opened as soon as the server answers.

        Args:
            kind: preprocess, train-teacher, train-direct, generate, evaluate ...
            run_key: Tells the runs of one kind in `home` apart; may be empty.
            home: Run directory; keeps the ids of its runs, and the default database lies beside it.
            line: Name of the line where none was asked for.
            kept_in: Where what is logged can be read as well, for people.

        Raises:
            ValueError: If the line's name has both kinds of quotes.
        """
        uri = self._uri_for(home)
        if uri == OFF:
            return TrackedRun(None)
        return TrackedRun(self._outbox(uri, kind=kind, run_key=run_key, home=home, line=line, kept_in=kept_in))

    def open_result(
        self, *, beside: Storage, kind: str, run_key: str, home: Path, line: str, kept_in: str
    ) -> TrackedRun | None:
        """The run of a result that is there whole; None where the server has it, or where tracking is off.

        What a kill or an outage kept from the server is tracked by the next call: a receipt lies beside the result only
        when all of the run has arrived.

        Args:
            beside: The result's folder, also on an object store; keeps the receipts.
            kind: preprocess, generate, evaluate ...
            run_key: Names all that will be logged: another result is another run.
            home: As for `open`.
            line: As for `open`.
            kept_in: As for `open`.

        Raises:
            ValueError: If the line's name has both kinds of quotes.
        """
        uri = self._uri_for(home)
        receipts = Receipts(beside, uri)
        if uri == OFF or receipts.has(kind, run_key):
            return None
        outbox = self._outbox(uri, kind=kind, run_key=run_key, home=home, line=line, kept_in=kept_in)
        return TrackedRun(outbox, on_whole=lambda: receipts.add(kind, run_key))

    def _outbox(self, uri: str, *, kind: str, run_key: str, home: Path, line: str, kept_in: str) -> Outbox[MlflowRun]:
        slot = RunSlot(line=self.line or line, kind=kind, run_key=run_key, home=home, begun_ms=_now_ms())
        outbox = Outbox(lambda: open_run(connect(uri), slot), server=uri, kept_in=kept_in)
        outbox.deliver()
        return outbox

    def _uri_for(self, home: Path) -> str:
        return self.uri or default_uri(home.resolve().parent)


def _now_ms() -> int:
    return int(time.time() * 1000)
