import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from preprocessing.process_folder import process_folder

KILLED = """
import os, signal
from preprocessing.process_folder import process_folder
(process_folder("kind-") / "large").write_bytes(b"1")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_what_a_killed_process_left_is_removed_by_the_next_of_its_kind(temporary: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (left,) = temporary.iterdir()
    assert (left / "large").exists()
    process_folder("other-")
    assert left.exists()
    process_folder("kind-")
    assert not left.exists()


def test_folders_of_living_processes_and_of_unknown_ones_stay(temporary: Path) -> None:
    ours, unknown = process_folder("kind-"), temporary / "kind-unknown"
    unknown.mkdir()
    another = process_folder("kind-")
    assert ours != another
    assert {ours, unknown, another} == set(temporary.iterdir())
