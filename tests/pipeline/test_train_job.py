"""``longtake train`` as a user gives it, killed and given again: with its lease, its tracked run and a Ray of its own."""

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import ray

from benchmarks.runs import COMMAND
from pipeline.config import build_recipe, dump_recipe
from pipeline.jobs.train import LOCAL_CHECKPOINTS
from tests.pipeline.commands import longtake
from tests.training.small_dataset import MODEL, make_dataset, train_config
from training.checkpoint_files import complete_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

DEADLINE_S, STEPS = 400, 12


def prepare(run: Path, database: Path) -> None:
    """A recipe of 12 teacher and 4 direct steps on two workers, and an MLflow database that needs no migration."""
    teacher = {**train_config().teacher.model_dump(mode="json"), "steps": STEPS}
    train = train_config(2, teacher=teacher).model_dump(mode="json")
    recipe = build_recipe(
        {"description": "test", "model": MODEL.model_dump(mode="json"), "train": train},
        ["train.engine.cpus_per_worker=0.5"],
    )
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    shutil.copy(database, run / "mlflow.db")
    (run / "tmp").mkdir()


def train(dataset: Path, run: Path, *options: str) -> tuple[str, ...]:
    """The command; without options it trains both stages."""
    return (
        "train", "--recipe", str(run / "recipe.yaml"), "--dataset", str(dataset), "--run", str(run),
        "--tracking-uri", f"sqlite:///{run / 'mlflow.db'}", *options,
    )  # fmt: skip


def start(dataset: Path, run: Path, *options: str) -> subprocess.Popen[bytes]:
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # Ray keeps its own folder, whose paths must be short
    temporary = {"TMPDIR": str(run / "tmp"), "RAY_TMPDIR": tempfile.gettempdir()}
    return subprocess.Popen(
        [*COMMAND, *train(dataset, run, *options)],
        env={**environ, **temporary, "PYTHONPATH": str(Path.cwd()), "RAY_AUTH_MODE": "disabled"},
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
def undisturbed(dataset: Path, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both stages."""
    run = tmp_path_factory.mktemp("undisturbed")
    prepare(run, migrated_database)
    finish(start(dataset, run), run)
    return run


def local_checkpoints(run: Path) -> set[Path]:
    """Folders of workers, for what they have not handed over yet."""
    return set((run / "tmp").glob(f"{LOCAL_CHECKPOINTS}*"))


def ask(run: Path, query: str) -> list[tuple]:
    """Rows of the MLflow database."""
    with closing(sqlite3.connect(run / "mlflow.db")) as connection:
        return connection.execute(query).fetchall()


def tracked_losses(run: Path) -> list[tuple[int, float]]:
    """Every (step, loss) that MLflow has of teacher stages, whichever run of its own they are in; in order, none dropped."""
    return ask(
        run,
        "select metrics.step, metrics.value from metrics join tags using (run_uuid) where metrics.key = 'loss'"
        " and tags.key = 'longtake.kind' and tags.value = 'train-teacher' order by metrics.step",
    )


def summary_of(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "summary.json").read_text())


def test_both_stages_run_and_hand_over(undisturbed: Path) -> None:
    teacher, direct = (summary_of(undisturbed, stage) for stage in ("teacher", "direct"))
    assert direct["base_sha256"] == teacher["weights_sha256"]
    assert direct["at_start"]["val_loss"] == pytest.approx(teacher["at_end"]["val_loss"])
    assert teacher["at_end"]["val_loss"] < teacher["at_start"]["val_loss"]
    assert [step for step, _ in tracked_losses(undisturbed)] == list(range(1, STEPS + 1))
    assert complete_steps(undisturbed / "teacher" / "checkpoints")[-2:] == (10, 12)
    assert not local_checkpoints(undisturbed)


def test_what_the_ranks_warn_of_is_said_once_by_the_driver(undisturbed: Path) -> None:
    assert (undisturbed / "log").read_text().count("the model's own samples are") == 1


def test_a_finished_stage_does_nothing_again_and_needs_no_ray(dataset: Path, undisturbed: Path) -> None:
    model = undisturbed / "teacher" / "model" / "longtake.json"
    before = model.stat().st_mtime_ns
    again = longtake(*train(dataset, undisturbed, "--stage", "teacher", "--json")).result()
    assert again == summary_of(undisturbed, "teacher")
    assert model.stat().st_mtime_ns == before
    assert not ray.is_initialized()


def test_a_killed_worker_is_replaced_a_killed_driver_is_finished_and_the_weights_are_those_of_an_undisturbed_run(
    dataset: Path, undisturbed: Path, migrated_database: Path, tmp_path: Path
) -> None:
    prepare(tmp_path, migrated_database)
    process = start(dataset, tmp_path, "--stage", "teacher")
    checkpoints = tmp_path / "teacher" / "checkpoints"
    wait_for(lambda: complete_steps(checkpoints), process)
    before, of_killed = complete_steps(checkpoints), local_checkpoints(tmp_path)
    assert of_killed
    workers(process)[0].kill()
    wait_for(lambda: complete_steps(checkpoints)[-1] > before[-1], process)
    process.kill()
    process.wait()
    assert not (tmp_path / "teacher" / "summary.json").exists()
    finish(start(dataset, tmp_path, "--stage", "teacher"), tmp_path)
    assert summary_of(tmp_path, "teacher")["weights_sha256"] == summary_of(undisturbed, "teacher")["weights_sha256"]
    assert tracked_losses(tmp_path) == tracked_losses(undisturbed)
    assert {status for (status,) in ask(tmp_path, "select status from runs")} == {"FINISHED"}
    assert not of_killed & local_checkpoints(tmp_path)
