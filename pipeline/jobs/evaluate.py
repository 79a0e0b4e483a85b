"""A folder of videos to Ray tasks to a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import ray

from evaluation import score
from evaluation.config import EvaluateConfig
from evaluation.report import store_features, stored_figures, stored_weights, write_report
from evaluation.score import score_video, video_names
from evaluation.types import VideoScores
from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import Task, decoding_child, ray_cluster, refuse_impossible, run_bounded
from pipeline.progress import Meter, progress
from pipeline.tracking.tracked_run import Tracking
from preprocessing.storage import open_storage


def evaluate_videos(
    folder: Path, out: Path, recipe: Recipe, *, line: str, address: str | None, tracking: Tracking
) -> dict[str, float]:
    """Scores every video below a folder, one Ray task each, and writes the report; the same again does nothing.

    Args:
        folder: Videos, made here or elsewhere.
        out: Folder of the report.
        recipe: Settings of evaluation and cluster.
        line: Name of the line.
        address: Of a running Ray.
        tracking: Where to track.

    Returns:
        Means over videos, by name.

    Raises:
        ValueError: If there is no such folder, or no video in it.
    """
    names = video_names(folder)
    identity = fingerprint(
        score.VERSION, recipe.evaluate, *(part for name in names for part in _identity(folder, name))
    )
    figures = stored_figures(out, identity)
    if figures is None:
        with ray_cluster(address), progress() as meters:
            refuse_impossible(cpus=recipe.cluster.cpus_per_task)
            videos = _score_all(folder, names, out, recipe, meters.meter("evaluate", len(names)))
        write_report(videos, out, recipe.evaluate, fingerprint=identity)
        figures = stored_figures(out, identity) or {}
    _track(figures, out, recipe.evaluate, identity, line, tracking)
    return figures


def _identity(folder: Path, name: str) -> tuple[str, ...]:
    """Changes if the video, or the record beside it, may have changed."""
    paths = (folder / name, (folder / name).with_suffix(".json"))
    stats = [path.stat() for path in paths if path.is_file()]
    return (name, *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats))


def _score_all(folder: Path, names: Sequence[str], out: Path, recipe: Recipe, meter: Meter) -> list[VideoScores]:
    """All videos in order of their names; features go to their files as they come."""
    scored: dict[int, VideoScores] = {}

    def done(number: int, video: VideoScores) -> None:
        scored[number] = store_features(video, out, number)
        meter.advance(note=video.name)

    remote = ray.remote(num_cpus=recipe.cluster.cpus_per_task, max_retries=0)(_score)

    def tasks() -> Iterator[Task]:
        for number, name in enumerate(names):
            yield Task(
                name=name,
                submit=lambda name=name: remote.remote(folder.resolve(), name, recipe.evaluate),
                done=lambda video, number=number: done(number, video),
            )

    run_bounded(tasks(), max_in_flight=recipe.cluster.max_tasks)
    return [scored[number] for number in range(len(names))]


def _score(folder: Path, name: str, settings: EvaluateConfig) -> VideoScores:
    return score_video(folder, name, settings, decoding_child(settings.progress_timeout_s, settings.memory_limit_mb))


def _track(
    figures: dict[str, float], out: Path, settings: EvaluateConfig, identity: str, line: str, tracking: Tracking
) -> None:
    run = tracking.open_result(
        beside=open_storage(str(out)), kind="evaluate", run_key=identity, home=out, line=line,
        kept_in=f"results.json in {out}",
    )  # fmt: skip
    if run is None:
        return
    run.log_params(settings.model_dump())
    run.set_tags(_origin(stored_weights(out)))
    run.log_metrics_batch({0: figures})
    for file in ("index.html", "results.json"):
        run.log_artifact(out / file)
    run.finish("FINISHED")


def _origin(weights: Sequence[str]) -> dict[str, str]:
    """A tag that the training run of these weights has as well, beside its dataset versions."""
    return {"longtake.weights_sha256": ",".join(weights)} if weights else {}
