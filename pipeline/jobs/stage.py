"""One training stage with a Ray to run on and a tracked run to log to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import ray_cluster
from pipeline.jobs.train import run_training
from pipeline.progress import Meter, progress
from pipeline.tracking import TrackedRun, Tracking
from training.batches import open_data
from training.config import StageName
from training.engine.base import freeze_all_but_head
from training.model.presets import build_model
from training.run_folder import check_job, finished, prepare_job
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
        RuntimeError: If the workers failed too often.
    """
    uris = _absolute(dataset_uris)
    job = prepare_job(run_dir.resolve(), stage, model=recipe.model, train=recipe.train, dataset_uris=uris, init=init)
    summary = finished(job)
    if summary is not None:
        return summary
    run = tracking.open(kind=f"train-{stage}", run_key="", home=run_dir, line=Path(uris[0]).name)
    _log_start(run, recipe, job)
    try:
        with ray_cluster(address), progress() as meters:
            seen = _Seen(run, meters.meter(stage, job.settings.steps))
            return run_training(
                recipe,
                dataset_uris=uris,
                run_dir=run_dir,
                stage=stage,
                init=init,
                on_metrics=seen.take,
                on_end=lambda summary: _log_end(run, job, summary),
            )
    except BaseException:
        run.finish("FAILED")
        raise


@dataclass(frozen=True, kw_only=True)
class StagePreview:
    """What a stage would do.

    Attributes:
        init: Model folder that it begins from; None for fresh weights.
        num_parameters: Of the model.
        num_trained: Of these, parameters that the stage changes.
        finished: Whether it has ended already.
    """

    stage: str
    steps: int
    global_batch: int
    num_workers: int
    zero_stage: int
    dtype: str
    num_clips: int
    num_held_out: int
    init: str | None
    num_parameters: int
    num_trained: int
    finished: bool

    def lines(self) -> list[str]:
        """For people."""
        share = self.num_trained / self.num_parameters
        return [
            f"{self.stage}: {self.steps} steps of {self.global_batch} clips on {self.num_workers} workers, "
            f"ZeRO-{self.zero_stage}, {self.dtype}{'; has ended already' if self.finished else ''}",
            f"clips: {self.num_clips} to train on, {self.num_held_out} held out",
            f"begins from: {self.init or 'fresh weights'}",
            f"parameters: {self.num_parameters:,}, of which {self.num_trained:,} are trained ({share:.3%})",
        ]


def preview_stage(
    recipe: Recipe, *, dataset_uris: Sequence[str], run_dir: Path, stage: StageName, init: Path | None
) -> StagePreview:
    """What `train_stage` would do; nothing is written and no weights are loaded.

    Raises:
        ValueError: As `train_stage`.
    """
    uris = _absolute(dataset_uris)
    job = check_job(run_dir.resolve(), stage, model=recipe.model, train=recipe.train, dataset_uris=uris, init=init)
    data = open_data(job.datasets)
    model = build_model(recipe.model, data.codec, device="meta", seed=0)
    if job.trains_head_only:
        freeze_all_but_head(model)
    engine = recipe.train.engine
    return StagePreview(
        stage=stage,
        steps=job.settings.steps,
        global_batch=job.settings.global_batch,
        num_workers=engine.num_workers,
        zero_stage=engine.zero_stage,
        dtype=engine.dtype,
        num_clips=len(data.train),
        num_held_out=len(data.held_out),
        init=None if job.init is None else str(job.init),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        finished=finished(job) is not None,
    )


def _absolute(dataset_uris: Sequence[str]) -> list[str]:
    """Workers have another working directory."""
    return [uri if "://" in uri else str(Path(uri).resolve()) for uri in dataset_uris]


class _Seen:
    """Hands metrics to the tracked run and to the meter."""

    def __init__(self, run: TrackedRun, meter: Meter) -> None:
        self._run, self._meter = run, meter

    def take(self, metrics: Mapping[int, Mapping[str, float]]) -> None:
        """Step -> name -> value."""
        self._run.log_metrics_batch(metrics)
        last = metrics[max(metrics)] if metrics else {}
        note = f"loss {last['loss']:.3f}" if "loss" in last else ""
        self._meter.advance(sum(step > 0 for step in metrics), note)


def _log_start(run: TrackedRun, recipe: Recipe, job: StageJob) -> None:
    settings = job.settings
    run.log_params(
        {
            "preset": recipe.model.preset,
            "rope_mode": recipe.model.rope_mode,
            **{f"memory.{name}": value for name, value in recipe.model.memory.model_dump().items()},
            **{f"engine.{name}": value for name, value in recipe.train.engine.model_dump().items()},
            **{f"flow.{name}": value for name, value in recipe.train.flow.model_dump().items()},
            **{name: value for name, value in settings.model_dump().items() if name != "optimizer"},
            **{f"optimizer.{name}": value for name, value in settings.optimizer.model_dump().items()},
            "seed": recipe.train.seed,
        }
    )
    for pinned in job.datasets:
        run.log_dataset(name=Path(pinned.uri).name, manifest_sha256=pinned.manifest, uri=pinned.uri)
    manifests = ",".join(pinned.manifest for pinned in job.datasets)
    run.set_tags({"longtake.recipe_fingerprint": fingerprint(recipe), "longtake.manifest_sha256": manifests})


def _log_end(run: TrackedRun, job: StageJob, summary: StageSummary) -> None:
    run.set_tags({"longtake.base_sha256": summary.base_sha256, "longtake.weights_sha256": summary.weights_sha256})
    run.log_params({name: value for name, value in asdict(summary).items() if name.startswith("num_")})
    run.log_artifact(job.model_folder / "longtake.json")
    run.finish("FINISHED")
