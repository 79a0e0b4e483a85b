import sqlite3
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException, get_error_code

from pipeline.tracking.server import connect, holds_runs, is_refusal, tracking_errors
from pipeline.tracking.uris import default_uri


def test_a_database_with_a_run_holds_runs(uri: str, tmp_path: Path) -> None:
    server = connect(uri)
    assert not holds_runs(tmp_path / "mlflow.db")
    server.client.create_run(server.experiment_id)
    assert holds_runs(tmp_path / "mlflow.db")


def test_a_database_that_is_not_made_yet_holds_none_and_is_not_made(tmp_path: Path) -> None:
    assert not holds_runs(tmp_path / "mlflow.db")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mlflow.db").touch()
    assert not holds_runs(tmp_path / "mlflow.db")


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_server_that_does_not_want_it_is_not_asked_again(status: int) -> None:
    assert is_refusal(MlflowException("no", error_code=get_error_code(status)))


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_a_server_that_is_busy_or_broken_is_asked_again(status: int) -> None:
    assert not is_refusal(MlflowException("later", error_code=get_error_code(status)))


def test_a_file_that_is_no_database_will_not_become_one(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(tracking_errors()) as error:
        connect(default_uri(tmp_path))
    assert is_refusal(error.value)


def test_a_database_that_cannot_be_opened_now_may_be_there_later(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(sqlite3.OperationalError) as error:
        connect(default_uri(tmp_path))
    assert not is_refusal(error.value)
