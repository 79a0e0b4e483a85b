"""The page of a tracking database, on loopback, until interrupted."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pipeline.tracking.server import ENVIRONMENT, holds_runs
from pipeline.tracking.uris import OFF, database_path, without_secrets

logger = logging.getLogger(__name__)


def serve_ui(uri: str, port: int, announce: Callable[[str], None]) -> int:
    """Shows the runs of a tracking database on a page that only this machine reaches, until interrupted.

    An empty page is served too, and said to be one.

    Args:
        uri: Tracking URI; a server has its page already, and only its address is announced.
        port: Where to listen; a taken port gives way to a free one.
        announce: Takes the address of the page, once it answers.

    Returns:
        Exit status of the server; 0 after an interrupt.

    Raises:
        ValueError: If `uri` tracks nothing.
    """
    if uri == OFF:
        raise ValueError("nothing was tracked (tracking URI none), so there is no page to show")
    database = database_path(uri)
    if database is None:
        announce(without_secrets(uri))
        return 0
    say_if_empty(database)
    port = _free_port(port)
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, *where]
    return _run_until_interrupted(command, port, announce)


def say_if_empty(database: Path) -> None:
    """Warns of a page that will show nothing, and says where it looked."""
    if not holds_runs(database):
        logger.warning(
            "no run is tracked in %s%s, so the page is empty; another database is named with --tracking-uri",
            database.resolve(), "" if database.exists() else ", which is not there",
        )  # fmt: skip


def _free_port(port: int) -> int:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.bind(("127.0.0.1", 0))
        return candidate.getsockname()[1]


def _run_until_interrupted(command: Sequence[str], port: int, announce: Callable[[str], None]) -> int:
    """Runs a server in a process group of its own and ends the whole group with us."""
    previous = signal.signal(signal.SIGTERM, _exit_on_signal)
    # What the server says goes to stderr: stdout is for the address.
    process = subprocess.Popen(command, stdout=2, env=ENVIRONMENT | os.environ, start_new_session=True)
    try:
        while process.poll() is None and not _answers(port):
            time.sleep(0.2)
        if process.poll() is None:
            announce(f"http://127.0.0.1:{port}")
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
        _end_group(process)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _exit_on_signal(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
