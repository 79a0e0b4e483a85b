"""A Ray head and an MLflow database of the tests' own."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from pipeline.tracking.uris import default_uri

START_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class RayHead:
    """A fresh Ray head: where it listens, and the token that it asks for."""

    address: str
    gcs_address: str
    token: str
    home: Path
    pid: int

    def num_clusters(self) -> int:
        """Rays among its processes and all that they started."""
        return sum(_name(one) == "gcs_server" for one in psutil.Process(self.pid).children(recursive=True))


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


PORT_OPTIONS = (
    "--dashboard-port", "--port", "--dashboard-agent-listen-port", "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port", "--ray-client-server-port", "--metrics-export-port",
)  # fmt: skip


def _start(home: Path, token: str) -> tuple[RayHead, subprocess.Popen[bytes]]:
    """Starts a head with ports and a folder of its own: two heads on one machine share nothing."""
    ports = dict(zip(PORT_OPTIONS, _free_ports(len(PORT_OPTIONS)), strict=True))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environ |= {
        "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd()),
    }  # fmt: skip
    command = [
        f"{Path(sys.executable).parent}/ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", "--include-dashboard=true", f"--object-store-memory={200 * 1024**2}",
        f"--temp-dir={home}", *(f"{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with (home / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    head = RayHead(
        address=f"http://127.0.0.1:{ports['--dashboard-port']}",
        gcs_address=f":{ports['--port']}",
        token=token,
        home=home,
        pid=process.pid,
    )
    return head, process


def _wait(head: RayHead, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{head.address}/api/gcs_healthz", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the Ray head did not start: {(head.home / 'head.log').read_text()[-2000:]}")


def _kill(home: Path, process: subprocess.Popen[bytes]) -> None:
    """Kills the head's processes and nobody else's: those of its session, those that name its folder, and whatever they started."""
    mine = {psutil.Process(process.pid)} if process.poll() is None else set()
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(candidate.pid) == process.pid or str(home) in " ".join(candidate.cmdline()):
                mine |= {candidate, *candidate.children(recursive=True)}
    for one in mine:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(mine, timeout=10)
    process.wait(timeout=10)


@pytest.fixture(scope="session")
def running_ray_head() -> Iterator[RayHead]:
    """One head for all tests: it takes twenty seconds to start. Its folder is short, because sockets lie in it."""
    home = Path(tempfile.mkdtemp(prefix="lt"))
    head, process = _start(home, token="test-token")
    try:
        _wait(head, process)
        yield head
    finally:
        _kill(home, process)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def ray_head(running_ray_head: RayHead, monkeypatch: pytest.MonkeyPatch) -> RayHead:
    """The head, and its token in the environment of whoever submits."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", running_ray_head.token)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return running_ray_head


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, a copy of it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(migrated_database: Path, tmp_path: Path) -> str:
    """Of a database to track in: the one beside runs in the test's folder."""
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return default_uri(tmp_path)
