"""One training stage with a Ray to run on and a tracked run to log to."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import ray_cluster
from pipeline.jobs.sampled_videos import ScoredVideo
from pipeline.jobs.train import run_training
from pipeline.jobs.warning_log import OF_STAGE, kept_warnings
from pipeline.progress import Meter, progress
from pipeline.tracking.tracked_run import TrackedRun, Tracking
from preprocessing.lease import LeaseTaken, lease_owner
from preprocessing.storage import open_storage
from training.config import StageName
from training.run_folder import check_job, finished, prepare_job, warn_before_start
from training.stage import StageJob
from training.types import StageSummary


def train_stage(
    recipe: Recipe,
    *,
    dataset_uris: Sequence[str],
    run_dir: Path,
    stage: StageName,
    init: Path | None,
    address: str | None,
    tracking: Tracking,
) -> StageSummary:
    """Trains one stage to its end; the same call resumes, and gives the summary at once where it has ended.

    Raises:
        ValueError: If a setting, a dataset or the model to begin from is wrong.
        RuntimeError: If the workers failed too often, or another driver trains this stage.
    """
    uris = absolute_uris(dataset_uris)
    # nothing is written before the stage is known to be ours
    job = check_job(run_dir.resolve(), stage, model=recipe.model, train=recipe.train, dataset_uris=uris, init=init)
    summary = finished(job)
    if summary is not None:
        return summary
    with _only_driver(job.folder):
        return _train(recipe, uris=uris, run_dir=run_dir, stage=stage, init=init, address=address, tracking=tracking)


@contextmanager
def _only_driver(stage_folder: Path) -> Iterator[None]:
    """The right to train a stage, for as long as the block lasts; it ends with the process, whatever ends that.

    Raises:
        RuntimeError: If another driver has it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(open_storage(str(stage_folder)).lease(lease_owner()))
        except LeaseTaken as error:
            raise RuntimeError(
                f"{stage_folder} is being trained by another driver: {error.owner or 'unknown owner'}; wait for it, or stop it"
                " and give this command again"
            ) from None
        yield


def _train(
    recipe: Recipe,
    *,
    uris: Sequence[str],
    run_dir: Path,
    stage: StageName,
    init: Path | None,
    address: str | None,
    tracking: Tracking,
) -> StageSummary:
    """What is left of a stage, unless another driver has ended it meanwhile."""
    job = prepare_job(run_dir.resolve(), stage, model=recipe.model, train=recipe.train, dataset_uris=uris, init=init)
    summary = finished(job)
    if summary is not None:
        return summary
    run = tracking.open(
        kind=f"train-{stage}", run_key="", home=run_dir, line=Path(uris[0]).name,
        kept_in=f"metrics.jsonl and stage.json in {job.folder}",
    )  # fmt: skip
    _log_start(run, recipe, job)
    try:
        with kept_warnings(job.folder / OF_STAGE):
            warn_before_start(job)
            with ray_cluster(address), progress() as meters:
                seen = _Seen(run, meters.meter(stage, job.settings.steps))
                return run_training(
                    recipe,
                    dataset_uris=uris,
                    run_dir=run_dir,
                    stage=stage,
                    init=init,
                    on_metrics=seen.take,
                    on_video=seen.show,
                    on_end=lambda summary: _log_end(run, job, summary),
                )
    except BaseException:
        _log_warnings(run, job)
        run.finish("FAILED")
        raise


def absolute_uris(dataset_uris: Sequence[str]) -> list[str]:
    """Workers have another working directory."""
    return [uri if "://" in uri else str(Path(uri).resolve()) for uri in dataset_uris]


class _Seen:
    """Hands metrics and videos to the tracked run, and says on the meter how far the stage is."""

    def __init__(self, run: TrackedRun, meter: Meter) -> None:
        self._run, self._meter = run, meter

    def take(self, metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Step -> name -> value."""
        self._run.log_metrics_batch(metrics)
        last = metrics[max(metrics)] if metrics else {}
        note = f"loss {last['loss']:.3f}" if "loss" in last else ""
        self._meter.advance(sum(step > 0 for step in metrics), note)

    def show(self, video: Path, scored: ScoredVideo) -> None:
        """A video that the model made, and what it is worth."""
        self._run.log_artifact(video, folder="videos")
        self._run.log_metrics_batch({scored.step: scored.figures})


def _log_start(run: TrackedRun, recipe: Recipe, job: StageJob) -> None:
    run.log_params(stage_params(recipe, job))
    for pinned in job.datasets:
        run.log_dataset(name=Path(pinned.uri).name, manifest_sha256=pinned.manifest, uri=pinned.uri)
    manifests = ",".join(pinned.manifest for pinned in job.datasets)
    run.set_tags({"longtake.recipe_fingerprint": fingerprint(recipe), "longtake.manifest_sha256": manifests})


def stage_params(recipe: Recipe, job: StageJob) -> dict[str, object]:
    """The settings of a stage by the names that they have in MLflow."""
    model, train, settings = recipe.model, recipe.train, job.settings
    of_all_stages = {"seed", "ema_decay", "model_weights", "skip_nonfinite", "skip_broken"}
    return {
        "preset": model.preset,
        "rope_mode": model.rope_mode,
        **{f"memory.{name}": value for name, value in model.memory.model_dump().items()},
        **{f"engine.{name}": value for name, value in train.engine.model_dump().items()},
        **{f"flow.{name}": value for name, value in train.flow.model_dump().items()},
        **settings.model_dump(exclude={"optimizer"}),
        **{f"optimizer.{name}": value for name, value in settings.optimizer.model_dump().items()},
        **{f"teacher.{name}": value for name, value in job.past_of_teacher_steps.items()},
        **train.model_dump(include=of_all_stages),
    }


def _log_end(run: TrackedRun, job: StageJob, summary: StageSummary) -> None:
    run.set_tags({"longtake.base_sha256": summary.base_sha256, "longtake.weights_sha256": summary.weights_sha256})
    run.log_params({name: value for name, value in asdict(summary).items() if name.startswith("num_")})
    run.log_artifact(job.model_folder / "longtake.json")
    _log_warnings(run, job)
    run.finish("FINISHED")


def _log_warnings(run: TrackedRun, job: StageJob) -> None:
    """All that was warned of since the stage was begun."""
    path = job.folder / OF_STAGE
    if path.is_file():
        run.log_artifact(path)
