import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from pipeline.jobs.train import LOCAL_CHECKPOINTS
from tests.pipeline import train_worker
from tests.training.small_dataset import make_dataset
from training.checkpoint import complete_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

DEADLINE_S = 400


def start(dataset: Path, run: Path, *stages: str) -> subprocess.Popen[bytes]:
    (run / "tmp").mkdir(parents=True, exist_ok=True)
    # Ray keeps its own folder, whose paths must be short
    temporary = {"TMPDIR": str(run / "tmp"), "RAY_TMPDIR": tempfile.gettempdir()}
    return subprocess.Popen(
        [sys.executable, train_worker.__file__, str(dataset), str(run), *stages],
        env={**os.environ, **temporary, "PYTHONPATH": str(Path.cwd()), "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=(run / "log").open("ab"),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes], run: Path) -> None:
    try:
        code = process.wait(DEADLINE_S)
    finally:
        kill_tree(process)
    assert code == 0, (run / "log").read_text()[-4000:]


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kills the driver and what it started, by pid."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.kill()
    process.wait()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the run makes no progress"
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.05)


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Ray Train's workers of a driver; Ray names its processes after the actors in them."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child] if "RayTrainWorker" in " ".join(child.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both stages."""
    run = tmp_path_factory.mktemp("undisturbed")
    finish(start(dataset, run, "teacher", "direct"), run)
    return run


def local_checkpoints(run: Path) -> set[Path]:
    """Folders of workers, for what they have not handed over yet."""
    return set((run / "tmp").glob(f"{LOCAL_CHECKPOINTS}*"))


def seen(run: Path, stage: str = "teacher") -> Mapping[str, object]:
    return json.loads((run / f"{stage}-seen.json").read_text())


def test_both_stages_run_and_hand_over(undisturbed: Path) -> None:
    teacher, direct = (json.loads((undisturbed / s / "summary.json").read_text()) for s in ("teacher", "direct"))
    assert direct["base_sha256"] == teacher["weights_sha256"]
    assert direct["at_start"]["val_loss"] == pytest.approx(teacher["at_end"]["val_loss"])
    assert teacher["at_end"]["val_loss"] < teacher["at_start"]["val_loss"]
    assert [int(step) for step in seen(undisturbed)["losses"]] == list(range(1, train_worker.STEPS + 1))  # pyright: ignore
    assert complete_steps(undisturbed / "teacher" / "checkpoints")[-2:] == (10, 12)
    assert not local_checkpoints(undisturbed)


def test_what_the_ranks_warn_of_is_said_once_by_the_driver(undisturbed: Path) -> None:
    assert (undisturbed / "log").read_text().count("the model's own samples are") == 1


def test_a_finished_stage_does_nothing_again_and_needs_no_ray(dataset: Path, undisturbed: Path) -> None:
    model = undisturbed / "teacher" / "model" / "longtake.json"
    before = model.stat().st_mtime_ns
    summary, losses = train_worker.run(str(dataset), undisturbed, "teacher")
    assert {"weights": summary.weights_sha256, "losses": losses} == seen(undisturbed)
    assert model.stat().st_mtime_ns == before


def test_a_killed_worker_is_replaced_a_killed_driver_is_finished_and_the_weights_are_those_of_an_undisturbed_run(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    process = start(dataset, tmp_path, "teacher")
    checkpoints = tmp_path / "teacher" / "checkpoints"
    wait_for(lambda: complete_steps(checkpoints), process)
    before, of_killed = complete_steps(checkpoints), local_checkpoints(tmp_path)
    assert of_killed
    workers(process)[0].kill()
    wait_for(lambda: complete_steps(checkpoints)[-1] > before[-1], process)
    process.kill()
    process.wait()
    assert not (tmp_path / "teacher" / "summary.json").exists()
    finish(start(dataset, tmp_path, "teacher"), tmp_path)
    found, expected = seen(tmp_path), seen(undisturbed)
    assert found["weights"] == expected["weights"]
    assert dict(found["losses"]).items() <= dict(expected["losses"]).items()  # pyright: ignore
    assert found["losses"]
    assert not of_killed & local_checkpoints(tmp_path)
