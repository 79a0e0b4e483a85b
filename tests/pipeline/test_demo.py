import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config import Recipe, load_recipe
from pipeline.demo import NUM_SEGMENTS, longest_held_out, run_demo
from pipeline.demo_summary import DemoSummary
from pipeline.tracking.tracked_run import Tracking
from pipeline.tracking.uris import OFF, default_uri
from preprocessing.dataset import Dataset
from preprocessing.rendering.degenerate import degenerate_films
from preprocessing.rendering.demo_set import write_film
from preprocessing.rendering.takes import takes
from preprocessing.samples import PlannedClip, Split

TINY = (
    "model.preset=tiny", "train.teacher.steps=2", "train.direct.steps=2", "train.engine.num_workers=1",
    "train.teacher.global_batch=1", "train.direct.global_batch=1", "train.validation.num_clips=1",
    "generate.num_inference_steps=2", "clips.max_segments=1", "train.validation.sample.num_inference_steps=1",
    "train.validation.video.every_steps=2", "train.validation.video.num_segments=1",
)  # fmt: skip


def _clip(name: str, split: Split, num_segments: int) -> PlannedClip:
    return PlannedClip(
        clip_id=name, source_id=name, group_id=name, uri=name, location="", content_id="", caption="", licence="",
        split=split, shot_index=0, clip_index=0, start_frame=0, end_frame=1 + 36 * num_segments, start_s=0.0,
        end_s=1.5 * num_segments, fps=24.0, num_segments=num_segments, height_px=64, width_px=64, scores={},
    )  # fmt: skip


def test_the_video_begins_with_the_longest_clip_that_was_not_trained_on() -> None:
    clips = [
        _clip("a", Split.TRAIN, 8),
        _clip("b", Split.EVAL, 2),
        _clip("d", Split.EVAL, 4),
        _clip("c", Split.EVAL, 4),
    ]

    assert longest_held_out(clips).clip_id == "c"


def test_without_a_held_out_clip_the_longest_of_all_serves() -> None:
    assert longest_held_out([_clip("a", Split.TRAIN, 2), _clip("b", Split.TRAIN, 8)]).clip_id == "b"


def test_without_any_clip_the_demo_says_where_the_reasons_are() -> None:
    with pytest.raises(ValueError, match="report"):
        longest_held_out([])


@pytest.mark.ray
@pytest.mark.slow
def test_own_videos_that_are_all_dropped_end_the_demo_before_training(tmp_path: Path) -> None:
    videos = tmp_path / "stills"
    videos.mkdir()
    write_film(degenerate_films()[0], videos, seed=0)

    with pytest.raises(ValueError, match=r"none of its 2 clips was kept; .*longtake inspect \S+ clips"):
        _demo(videos, tmp_path / "demo", load_recipe("demo", TINY), Tracking(uri=OFF, line=None))

    assert not list((tmp_path / "demo").rglob("stage.json"))


@pytest.mark.ray
@pytest.mark.slow
def test_own_videos_run_through_the_whole_line_once(tmp_path: Path, migrated_database: Path) -> None:
    """Given two takes, when the demo runs twice, then the second run finds all steps done and gives the same figures."""
    videos = tmp_path / "own videos"
    videos.mkdir()
    for film in takes()[:2]:
        write_film(film, videos, seed=0)
    (videos / "broken.mp4").write_text("no video")
    recipe = load_recipe("demo", TINY)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    (tmp_path / "demo").mkdir()
    shutil.copy(migrated_database, tmp_path / "demo" / "mlflow.db")

    tracking = Tracking(uri=_uri(tmp_path / "demo"), line=None)
    first, second = (_demo(videos, tmp_path / "demo", recipe, tracking) for _ in range(2))

    assert [step.name for step in first.steps] == ["preprocess", "teacher", "direct", "generate", "evaluate"]
    assert signal.getsignal(signal.SIGINT) is on_ctrl_c  # Ray Train would take it, and keep it
    assert not any(step.reused for step in first.steps)
    assert all(step.reused for step in second.steps)
    assert replace(second, steps=()) == replace(first, steps=())
    teacher, direct = (json.loads(path.read_text()) for path in _summaries(first.out))
    assert direct["base_sha256"] == teacher["weights_sha256"]
    assert direct["at_start"]["val_loss"] == pytest.approx(teacher["at_end"]["val_loss"])
    assert first.differences is None
    assert first.totals.failed == {"undecodable": 1}
    assert first.totals.kept >= 2
    assert first.pictures.num_segments == NUM_SEGMENTS
    assert all(path.is_file() for path in first.files.values())
    assert first.curves == f"longtake ui --tracking-uri {_uri(tmp_path / 'demo')}"
    _assert_tracked(_uri(tmp_path / "demo"), line=videos.name, manifest=_manifest(first.out))


def _assert_tracked(uri: str, *, line: str, manifest: str) -> None:
    """One parent, one child a step; parameters, curves, videos of the model, and the dataset version that was trained on."""
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'longtake'")
    runs = {run.data.tags["longtake.kind"]: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("line")
    assert parent.data.tags["longtake.line"] == line
    assert sorted(runs) == ["evaluate", "generate", "preprocess", "train-direct", "train-teacher"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}
    assert all(run.data.params for run in runs.values())
    assert all(client.list_artifacts(run.info.run_id) for run in runs.values())
    report = client.list_artifacts(runs["preprocess"].info.run_id, "report")
    assert [file.path for file in report] == ["report/index.html", "report/report.json"]
    teacher, direct = runs["train-teacher"], runs["train-direct"]
    assert [point.step for point in client.get_metric_history(teacher.info.run_id, "loss")] == [1, 2]
    for run in (teacher, direct):
        videos = [file.path for file in client.list_artifacts(run.info.run_id, "videos")]
        assert videos == ["videos/step-00000000.mp4", "videos/step-00000002.mp4"]
        for name in ("sample/ref/contrast", "sample/ref/contrast/drift"):
            assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [0, 2]
    for run in (runs["preprocess"], teacher, direct):
        (dataset,) = run.inputs.dataset_inputs
        assert manifest.startswith(dataset.dataset.digest)
        assert manifest in dataset.dataset.source
    # after two steps the teacher's samples are as far from the clips as noise, and the rank that measures it says so
    assert "warnings.log" in {file.path for file in client.list_artifacts(direct.info.run_id)}
    assert direct.data.tags["longtake.base_sha256"] == teacher.data.tags["longtake.weights_sha256"]


def _summaries(out: Path) -> list[Path]:
    return [next(out.rglob(f"{stage}/summary.json")) for stage in ("teacher", "direct")]


def _manifest(folder: Path) -> str:
    return Dataset.open(str(folder / "dataset")).load_manifest(None).sha256


def _uri(out: Path) -> str:
    return default_uri(out)


def _demo(videos: Path, out: Path, recipe: Recipe, tracking: Tracking) -> DemoSummary:
    return run_demo(videos=videos, out=out, recipe=recipe, address=None, tracking=tracking)
