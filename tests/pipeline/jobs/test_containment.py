"""Workers and children that are killed, sources that vanish, Ctrl-C: nothing is lost, blamed, or left."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from benchmarks.processes import wait_for
from benchmarks.runs import Run, faults, shards_and_manifest, start
from pipeline.cli import INTERRUPTED, WRONG
from preprocessing.dataset import Dataset
from preprocessing.rendering.demo_set import write_film
from preprocessing.rendering.takes import takes
from tests.pipeline.commands import longtake

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TIMEOUT_S = 400.0
SETTINGS = (
    "--set",
    "cluster.wave_sources=2",
    "--set",
    "plan.max_samples_per_shard=1",
    "--tracking-uri",
    "none",
    "--json",
)


def preprocess_here(inputs: Path, dataset: Path) -> dict:
    return longtake("preprocess", str(inputs), "--dataset", str(dataset), *SETTINGS).result()


def preprocess(videos: Path, dataset: Path, *settings: str) -> Run:
    log = dataset.with_suffix(".log")
    return start("preprocess", str(videos), "--dataset", str(dataset), *SETTINGS, *settings, log=log)


def wait(run: Run, what: str) -> None:
    assert wait_for(lambda: run.workers(what) or run.ended(), TIMEOUT_S)
    assert not run.ended(), run.log.read_text()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for film in takes()[:4]:
        write_film(film, folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def expected(videos: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    dataset = tmp_path_factory.mktemp("undisturbed") / "d"
    preprocess_here(videos, dataset)
    return shards_and_manifest(dataset)


def test_killed_workers_and_children_change_no_byte_and_blame_nobody(
    videos: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run, dataset = preprocess(videos, tmp_path / "d"), tmp_path / "d"
    wait(run, "scan_one")
    assert wait_for(run.children, TIMEOUT_S)
    run.children()[0].kill()
    wait(run, "scan_one")
    run.workers("scan_one")[0].kill()
    wait(run, "_encode")
    assert wait_for(lambda: list(dataset.glob("scratch/*")) or run.ended(), TIMEOUT_S)
    for worker in run.workers("_encode")[:1]:
        worker.kill()
    said = run.finish(TIMEOUT_S)
    assert said["dataset"]["failed"] == {}
    assert faults(dataset, expected, {}) == []
    assert run.left() == []


def test_ctrl_c_ends_with_130_and_leaves_nothing_and_the_same_command_goes_on(
    videos: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run = preprocess(videos, tmp_path / "d")
    wait(run, "scan_one")
    time.sleep(1.0)
    os.killpg(run.process.pid, signal.SIGINT)  # a terminal tells the whole group
    run.process.communicate(timeout=TIMEOUT_S)
    assert run.process.returncode == INTERRUPTED
    assert run.log.read_text().splitlines()[-1].startswith("longtake: interrupted")
    assert "Traceback" not in run.log.read_text()
    assert run.left() == []
    preprocess_here(videos, tmp_path / "d")
    assert faults(tmp_path / "d", expected, {}) == []


def test_a_source_that_vanishes_before_it_is_encoded_is_missing_and_heals_when_it_comes_back(
    videos: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    folder, dataset = tmp_path / "raw", tmp_path / "d"
    shutil.copytree(videos, folder)
    gone = sorted(folder.glob("*.mp4"))[0]
    assert longtake("scan", str(folder), "--dataset", str(dataset), *SETTINGS).status == 0
    gone.rename(tmp_path / gone.name)
    said = preprocess_here(folder, dataset)
    assert said["dataset"]["failed"] == {"missing": 1}
    assert gone.name not in {row["uri"] for row in Dataset.open(str(dataset)).load_manifest(None).table.to_pylist()}
    (tmp_path / gone.name).rename(gone)
    preprocess_here(folder, dataset)
    samples = Dataset.open(str(dataset)).load_manifest(None).table.num_rows
    assert samples == len([name for name in expected if name.endswith(".tar")])


def test_a_disk_that_is_away_when_its_clips_are_to_be_encoded_and_comes_back_elsewhere_changes_no_byte(
    videos: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    disk, dataset = tmp_path / "disk", tmp_path / "d"
    shutil.copytree(videos, disk / videos.name)
    assert longtake("scan", str(disk / videos.name), "--dataset", str(dataset), *SETTINGS).status == 0
    assert longtake("plan", "--dataset", str(dataset), *SETTINGS).status == 0
    elsewhere = disk.rename(tmp_path / "elsewhere")
    shutil.rmtree(dataset / "report")
    refused = longtake("encode", "--dataset", str(dataset), *SETTINGS)
    assert refused.status == WRONG
    assert "is a disk not mounted?" in refused.stderr
    assert Dataset.open(str(dataset)).record().manifest is None
    assert (dataset / "report" / "report.json").exists()  # of what the run did all the same
    preprocess_here(elsewhere / videos.name, dataset)
    assert faults(dataset, expected, {}) == []
