"""What other settings would keep: from stored signals alone, in a process that cannot even decode."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.cli import app, exit_status
from pipeline.config import Recipe, load_recipe
from pipeline.decisions import decide_fingerprint, preview_plan, recipe_clips
from preprocessing.dataset import SCAN_SETTINGS, Dataset, DatasetRecord
from tests.preprocessing.test_replay import SCANS

OTHER = (
    ("decide.min_dynamism=3.0",), ("clips.fps=12.0",), ("clips.max_segments=2",), ("clips.policy=longest",),
    ("clips.guard_s=0.5",),
)  # fmt: skip


def record_of(recipe: Recipe) -> DatasetRecord:
    """Of a dataset whose sources were scanned under the settings \"f\"."""
    return DatasetRecord(recipe=recipe.model_dump(mode="json"), fingerprints={SCAN_SETTINGS: "f"})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    dataset, recipe = Dataset.create(str(folder)), load_recipe("embedded", [])
    dataset.write_record(record_of(recipe))
    ledger = dataset.ledger
    ledger.append_scans(SCANS, "f")
    ledger.append_clips(
        recipe_clips(ledger.iterate_scans(None), recipe), ledger.source_ids(), fingerprint=decide_fingerprint(recipe)
    )
    return folder


def test_the_same_recipe_changes_nothing(dataset: Path) -> None:
    preview = preview_plan(str(dataset), load_recipe("embedded", []))
    assert (preview.now_kept, preview.now_dropped) == ((), ())
    assert preview.kept + sum(preview.dropped.values()) == Dataset.open(str(dataset)).ledger.clips().num_rows
    assert sum(preview.segments.values()) == preview.kept


@pytest.mark.parametrize("overrides", [[], ["decide.min_dynamism=4.0"], ["clips.max_segments=3"]])
def test_hours_of_every_reason_and_length_stand_beside_their_number_and_add_up(
    dataset: Path, overrides: list[str]
) -> None:
    recipe = load_recipe("embedded", overrides)
    preview = preview_plan(str(dataset), recipe)
    clips = recipe_clips(Dataset.open(str(dataset)).ledger.iterate_scans(None), recipe).to_pylist()
    assert preview.dropped_hours.keys() == preview.dropped.keys()
    assert preview.segment_hours.keys() == preview.segments.keys()
    for reason, hours in preview.dropped_hours.items():
        seconds = sum(row["end_s"] - row["start_s"] for row in clips if row["reasons"][:1] == [reason])
        assert hours == pytest.approx(seconds / 3600, abs=1e-6)
        assert f"{preview.dropped[reason]} {reason} ({hours:.3f} h)" in preview.lines()[1]
    assert sum(preview.segment_hours.values()) == pytest.approx(preview.kept_hours, abs=1e-5)


def test_clips_change_sides_by_their_ids(dataset: Path) -> None:
    all_gone = preview_plan(str(dataset), load_recipe("embedded", ["decide.min_dynamism=1000.0"]))
    now = preview_plan(str(dataset), load_recipe("embedded", []))
    assert (all_gone.kept, len(all_gone.now_dropped)) == (0, now.kept)
    shorter = preview_plan(str(dataset), load_recipe("embedded", ["clips.max_segments=2"]))
    assert set(shorter.segments) <= {1, 2}
    assert shorter.now_kept


@pytest.mark.parametrize("stored", [["decide.min_dynamism=1.0"], ["clips.fps=12.0"]], ids=["thresholds", "clips"])
def test_what_is_stored_never_changes_what_a_recipe_would_keep(
    tmp_path: Path, dataset: Path, stored: list[str]
) -> None:
    other, recipe = Dataset.create(str(tmp_path)), load_recipe("embedded", stored)
    other.write_record(record_of(recipe))
    other.ledger.append_scans(SCANS, "f")
    clips = recipe_clips(other.ledger.iterate_scans(None), recipe)
    other.ledger.append_clips(clips, other.ledger.source_ids(), fingerprint=decide_fingerprint(recipe))
    wanted = load_recipe("embedded", ["decide.min_dynamism=4.0"])
    here, there = (preview_plan(uri, wanted) for uri in (str(dataset), str(tmp_path)))
    assert (here.kept, here.kept_hours, here.dropped) == (there.kept, there.kept_hours, there.dropped)


@pytest.mark.parametrize("setting", ["transitions.cut_ratio=2.0", "motion.far_gap_s=2.0", "scan.analysis_width_px=128"])
@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "plan"])
def test_settings_that_need_a_new_scan_are_refused_and_change_nothing(
    dataset: Path, capfd: pytest.CaptureFixture[str], setting: str, dry_run: list[str]
) -> None:
    before = (dataset / "dataset.json").read_bytes()
    command = ["plan", "--dataset", str(dataset), "--set", setting, "--set", "decide.min_dynamism=2.0", *dry_run]
    assert exit_status(partial(app, command)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{setting} (scanned with " in line
    assert "longtake preprocess" in line
    assert "decide" not in line.partition(":")[2].partition(":")[0]
    assert (dataset / "dataset.json").read_bytes() == before


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "plan"])
def test_scans_under_other_settings_than_the_stored_recipe_are_refused_and_change_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], dry_run: list[str]
) -> None:
    dataset = Dataset.create(str(tmp_path))
    dataset.ledger.append_scans(SCANS[:1], "f")
    dataset.ledger.append_scans(SCANS[1:], "before")
    dataset.write_record(record_of(load_recipe("embedded")))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert exit_status(partial(app, ["plan", "--dataset", str(tmp_path), *dry_run])) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{len(SCANS) - 1} sources were scanned under other settings" in line
    assert "longtake scan (or preprocess) with their inputs" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "plan"])
def test_scans_under_settings_that_nobody_recorded_are_refused_for_that_and_change_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], dry_run: list[str]
) -> None:
    dataset = Dataset.create(str(tmp_path))
    dataset.ledger.append_scans(SCANS, "f")
    dataset.write_record(replace(record_of(load_recipe("embedded")), fingerprints={}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert exit_status(partial(app, ["plan", "--dataset", str(tmp_path), *dry_run])) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"under which settings its {len(SCANS)} sources were scanned" in line
    assert "longtake scan (or preprocess) with their inputs" in line
    assert "other settings" not in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_dry_run_decodes_no_frame_starts_no_process_and_loads_nothing_heavy(dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    code = f"""
import sys
started = []
sys.addaudithook(lambda event, _: started.append(event) if event in {{"subprocess.Popen", "os.fork", "os.posix_spawn"}} else None)
from pipeline.cli import app
for overrides in {OTHER!r}:
    sets = [word for one in overrides for word in ("--set", one)]
    assert app(["plan", "--dataset", {str(dataset)!r}, "--dry-run", "--json", *sets], standalone_mode=False) in (None, 0)
heavy = [name for name in ("av", "decord", "ray", "torch", "mlflow", "scenedetect") if name in sys.modules]
print(started, heavy)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len([json.loads(line) for line in said[:-1]]) == len(OTHER)
    assert said[-1] == "[] []"
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before
