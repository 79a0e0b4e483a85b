"""What a training stage would do and need, before anything is started: `longtake train --dry-run`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

from pipeline.config import Recipe
from pipeline.jobs.stage import absolute_uris
from preprocessing.codecs.catalog import planned_record
from preprocessing.samples import CodecRecord
from training.batches import TrainingData, open_data
from training.compatibility import unfamiliar_clips
from training.config import StageName
from training.curriculum import most_segments
from training.footprint import Footprint, Parameters, count_parameters, footprint
from training.model.presets import ambiguous_distances
from training.run_folder import check_job, finished, refuse_impossible_order
from training.stage import StageJob
from training.workload import Workload, gpu_days_lines


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a stage's cost depends on besides its settings.

    Attributes:
        codec: Whose latents and features are read.
        size_px: Height and width of the largest pictures.
        num_segments: Of the longest clip.
        fps: Frames a second.
    """

    codec: CodecRecord
    size_px: tuple[int, int]
    num_segments: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage needs.

    Attributes:
        footprint: What a rank holds.
        work: Operations and GPU-days, for people.
        gpu_memory_gb: Of the device that it is held against; None for none.
        warnings: What is not as it should be, and no reason not to begin.
    """

    stage: str
    settings: str
    material: Material
    parameters: Parameters
    footprint: Footprint
    work: tuple[str, ...]
    gpu_memory_gb: float | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """As plain values, with the verdict."""
        peak_gb = self.footprint.peak_bytes / 1e9
        fits = None if self.gpu_memory_gb is None else peak_gb <= self.gpu_memory_gb
        return {**asdict(self), "peak_gb": peak_gb, "fits": fits}

    def lines(self) -> list[str]:
        """For people."""
        total, trained = self.parameters.total, self.parameters.trained
        height_px, width_px = self.material.size_px
        return [
            f"{self.stage}: {self.settings}",
            f"clips of up to {self.material.num_segments} segments of {height_px} x {width_px} pixels",
            f"parameters: {total:,}, of which {trained:,} are trained ({trained / total:.3%})",
            *self.footprint.lines(),
            *([] if self.gpu_memory_gb is None else [self.footprint.verdict(self.gpu_memory_gb)]),
            *self.work,
            *(f"warning: {warning}" for warning in self.warnings),
        ]


@dataclass(frozen=True, kw_only=True)
class StagePreview:
    """What a stage would do with given data.

    Attributes:
        num_withheld: Clips of a training split that are held out, themselves or their group, by any of the datasets.
        init: Model folder that it begins from, there or made by the stage before; None for fresh weights.
        finished: Whether it has ended already.
    """

    cost: StageCost
    num_clips: int
    num_held_out: int
    num_withheld: int
    init: str | None
    finished: bool

    def as_dict(self) -> dict[str, object]:
        """As plain values."""
        return {**asdict(self), "cost": self.cost.as_dict()}

    def lines(self) -> list[str]:
        """For people."""
        return [
            *self.cost.lines(),
            f"clips: {self.num_clips} to train on, {self.num_held_out} held out",
            *(
                [f"left out, as they or others of their group are held out: {self.num_withheld} clips"]
                if self.num_withheld
                else []
            ),
            f"begins from: {self.init or 'fresh weights'}",
            *(["has ended already"] if self.finished else []),
        ]


def preview_stages(
    recipe: Recipe,
    *,
    dataset_uris: Sequence[str],
    run_dir: Path,
    stages: Sequence[StageName],
    init: Path | None,
    gpu_memory_gb: float | None,
) -> list[StagePreview]:
    """What `train_stage` would do, stage after stage; nothing is written and no weights are loaded.

    Args:
        recipe: Its `model` and `train` sections count.
        dataset_uris: Where the clips are.
        run_dir: Of the run.
        stages: Which, in their order.
        init: What the first begins from, as for `train_stage`.
        gpu_memory_gb: See `stage_cost`.

    Raises:
        ValueError: As `train_stage`.
    """
    uris = absolute_uris(dataset_uris)

    def check(stage: StageName, init: Path | None) -> StageJob:
        return check_job(run_dir.resolve(), stage, model=recipe.model, train=recipe.train, dataset_uris=uris, init=init)

    first = check(stages[0], init)
    waits = first.stage == "teacher" and finished(first) is None and not recipe.train.direct.from_scratch
    later = [_after_teacher(first, stage) if waits else check(stage, None) for stage in stages[1:]]
    return [_preview(recipe, job, gpu_memory_gb) for job in (first, *later)]


def _after_teacher(teacher: StageJob, stage: StageName) -> StageJob:
    """A stage that begins from a model which is not there yet, checked as far as that goes."""
    job = replace(teacher, stage=stage, init=teacher.model_folder, folder=teacher.folder.with_name(stage))
    refuse_impossible_order(job, open_data(job.datasets))
    return job


def _preview(recipe: Recipe, job: StageJob, gpu_memory_gb: float | None) -> StagePreview:
    data = open_data(job.datasets)
    cost = stage_cost(recipe, job.stage, _material(data), gpu_memory_gb)
    unfamiliar = () if job.init is None else unfamiliar_clips(job.init, data.clip_format)
    return StagePreview(
        cost=replace(cost, warnings=(*cost.warnings, *unfamiliar)),
        num_clips=len(data.train),
        num_held_out=len(data.held_out),
        num_withheld=data.num_withheld,
        init=None if job.init is None else str(job.init),
        finished=finished(job) is not None,
    )


def _material(data: TrainingData) -> Material:
    return Material(
        codec=data.codec,
        size_px=max(data.sizes_px, key=prod),
        num_segments=max(row.num_segments for row in data.train),
        fps=data.fps,
    )


def planned_material(recipe: Recipe) -> Material:
    """What a recipe would preprocess, for those who have no dataset yet."""
    return Material(
        codec=planned_record(recipe.encode),
        size_px=max(recipe.encode.sizes_px, key=prod),
        num_segments=recipe.clips.max_segments,
        fps=recipe.clips.fps,
    )


def stage_cost(recipe: Recipe, stage: StageName, material: Material, gpu_memory_gb: float | None) -> StageCost:
    """What a stage needs.

    Args:
        recipe: Its `model` and `train` sections count.
        stage: Which stage.
        material: What it trains on.
        gpu_memory_gb: Memory of a GPU in 10^9 bytes, to say whether it fits.
    """
    model, train = recipe.model, recipe.train
    settings = train.teacher if stage == "teacher" else train.direct
    parameters = count_parameters(
        model, material.codec, head_only=stage != "teacher" and train.direct.trained == "head"
    )
    held = footprint(
        model, train, stage, parameters,
        codec=material.codec, size_px=material.size_px, num_segments=material.num_segments,
    )  # fmt: skip
    workload = Workload(config=model, train=train, stage=stage, codec=material.codec)
    work = gpu_days_lines(workload, size_px=material.size_px, num_segments=material.num_segments, fps=material.fps)
    too_long = ambiguous_distances(model, most_segments(train, stage, material.num_segments))
    engine = train.engine
    return StageCost(
        stage=stage,
        settings=f"{settings.steps} steps of {settings.global_batch} clips on {engine.num_workers} workers,"
        f" ZeRO-{engine.zero_stage}, {engine.dtype}"
        f"{', blocks computed again' if engine.activation_checkpointing else ''}",
        material=material,
        parameters=parameters,
        footprint=held,
        work=tuple(work),
        gpu_memory_gb=gpu_memory_gb,
        warnings=() if too_long is None else (too_long,),
    )
