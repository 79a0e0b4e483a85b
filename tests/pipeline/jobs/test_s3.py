"""The preprocess command with videos and dataset in a bucket of an S3 server on loopback."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.jobs.cluster import ray_cluster
from preprocessing.dataset import Dataset
from preprocessing.rendering.demo_set import write_film
from preprocessing.rendering.takes import takes
from preprocessing.storage import Storage, open_storage
from tests.pipeline.commands import longtake
from tests.preprocessing.s3_server import s3_bucket

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTINGS = (
    "--set", "encode.sizes_px=[[64, 64]]", "--set", "cluster.wave_sources=2", "--set", "cluster.max_tasks=1",
    "--tracking-uri", "none",
)  # fmt: skip


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket() as uri:
        yield uri


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, bucket: str) -> Path:
    folder = tmp_path_factory.mktemp("films") / "raw"
    folder.mkdir()
    for film in takes()[:3]:
        write_film(film, folder, seed=1)
    (folder / "z copy.mp4").write_bytes(next(folder.glob("*.mp4")).read_bytes())
    (folder / "broken.mp4").write_text("no video")
    (folder / "table.csv").write_text(
        "path,caption,start_frame,end_frame\nbroken.mp4,x,,\nclouds_tilt_up.mp4,part,60,200\n"
    )
    store = open_storage(bucket)
    for path in folder.iterdir():
        store.write_atomic(f"raw/{path.name}", path.read_bytes())
    return folder


def words(place: str, dataset: str) -> list[str]:
    return ["preprocess", f"{place}/raw", f"{place}/raw/table.csv", "--dataset", dataset, *SETTINGS, "--json"]


def start(place: str, dataset: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *words(place, dataset)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(place: str, dataset: str) -> dict:
    return longtake(*words(place, dataset)).result()


def contents(storage: Storage) -> dict[str, bytes | str]:
    manifest = Dataset.open(storage.uri).record().manifest
    assert manifest is not None
    return {**{key: storage.read_bytes(key) for key in storage.list("shards")}, "manifest": manifest}


@pytest.fixture(scope="module")
def ray_that_knows_the_bucket(bucket: str) -> Iterator[None]:
    """Its workers have the environment that it was started in."""
    with ray_cluster("local", num_cpus=2):
        yield


@pytest.fixture(scope="module")
def undisturbed(
    videos: Path, ray_that_knows_the_bucket: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Storage, dict]:
    dataset = tmp_path_factory.mktemp("local") / "data"
    return open_storage(str(dataset)), run(str(videos.parent), str(dataset))


def test_a_bucket_gives_the_bytes_of_a_folder_also_after_kills(bucket: str, undisturbed: tuple[Storage, dict]) -> None:
    local, said_of_local = undisturbed
    remote = open_storage(f"{bucket}/data")
    for wanted in ("ledger/sources-00000001.parquet", "ledger/encodes-00000000.parquet"):
        process = start(bucket, remote.uri)
        while process.poll() is None and not remote.exists(wanted):
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    said = run(bucket, remote.uri)
    assert said["dataset"] == said_of_local["dataset"]
    assert said["dataset"]["failed"] == {"duplicate": 1, "undecodable": 1}
    assert contents(remote) == contents(local)
    again = run(bucket, remote.uri)
    assert (again["scanned"], again["encoded_shards"], again["dataset"]) == (0, 0, said["dataset"])
    assert not remote.exists(".lease")


def test_a_second_driver_is_refused_with_one_line_that_names_the_first(bucket: str, videos: Path) -> None:
    with open_storage(f"{bucket}/taken").lease("ann on host a, process 7"):
        process = start(bucket, f"{bucket}/taken")
        _, complained = process.communicate(timeout=300)
    assert process.returncode == 1
    assert complained.decode().splitlines() == [
        "longtake: another driver is at work on this dataset: ann on host a, process 7"
    ]
