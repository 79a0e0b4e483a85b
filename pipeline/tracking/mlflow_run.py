"""One run on a server: what is written to it, in MLflow's words, within MLflow's limits.

Each call may be made again, however far it came: nothing is then there twice.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pipeline.tracking.uris import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ends."""

MAX_METRICS = 1000
"""Metrics of one `log_batch` (MLflow's limit)."""

MAX_PARAMS = 100
"""Parameters or tags of one `log_batch` (MLflow's limit)."""

MAX_DIGEST = 36
"""Characters of a dataset's digest (MLflow's limit); the whole hash is in the dataset's source."""


class MlflowRun:
    """A run that is open on a server; every call raises one of `tracking_errors` where the server does not take it."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        """Names the run; nothing is asked of the server yet."""
        self.run_id = run_id
        self._client = client
        self._last_steps: dict[str, int] = {}

    def log_params(self, params: Mapping[str, str]) -> None:
        """Logs parameters once; one that changed since an earlier attempt becomes a tag of this attempt."""
        from mlflow.entities import Param

        run = self._client.get_run(self.run_id)
        # MLflow cuts long values, and a cut one must not look changed when it comes again.
        params = {key: value[: _max_param_length()] for key, value in params.items()}
        known = run.data.params
        fresh = [Param(key, value) for key, value in params.items() if key not in known]
        for chunk in _chunks(fresh, MAX_PARAMS):
            self._client.log_batch(self.run_id, params=chunk, synchronous=True)
        attempt = run.data.tags.get("longtake.attempt", "1")
        changed = {key: value for key, value in params.items() if known.get(key, value) != value}
        self.set_tags({f"attempt {attempt} {key}": value for key, value in changed.items()})

    def log_metrics(self, metrics: Mapping[int, Mapping[str, float]], *, at_ms: int) -> None:
        """Logs curves; a step that a curve already has is not logged again.

        Args:
            metrics: Step -> name -> value.
            at_ms: When they were measured, in milliseconds since 1970.
        """
        from mlflow.entities import Metric

        self._load_last_steps(set(chain.from_iterable(metrics.values())))
        fresh = [
            Metric(key, float(value), at_ms, step)
            for step, values in sorted(metrics.items())
            for key, value in values.items()
            if step > self._last_steps[key]
        ]
        for chunk in _chunks(fresh, MAX_METRICS):
            self._client.log_batch(self.run_id, metrics=chunk, synchronous=True)
            self._last_steps |= {metric.key: metric.step for metric in chunk}

    def log_artifact(self, path: Path, folder: str) -> None:
        """Uploads a file, or a folder with all that is in it, below `folder`."""
        upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        upload(self.run_id, str(path), folder or None)

    def log_dataset(self, *, name: str, manifest_sha256: str, uri: str) -> None:
        """Names a dataset version as an input: its manifest's hash is the digest."""
        from mlflow.entities import Dataset, DatasetInput

        source = json.dumps({"uri": without_secrets(uri), "manifest_sha256": manifest_sha256})
        dataset = Dataset(name=name, digest=manifest_sha256[:MAX_DIGEST], source_type="longtake", source=source)
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags=[])])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags; a later value replaces an earlier one."""
        from mlflow.entities import RunTag

        for chunk in _chunks([RunTag(key, value) for key, value in tags.items()], MAX_PARAMS):
            self._client.log_batch(self.run_id, tags=chunk, synchronous=True)

    def finish(self, status: Status) -> None:
        """Ends the run, and lets its line show the same status."""
        self._client.set_terminated(self.run_id, status)
        parent = self._client.get_run(self.run_id).data.tags.get("mlflow.parentRunId")
        if parent:
            self._client.set_terminated(parent, status)

    def _load_last_steps(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._last_steps:
                history = self._client.get_metric_history(self.run_id, key)
                self._last_steps[key] = max((metric.step for metric in history), default=-1)


@cache
def _max_param_length() -> int:
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    return MAX_PARAM_VAL_LENGTH


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
