import logging
import shutil
import socket
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking import RETRY_AFTER_S, RUNS_FILE, TrackedRun, Tracker, default_uri, without_secrets


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, a copy of it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(migrated_database: Path, tmp_path: Path) -> str:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


def teacher_run(uri: str, home: Path) -> TrackedRun:
    return Tracker(uri).child(line="street", kind="train-teacher", run_key="", home=home)


def test_a_line_is_one_parent_run_whoever_asks(uri: str) -> None:
    name = "Lauf 'один' 100 %"
    assert Tracker(uri).line(name) == Tracker(uri).line(name)
    assert Tracker(uri).line(name) != Tracker(uri).line("another")


def test_children_hang_below_their_line_with_all_that_was_logged(uri: str, tmp_path: Path) -> None:
    run = teacher_run(uri, tmp_path)
    page = tmp_path / "index.html"
    page.write_text("<p>report</p>")
    run.log_params({"optimizer.lr": 1e-5, "note": "x" * 9000})
    run.log_metrics_batch({step: {"loss": 1 / (1 + step), "grad_norm": 2.0} for step in range(5)})
    run.log_artifact(page, folder="report")
    run.log_dataset(name="street", manifest_sha256="ab" * 32, uri="s3://user:pass@host/street")
    run.set_tags({"longtake.code": "abc"})
    run.finish("FINISHED")

    client = MlflowClient(uri)
    stored = client.get_run(run.run_id)
    assert stored.data.tags["mlflow.parentRunId"] == Tracker(uri).line("street")
    assert stored.data.tags["longtake.code"] == "abc"
    assert stored.data.params["optimizer.lr"] == "1e-05"
    assert [metric.value for metric in client.get_metric_history(run.run_id, "loss")] == [1 / (1 + s) for s in range(5)]
    assert [file.path for file in client.list_artifacts(run.run_id, "report")] == ["report/index.html"]
    assert (tmp_path / "mlflow-artifacts").is_dir()
    dataset = stored.inputs.dataset_inputs[0].dataset
    assert ("ab" * 32).startswith(dataset.digest)
    assert "pass" not in dataset.source
    assert "ab" * 32 in dataset.source
    assert stored.info.status == client.get_run(Tracker(uri).line("street")).info.status == "FINISHED"


def test_a_resumed_run_goes_on_and_logs_no_step_twice(uri: str, tmp_path: Path) -> None:
    first = teacher_run(uri, tmp_path)
    first.log_params({"seed": 0, "ranks": 2})
    first.log_metrics_batch({step: {"loss": float(step)} for step in range(6)})

    again = teacher_run(uri, tmp_path)
    again.log_params({"seed": 0, "ranks": 4})
    again.log_metrics_batch({step: {"loss": float(step)} for step in range(4, 8)})
    again.log_metrics_batch({7: {"loss": 7.0, "val_loss": 1.0}})

    client = MlflowClient(uri)
    assert again.run_id == first.run_id
    assert [metric.step for metric in client.get_metric_history(first.run_id, "loss")] == list(range(8))
    assert [metric.step for metric in client.get_metric_history(first.run_id, "val_loss")] == [7]
    data = client.get_run(first.run_id).data
    assert data.params == {"seed": "0", "ranks": "2"}
    assert data.tags["longtake.attempt"] == "2"
    assert data.tags["attempt 2 ranks"] == "4"
    assert "attempt 2 seed" not in data.tags


def test_another_stage_key_or_directory_is_another_run(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri)
    keys = [("train", "", "a"), ("train", "", "b"), ("train", "x", "a"), ("generate", "", "a")]
    runs = {
        tracker.child(line="street", kind=kind, run_key=key, home=tmp_path / home).run_id for kind, key, home in keys
    }
    assert len(runs) == 4


def test_a_run_that_was_deleted_begins_anew(uri: str, tmp_path: Path) -> None:
    first = teacher_run(uri, tmp_path)
    MlflowClient(uri).delete_run(first.run_id)
    assert teacher_run(uri, tmp_path).run_id not in ("", first.run_id)


def test_more_metrics_than_one_batch_may_hold_all_arrive(uri: str, tmp_path: Path) -> None:
    run = teacher_run(uri, tmp_path)
    run.log_metrics_batch({step: {"loss": 0.5, "lr": 1e-5, "grad_norm": 1.0} for step in range(700)})
    for key in ("loss", "lr", "grad_norm"):
        assert len(MlflowClient(uri).get_metric_history(run.run_id, key)) == 700


def test_a_server_that_is_down_costs_one_warning_and_little_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:  # bound, not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        begin = time.monotonic()
        tracker = Tracker(f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}")
        with caplog.at_level(logging.WARNING, logger="pipeline.tracking"):
            use_everything(tracker, tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.name == "pipeline.tracking"]
    assert len(warnings) == 1
    assert warnings[0].startswith("tracking is off:")
    assert "secret" not in warnings[0]
    assert not tracker.is_on
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
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    tracker = Tracker(uri, clock=lambda: now[0])
    run = tracker.child(line="street", kind="train", run_key="", home=tmp_path)
    server = Away(MlflowClient(uri))
    monkeypatch.setattr(tracker, "_client", server)
    run.log_metrics_batch({1: {"loss": 1.0}})
    server.is_away = True
    run.log_metrics_batch({2: {"loss": 2.0}})
    run.set_tags({"a": 1})
    server.is_away = False
    run.log_metrics_batch({3: {"loss": 3.0}})  # too early to ask again
    history = MlflowClient(uri).get_metric_history(run.run_id, "loss")
    assert [metric.step for metric in history] == [1]

    now[0] = RETRY_AFTER_S
    run.log_metrics_batch({4: {"loss": 4.0}})

    history = MlflowClient(uri).get_metric_history(run.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert MlflowClient(uri).get_run(run.run_id).data.tags["a"] == "1"
    said = [record.getMessage() for record in caplog.records if record.name == "pipeline.tracking"]
    assert len(said) == 2
    assert said[0].startswith("tracking is away")
    assert "answers again" in said[1]


def test_what_a_server_refuses_does_not_hold_up_the_rest(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = teacher_run(uri, tmp_path)
    run.set_tags({"bad$name": 1})
    run.set_tags({"a": 1})
    assert MlflowClient(uri).get_run(run.run_id).data.tags["a"] == "1"
    assert sum("not tracked" in record.getMessage() for record in caplog.records) == 1


def test_a_database_that_is_none_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database" * 100)
    use_everything(Tracker(default_uri(tmp_path)), tmp_path)
    assert [record.name for record in caplog.records].count("pipeline.tracking") == 1


def test_tracking_uri_none_tracks_nothing_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    use_everything(Tracker("none"), tmp_path)
    assert not caplog.records
    assert not (tmp_path / RUNS_FILE).exists()


def test_passwords_leave_urls() -> None:
    assert without_secrets("at http://user:secret@host:5000/x?y=1") == "at http://host:5000/x?y=1"


def use_everything(tracker: Tracker, home: Path) -> None:
    assert tracker.line("street") == ""
    run = tracker.child(line="street", kind="train", run_key="", home=home)
    run.log_params({"seed": 0})
    run.log_metrics_batch({0: {"loss": 1.0}})
    run.log_artifact(home)
    run.log_dataset(name="street", manifest_sha256="ab", uri="x")
    run.set_tags({"a": 1})
    run.finish("FAILED")
