"""An input that has lost all its videos is refused: a disk that is not mounted looks like that. No cluster is needed."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import WRONG
from pipeline.config import load_recipe
from pipeline.jobs.scan import scan_fingerprint
from preprocessing.config import SourcesConfig
from preprocessing.dataset import Dataset
from preprocessing.sources import find_sources
from tests.pipeline.commands import Done, longtake
from tests.preprocessing.test_ledger import make_scan


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder whose two videos were scanned into the dataset `d` beside it."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (raw / name).write_text(name)
    scans = [
        replace(make_scan(source), source=source)
        for source in find_sources([str(raw)], SourcesConfig(), limit=None).sources
    ]
    Dataset.create(str(tmp_path / "d")).ledger.append_scans(scans, scan_fingerprint(load_recipe("embedded")))
    return raw


def run(command: str, raw: Path, *options: str) -> Done:
    return longtake(command, str(raw), "--dataset", str(raw.parent / "d"), "--tracking-uri", "none", *options)


def reasons(raw: Path) -> list[object]:
    return Dataset.open(str(raw.parent / "d")).ledger.sources()["reason"].to_pylist()


@pytest.mark.parametrize("command", ["scan", "preprocess"])
def test_an_input_that_lost_all_its_videos_is_refused_before_anything_is_written(command: str, raw: Path) -> None:
    for video in raw.iterdir():
        video.unlink()
    before = {path: path.read_bytes() for path in raw.parent.rglob("*") if path.is_file()}

    refused = run(command, raw, "--set", "decide.min_dynamism=1.0")

    assert refused.status == WRONG
    assert f"{raw} has none of the 2 sources that the dataset knows of it" in refused.stderr
    assert "--accept-missing" in refused.stderr
    assert {path: path.read_bytes() for path in raw.parent.rglob("*") if path.is_file()} == before
    assert run(command, raw, "--accept-missing").status == 0
    assert reasons(raw) == ["missing", "missing"]
    assert run(command, raw).status == 0  # nothing is left that could vanish


@pytest.mark.parametrize("command", ["scan", "preprocess"])
def test_a_dry_run_refuses_what_the_run_would(command: str, raw: Path) -> None:
    assert run(command, raw, "--dry-run").status == 0
    for video in raw.iterdir():
        video.unlink()
    before = {path: path.read_bytes() for path in raw.parent.rglob("*") if path.is_file()}
    refused, accepted = run(command, raw, "--dry-run"), run(command, raw, "--dry-run", "--accept-missing")
    assert (refused.status, refused.stderr) == (WRONG, run(command, raw).stderr)
    assert (accepted.status, accepted.stdout) == (0, "0 sources, 0 files or rows ignored\n")
    assert {path: path.read_bytes() for path in raw.parent.rglob("*") if path.is_file()} == before


def test_an_input_that_lost_some_videos_and_one_that_never_had_any_are_as_before(raw: Path) -> None:
    empty = raw.parent / "empty"
    empty.mkdir()
    assert run("scan", empty).status == 0
    (raw / "a.mp4").unlink()
    assert run("scan", raw).status == 0
    assert reasons(raw) == ["missing", ""]
