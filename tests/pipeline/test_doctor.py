import shutil
from pathlib import Path

import pytest

from pipeline.config import load_recipe
from pipeline.doctor import (
    check_compiler,
    check_disk,
    check_import,
    check_installed,
    check_shared_memory,
    check_torch,
    check_weights,
    check_writable,
    needs_gpu,
    run_doctor,
)


@pytest.mark.slow
def test_a_machine_that_was_set_up_lacks_nothing_for_the_embedded_recipe(tmp_path: Path) -> None:
    checks = run_doctor(load_recipe("embedded"), folder=tmp_path)
    assert [check for check in checks if not check.ok] == []
    assert {"Python", "C++ compiler", "torch", "Ray", "DeepSpeed", "video decoder", "H.264 encoder", "MLflow", "disk",
            "shared memory", "writing"} == {check.name for check in checks}  # fmt: skip


def test_the_papers_recipe_asks_for_a_gpu_and_for_weights() -> None:
    recipe = load_recipe("framepack_f1_480p")
    assert needs_gpu(recipe)
    assert not needs_gpu(load_recipe("embedded"))
    checks = check_weights(recipe)
    assert len(checks) == 7
    assert all(not check.ok and check.mend.startswith("--set encode.hunyuan.") for check in checks)
    assert check_weights(load_recipe("embedded")) == ()


def test_captions_on_a_gpu_ask_for_one_only_if_any_are_written() -> None:
    written = ("captions.device=cuda", "captions.empty=write", "captions.model=m")
    assert needs_gpu(load_recipe("embedded", written))
    assert not needs_gpu(load_recipe("embedded", written[:1]))


def test_weights_are_where_the_recipe_says_or_asked_of_a_hub_only_if_allowed(tmp_path: Path) -> None:
    here, there = f"encode.hunyuan.vae={tmp_path}", "encode.hunyuan.tokenizer=someone/something"
    held = {check.name: check.ok for check in check_weights(load_recipe("framepack_f1_480p", [here, there]))}
    assert held["encode.hunyuan.vae"]
    assert not held["encode.hunyuan.tokenizer"]
    allowed = check_weights(load_recipe("framepack_f1_480p", [there, "encode.hunyuan.allow_download=true"]))
    assert {check.name: check.ok for check in allowed}["encode.hunyuan.tokenizer"]


def test_native_code_that_dies_is_a_finding_with_its_cure() -> None:
    died = check_import("thing", "thing", "import os; os.abort()")
    assert (died.ok, died.message, died.mend) == (False, "exit status -6", "make setup")
    absent = check_import("thing", "thing", "import no_such_module")
    assert absent.message == "ModuleNotFoundError: No module named 'no_such_module'"
    assert not check_installed("thing", "no-such-distribution").ok


def test_no_compiler_is_found_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert check_compiler().ok
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = check_compiler()
    assert not missing.ok
    assert "apt-get install g++" in missing.mend


@pytest.mark.slow
def test_a_gpu_is_missed_by_who_needs_one() -> None:
    torch = pytest.importorskip("torch")
    assert check_torch(True).ok == torch.cuda.is_available()


def test_a_folder_to_be_made_is_judged_by_its_parent(tmp_path: Path) -> None:
    wanted = tmp_path / "not" / "there" / "yet"
    assert check_writable(wanted).ok
    assert check_disk(wanted).ok == (shutil.disk_usage(tmp_path).free >= 5 * 1024**3)
    assert not wanted.exists()


def test_a_folder_that_refuses_files_is_named() -> None:
    refused = check_writable(Path("/proc/self"))
    assert not refused.ok
    assert refused.message.startswith("/proc/self: ")


def test_little_shared_memory_is_said_and_is_no_obstacle(tmp_path: Path) -> None:
    absent = check_shared_memory(tmp_path / "shm")
    assert absent.ok
    assert "files" in absent.message
