import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.tracking.uris import UI_FOLDER, default_uri, ui_command
from pipeline.ui import say_if_empty, serve_ui

SERVE = "import sys; from pipeline.ui import serve_ui; sys.exit(serve_ui(sys.argv[1], int(sys.argv[2]), lambda a: print(a, flush=True)))"


def test_a_server_has_its_own_page() -> None:
    announced: list[str] = []
    assert serve_ui("https://me:secret@tracking.example", 5000, announced.append) == 0
    assert announced == ["https://tracking.example"]


def test_nothing_tracked_has_no_page() -> None:
    with pytest.raises(ValueError, match="nothing was tracked"):
        serve_ui("none", 5000, print)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (default_uri(UI_FOLDER), "make ui"),
        ("sqlite:////my runs/mlflow.db", "longtake ui --tracking-uri 'sqlite:////my runs/mlflow.db'"),
        ("https://me:secret@tracking.example", "longtake ui --tracking-uri https://tracking.example"),
        ("none", "not tracked"),
    ],
)
def test_what_is_to_be_typed_names_the_database_where_it_is_not_the_usual_one(uri: str, said: str) -> None:
    assert ui_command(uri) == said


def test_a_page_without_runs_is_said_to_be_empty_and_where_they_were_looked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    say_if_empty(tmp_path / "mlflow.db")
    assert f"no run is tracked in {tmp_path / 'mlflow.db'}, which is not there" in caplog.text


def test_a_page_with_runs_needs_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE runs AS SELECT 'a run' AS run_uuid")
    say_if_empty(tmp_path / "mlflow.db")
    assert not caplog.messages


@pytest.mark.slow
def test_the_page_avoids_a_taken_port_and_leaves_nothing_running(uri: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, uri, str(port)],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address
        assert not address.endswith(f":{port}")
        with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(f"{address}/health", timeout=5)
