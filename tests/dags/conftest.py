"""A tiny fake of Ray's jobs API, on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "test-token"


class FakeRay(ThreadingHTTPServer):
    """Holds jobs; each look at one moves it along its script of statuses, and the last one stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.scripts: list[list[str]] = []
        self.left: dict[str, list[str]] = {}
        self.exit_status = 1

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def look(self, submission_id: str) -> dict[str, Any]:
        left = self.left[submission_id]
        status = left.pop(0) if len(left) > 1 else left[0]
        code = {"SUCCEEDED": 0, "FAILED": self.exit_status}.get(status)
        return {"submission_id": submission_id, "status": status, "driver_exit_code": code, "message": "the log's end"}


class Handler(BaseHTTPRequestHandler):
    server: FakeRay

    def do_GET(self) -> None:
        submission_id = self.path.removeprefix("/api/jobs/")
        known = submission_id in self.server.left
        self._answer(200 if known else 404, self.server.look(submission_id) if known else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.path.endswith("/stop"):
            self.server.stopped.append(self.path.split("/")[-2])
            return self._answer(200, {"stopped": True})
        if body["submission_id"] in self.server.left:
            return self._answer(500, {"error": "already exists"})
        self.server.submitted.append(body)
        self.server.left[body["submission_id"]] = (
            self.server.scripts.pop(0) if self.server.scripts else ["RUNNING", "SUCCEEDED"]
        )
        return self._answer(200, {"submission_id": body["submission_id"]})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.send_response(status if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body if allowed else {}).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    """The fake, and Airflow's connection to it."""
    server = FakeRay()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    connection = {"conn_type": "http", "host": server.address, "password": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_LONGTAKE_RAY", json.dumps(connection))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
