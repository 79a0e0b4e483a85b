import json
import logging
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.lines import RUNS_FILE, RunSlot, find_or_create_line, open_run
from pipeline.tracking.outbox import RETRY_AFTER_S, Outbox
from pipeline.tracking.server import connect
from pipeline.tracking.tracked_run import TrackedRun, Tracking
from pipeline.tracking.uris import default_uri
from preprocessing.storage import open_storage


def teacher_run(uri: str, home: Path) -> TrackedRun:
    tracking = Tracking(uri=uri, line=None)
    return tracking.open(kind="train-teacher", run_key="", home=home, line="street", kept_in="metrics.jsonl")


def run_id(home: Path) -> str:
    """Of the only run that the directory has."""
    (kept,) = json.loads((home / RUNS_FILE).read_text()).values()
    return kept


def use_everything(run: TrackedRun, home: Path) -> None:
    page = home / "index.html"
    page.write_text("<p>report</p>")
    run.log_params({"optimizer.lr": 1e-5, "note": "x" * 9000})
    run.log_metrics_batch({step: {"loss": 1 / (1 + step), "grad_norm": 2.0} for step in range(5)})
    run.log_artifact(page, folder="report")
    run.log_dataset(name="street", manifest_sha256="ab" * 32, uri="s3://user:pass@host/street")
    run.set_tags({"longtake.code": "abc"})
    run.finish("FINISHED")


def assert_all_is_there(uri: str, run_id: str) -> None:
    client = MlflowClient(uri)
    stored = client.get_run(run_id)
    line = find_or_create_line(connect(uri), "street")
    assert stored.data.tags["mlflow.parentRunId"] == line
    assert stored.data.tags["longtake.code"] == "abc"
    assert stored.data.params["optimizer.lr"] == "1e-05"
    assert [metric.value for metric in client.get_metric_history(run_id, "loss")] == [1 / (1 + s) for s in range(5)]
    assert [file.path for file in client.list_artifacts(run_id, "report")] == ["report/index.html"]
    dataset = stored.inputs.dataset_inputs[0].dataset
    assert ("ab" * 32).startswith(dataset.digest)
    assert "pass" not in dataset.source
    assert "ab" * 32 in dataset.source
    assert stored.info.status == client.get_run(line).info.status == "FINISHED"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("pipeline.tracking")]


def test_children_hang_below_their_line_with_all_that_was_logged(uri: str, tmp_path: Path) -> None:
    use_everything(teacher_run(uri, tmp_path), tmp_path)
    assert_all_is_there(uri, run_id(tmp_path))
    assert (tmp_path / "mlflow-artifacts").is_dir()


def test_a_database_that_is_away_when_the_command_starts_gets_everything_when_it_is_back(
    migrated_database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "mlflow.db"
    database.mkdir()  # in the way: no database can be opened here
    run = teacher_run(default_uri(tmp_path), tmp_path)
    run.set_tags({"early": "yes"})
    database.rmdir()
    shutil.copy(migrated_database, database)
    use_everything(run, tmp_path)

    assert_all_is_there(default_uri(tmp_path), run_id(tmp_path))
    assert MlflowClient(default_uri(tmp_path)).get_run(run_id(tmp_path)).data.tags["early"] == "yes"
    away, back = said(caplog)
    assert away.startswith("tracking is away")
    assert "answers again" in back


def test_a_resumed_run_goes_on_and_logs_no_step_twice(uri: str, tmp_path: Path) -> None:
    first = teacher_run(uri, tmp_path)
    first.log_params({"seed": 0, "ranks": 2})
    first.log_metrics_batch({step: {"loss": float(step)} for step in range(6)})

    again = teacher_run(uri, tmp_path)
    again.log_params({"seed": 0, "ranks": 4})
    again.log_metrics_batch({step: {"loss": float(step)} for step in range(4, 8)})
    again.log_metrics_batch({7: {"loss": 7.0, "val_loss": 1.0}})

    client, there = MlflowClient(uri), run_id(tmp_path)
    assert [metric.step for metric in client.get_metric_history(there, "loss")] == list(range(8))
    assert [metric.step for metric in client.get_metric_history(there, "val_loss")] == [7]
    data = client.get_run(there).data
    assert data.params == {"seed": "0", "ranks": "2"}
    assert data.tags["longtake.attempt"] == "2"
    assert data.tags["attempt 2 ranks"] == "4"
    assert "attempt 2 seed" not in data.tags


def test_more_metrics_than_one_batch_may_hold_all_arrive(uri: str, tmp_path: Path) -> None:
    run = teacher_run(uri, tmp_path)
    run.log_metrics_batch({step: {"loss": 0.5, "lr": 1e-5, "grad_norm": 1.0} for step in range(700)})
    for key in ("loss", "lr", "grad_norm"):
        assert len(MlflowClient(uri).get_metric_history(run_id(tmp_path), key)) == 700


def test_a_server_that_is_down_costs_two_warnings_and_little_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:  # bound, not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        begin = time.monotonic()
        server = f"127.0.0.1:{closed.getsockname()[1]}"
        with caplog.at_level(logging.WARNING):
            use_everything(teacher_run(f"http://user:secret@{server}", tmp_path), tmp_path)
    away, never_back = (record.getMessage() for record in caplog.records)  # nor does anybody else say anything
    assert away.startswith("tracking is away:")
    assert "secret" not in away
    assert never_back == (
        f"http://{server} did not come back; not tracked: parameters, metrics, artifact {tmp_path / 'index.html'},"
        " dataset street, tags, status FINISHED; see metrics.jsonl"
    )
    assert not (tmp_path / RUNS_FILE).exists()
    assert time.monotonic() - begin < 15


class Away:
    """Stands before a client and answers nothing while it is away."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.is_away = client, False

    def __getattr__(self, name: str) -> object:
        if self.is_away:
            raise ConnectionError("connection refused")
        return getattr(self.client, name)


def test_what_a_server_missed_while_it_was_away_is_tracked_when_it_is_back(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    server = Away(MlflowClient(uri))
    slot = RunSlot(line="street", kind="train", run_key="", home=tmp_path, begun_ms=0)
    run = TrackedRun(
        Outbox(
            lambda: open_run(replace(connect(uri), client=server), slot), server=uri, kept_in="", clock=lambda: now[0]
        )
    )
    run.log_metrics_batch({1: {"loss": 1.0}})
    server.is_away = True
    run.log_metrics_batch({2: {"loss": 2.0}})
    run.set_tags({"a": 1})
    server.is_away = False
    run.log_metrics_batch({3: {"loss": 3.0}})  # too early to ask again
    history = MlflowClient(uri).get_metric_history(run_id(tmp_path), "loss")
    assert [metric.step for metric in history] == [1]

    now[0] = RETRY_AFTER_S
    run.log_metrics_batch({4: {"loss": 4.0}})

    history = MlflowClient(uri).get_metric_history(run_id(tmp_path), "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert MlflowClient(uri).get_run(run_id(tmp_path)).data.tags["a"] == "1"
    away, back = said(caplog)
    assert away.startswith("tracking is away")
    assert "answers again" in back


def test_what_a_server_refuses_does_not_hold_up_the_rest(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = teacher_run(uri, tmp_path)
    run.set_tags({"bad$name": 1})
    run.log_artifact(tmp_path / "gone.png")
    run.set_tags({"a": 1})
    assert MlflowClient(uri).get_run(run_id(tmp_path)).data.tags["a"] == "1"
    assert [text.partition(":")[0] for text in said(caplog)] == ["not tracked", "not tracked"]


def test_a_database_that_is_none_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database" * 100)
    use_everything(teacher_run(default_uri(tmp_path), tmp_path), tmp_path)
    (off,) = said(caplog)
    assert off.startswith("tracking is off:")


def test_tracking_uri_none_tracks_nothing_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    use_everything(teacher_run("none", tmp_path), tmp_path)
    assert not caplog.records
    assert not (tmp_path / RUNS_FILE).exists()


def result_run(uri: str, home: Path) -> TrackedRun | None:
    return Tracking(uri=uri, line=None).open_result(
        beside=open_storage(str(home)), kind="evaluate", run_key="a", home=home, line="street", kept_in="results.json"
    )


def test_a_result_that_the_server_has_is_not_tracked_again_and_no_server_is_asked(uri: str, tmp_path: Path) -> None:
    run = result_run(uri, tmp_path)
    assert run is not None
    use_everything(run, tmp_path)
    assert_all_is_there(uri, run_id(tmp_path))
    (tmp_path / "mlflow.db").unlink()
    assert result_run(uri, tmp_path) is None
    assert not (tmp_path / "mlflow.db").exists()


def test_a_result_that_was_killed_while_it_was_tracked_is_tracked_by_the_next_call(uri: str, tmp_path: Path) -> None:
    killed = result_run(uri, tmp_path)
    assert killed is not None
    killed.log_metrics_batch({0: {"loss": 1.0}})
    again = result_run(uri, tmp_path)
    assert again is not None
    use_everything(again, tmp_path)
    assert_all_is_there(uri, run_id(tmp_path))  # one run, no step twice


def test_a_result_whose_server_never_came_back_is_tracked_by_the_next_call(
    migrated_database: Path, tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"
    database.mkdir()  # in the way: no database can be opened here
    missed = result_run(default_uri(tmp_path), tmp_path)
    assert missed is not None
    use_everything(missed, tmp_path)
    database.rmdir()
    shutil.copy(migrated_database, database)
    again = result_run(default_uri(tmp_path), tmp_path)
    assert again is not None
    use_everything(again, tmp_path)
    assert_all_is_there(default_uri(tmp_path), run_id(tmp_path))


def test_a_result_is_tracked_nowhere_with_the_tracking_uri_none(tmp_path: Path) -> None:
    assert result_run("none", tmp_path) is None
    assert not list(tmp_path.iterdir())
