"""The preprocess command on rendered and on broken videos: complete, idempotent, and safe to kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from pipeline.config import build_recipe
from pipeline.decisions import preview_plan
from preprocessing.dataset import Dataset
from preprocessing.rendering.demo_set import write_film
from preprocessing.rendering.takes import takes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTINGS = ("--set", "encode.sizes_px=[[64, 64]]", "--set", "cluster.wave_sources=3", "--tracking-uri", "none")
KILLS = 5


def start(videos: Path, dataset: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "preprocess", str(videos)]
    return subprocess.Popen(
        [*command, "--dataset", str(dataset), *SETTINGS, *options, "--json"], stdout=subprocess.PIPE
    )


def run(videos: Path, dataset: Path, *options: str) -> dict:
    process = start(videos, dataset, *options)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(said)


def contents(dataset: Path) -> dict[str, str]:
    """What must not depend on kills: shards, their indexes, and the manifest that is pointed at."""
    files = sorted(path for path in (dataset / "shards").rglob("*") if path.is_file())
    hashes = {str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {**hashes, "manifest": Dataset.open(str(dataset)).load_manifest(None).sha256}


def member_names(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for film in takes()[:5]:
        write_film(film, folder, seed=1)
    (folder / "-empty 空 50%.mp4").write_bytes(b"")
    (folder / "текст.mkv").write_text("not a video")
    (folder / "notes.md").write_text("no video either")
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, float]:
    dataset = tmp_path_factory.mktemp("undisturbed") / "d"
    since_s = time.monotonic()
    return dataset, run(videos, dataset), time.monotonic() - since_s


def test_every_file_is_accounted_for_and_bad_ones_do_not_stop_the_run(
    undisturbed: tuple[Path, dict, float],
) -> None:
    _, said, _ = undisturbed
    found = said["dataset"]
    assert (found["sources"], found["sources_ok"], found["failed"]) == (7, 5, {"undecodable": 2})
    assert [Path(path).name for path in said["ignored"]] == ["notes.md"]
    assert found["samples"] == found["kept"] > 0
    assert found["waiting"] == found["encode_failed"] == 0


def test_a_second_run_decodes_nothing_and_changes_no_byte(videos: Path, undisturbed: tuple[Path, dict, float]) -> None:
    dataset, first, _ = undisturbed
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in dataset.rglob("*") if path.is_file()}
    again = run(videos, dataset)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in dataset.rglob("*") if path.is_file()}
    assert (again["scanned"], again["encoded_shards"]) == (0, 0)
    assert again["dataset"] == first["dataset"]
    lease = dataset / ".lease"
    assert {p: v for p, v in after.items() if p != lease} == {p: v for p, v in before.items() if p != lease}


def test_a_dry_run_draws_what_changes_sides_and_leaves_the_dataset_alone(
    undisturbed: tuple[Path, dict, float], tmp_path: Path
) -> None:
    dataset, said, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    stored, changed = Dataset.open(str(dataset)).record().recipe, ["decide.min_dynamism=1000"]
    sheet = tmp_path / "changes.html"
    preview = preview_plan(str(dataset), build_recipe(stored, changed), overrides=changed, sheet=sheet)
    assert len(preview.now_dropped) == said["dataset"]["kept"]
    assert "data:image/jpeg" in sheet.read_text()
    assert changed[0] in sheet.read_text()
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_a_pilot_ends_with_what_the_whole_would_take(videos: Path, tmp_path: Path) -> None:
    settings = ("--set", "report.cost_per_cpu_hour=1.0", "--set", "cluster.max_tasks=1")
    found = run(videos, tmp_path / "d", "--limit", "3", *settings)["pilot"]
    assert (found["num_done"], found["num_all"]) == (3, 7)
    for figure in ("video_hours", "scan_cpu_hours", "encode_cpu_hours", "wall_hours", "shards_gb", "cost"):
        assert 0 <= found[figure]["low"] <= found[figure]["value"] <= found[figure]["high"]
        assert found[figure]["value"] > 0
    assert "report.cost_per_gb_month" in found["storage_cost_per_month"]["skipped"]


def test_tar_and_plain_webdataset_read_every_shard(undisturbed: tuple[Path, dict, float]) -> None:
    import webdataset as wds

    dataset, said, _ = undisturbed
    shards = sorted((dataset / "shards").rglob("*.tar"))
    keys = [name.split(".")[0] for shard in shards for name in member_names(shard)]
    read = [sample["__key__"] for sample in wds.compat.WebDataset([str(s) for s in shards], shardshuffle=False)]
    assert len(read) == len(set(keys)) == said["dataset"]["samples"]
    assert [key for i, key in enumerate(keys) if key not in keys[:i]] == read


def test_kills_leave_the_same_shards_and_the_same_version(
    videos: Path, undisturbed: tuple[Path, dict, float], tmp_path: Path
) -> None:
    expected, _, duration_s = undisturbed
    dataset = tmp_path / "d"
    for k in range(KILLS):
        process = start(videos, dataset)
        time.sleep(duration_s * (k + 1) / (KILLS + 1))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    run(videos, dataset)
    assert contents(dataset) == contents(expected)
