import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What set-up needs, elsewhere: nothing here may touch our own environment."""
    shutil.copytree("infra", tmp_path / "infra")
    return tmp_path


def set_up(tree: Path, python: str, lock: str = "cpu", path: str = "") -> subprocess.CompletedProcess[str]:
    environ = {"PATH": path or "/usr/bin:/bin", "HOME": str(tree)}
    command = ["/bin/bash", str(tree / "infra" / "setup.sh"), python, lock]
    return subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, timeout=60, check=False)


def fake_python(tree: Path, script: str) -> str:
    path = tree / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_that_is_absent_or_too_old_is_named_with_the_cure(tree: Path) -> None:
    absent = set_up(tree, "python-nowhere")
    assert absent.returncode == 1
    assert "python-nowhere is not there; make setup PYTHON=" in absent.stderr
    old = set_up(tree, fake_python(tree, '[ "$1" = --version ] && echo Python 3.9.2 || exit 1'))
    assert old.returncode == 1
    assert "Python 3.9.2 is too old: longtake needs 3.11" in old.stderr
    assert not (tree / ".venv").exists()


def test_a_machine_without_a_compiler_is_told_which_to_install(tree: Path) -> None:
    tools = tree / "bin"
    tools.mkdir()
    for name in ("dirname", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    refused = set_up(tree, sys.executable, path=str(tools))
    assert refused.returncode == 1
    assert "no C++ compiler" in refused.stderr


def test_a_lock_that_is_not_there_is_refused(tree: Path) -> None:
    refused = set_up(tree, sys.executable, lock="tpu")
    assert refused.returncode == 1
    assert "LOCK is cpu or cuda" in refused.stderr


@pytest.mark.slow
def test_a_set_up_that_was_cut_off_begins_anew_and_one_that_failed_says_where_it_is_written(tree: Path) -> None:
    (tree / ".venv").mkdir()
    (tree / ".venv" / ".installing").touch()
    (tree / ".venv" / "half").touch()
    (tree / "infra" / "locks" / "torch.txt").write_text("./no-such-torch.whl\n")
    failed = set_up(tree, sys.executable)
    assert failed.returncode == 1
    assert "no-such-torch.whl" in failed.stderr
    assert "the whole of it stands in .venv/setup.log" in failed.stderr
    assert not (tree / ".venv" / "half").exists()
    assert (tree / ".venv" / ".installing").exists()
    assert not list((tree / ".venv").glob(".done-*"))
