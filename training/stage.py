"""One training stage, from datasets to a model folder: what every rank runs, with or without a cluster.

A stage's folder holds ``stage.json`` (what it was begun with), ``metrics.jsonl``, the checkpoints, ``videos/`` if there
are any, and in the end ``model/`` and ``summary.json``. ``.lease`` names the driver that is at work there.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from training.batches import PinnedDataset, TrainingData, open_data, prefetch, sample_reader, step_batches
from training.broken_samples import healthy_batches, healthy_reader
from training.checkpoint import Weights, load_weights, restore_newest, start_weights
from training.checkpoint_files import step_folder
from training.compatibility import flat_settings
from training.config import DirectConfig, ModelConfig, OptimizerConfig, StageName, TeacherConfig, TrainConfig
from training.curriculum import direct_steps
from training.engine.base import Engine, freeze_all_but_head
from training.engine.ema import Ema
from training.held_out import HeldOutClips, LoadClip, validation_clips
from training.loop import LoopCallbacks, Metrics, StageSettings, train, validate
from training.metrics_log import MetricsLog
from training.model.weights import ModelRecord, export_diffusers, weights_sha256
from training.objectives.base import Objective, ObjectiveModule
from training.objectives.direct_forcing import direct_forcing, direct_forcing_at
from training.objectives.student_forcing import student_forcing
from training.objectives.teacher_forcing import teacher_forcing_with
from training.one_step_gap import one_step_gap, warn_if_far
from training.order import plan_hash, teacher_steps
from training.sampled_video import SampledVideo, sample_video, save_video
from training.speed import Speed
from training.types import CheckpointRecord, ClipFormat, ClipRow, GlobalStep, SegmentBatch
from training.workload import Workload

STEPS_AHEAD = 2
"""Steps whose clips are read before they are needed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """All that a rank needs to know of a stage; plain values that travel to workers.

    Attributes:
        init: Model folder or base (`find_base`) to begin from; None begins with fresh weights.
        folder: The stage's folder, on a disk that all ranks share.
    """

    stage: StageName
    model: ModelConfig
    train: TrainConfig
    datasets: tuple[PinnedDataset, ...]
    init: Path | None
    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def model_folder(self) -> Path:
        """What the stage is for."""
        return self.folder / "model"

    @property
    def videos(self) -> Path:
        """What the model made while it trained, see `training.sampled_video`."""
        return self.folder / "videos"

    @property
    def metrics_log(self) -> MetricsLog:
        """Its curves."""
        return MetricsLog(self.folder / "metrics.jsonl")

    @property
    def settings(self) -> TeacherConfig | DirectConfig:
        """Of this stage."""
        return self.train.teacher if self.stage == "teacher" else self.train.direct

    @property
    def past_of_teacher_steps(self) -> dict[str, object]:
        """Settings of stage 1 that the teacher steps of another stage go by, by their names; none where it takes none."""
        if self.stage == "teacher" or not self.train.direct.has_teacher_steps:
            return {}
        return self.train.teacher.model_dump(mode="json", include={"history_noise", "memory_grad_steps"})

    @property
    def trains_head_only(self) -> bool:
        """Whether all but the final norm and the output layer stay as they are (paper, A.2)."""
        return self.stage != "teacher" and self.train.direct.trained == "head"


MakeEngine = Callable[[ObjectiveModule, OptimizerConfig], Engine]
SaveCheckpoint = Callable[[Engine, CheckpointRecord], None]


def run_stage(job: StageJob, make_engine: MakeEngine, *, device: torch.device, save: SaveCheckpoint) -> None:
    """Train what is left of a stage and write its model folder. Every rank runs it.

    Args:
        job: The stage.
        make_engine: Wraps the module of this rank.
        device: Of this rank.
        save: Writes a checkpoint under `StageJob.checkpoints`; called on all ranks at the same steps.

    Raises:
        ValueError: If the newest checkpoint belongs to another run, or the datasets or the model to begin from don't fit.
    """
    data = open_data(job.datasets)
    model = start_weights(job.model, data.codec, init=job.init, seed=job.train.seed)
    base_sha256 = weights_sha256(model.state_dict())
    if job.trains_head_only:
        freeze_all_but_head(model)
    if job.train.engine.activation_checkpointing:
        model.enable_gradient_checkpointing()
    engine = make_engine(ObjectiveModule(model).to(device), job.settings.optimizer)
    ema = None if job.train.ema_decay is None else Ema(engine, decay=job.train.ema_decay)
    record = checkpoint_record(job, data, base_sha256=base_sha256)
    done = restore_newest(engine, job.checkpoints, record, allow_changed=job.train.checkpoint.allow_changed)
    logger.info("%s: %d of %d steps done", job.stage, done, job.settings.steps)
    _train_from(
        job, data, engine, ema, done, lambda step, metrics: save(engine, _at_step(record, engine, step, metrics))
    )
    if engine.rank == 0:
        export_checkpoint(job, data.clip_format, job.settings.steps, job.model_folder, weights=job.train.model_weights)


def export_checkpoint(job: StageJob, clips: ClipFormat, step: int, out: Path, *, weights: Weights) -> ModelRecord:
    """Write the weights of a complete checkpoint as a model folder, in fp32; one process does it.

    Args:
        job: The stage.
        clips: What the model reads.
        step: Optimizer steps done at the checkpoint.
        out: There whole or not at all; replaces an older model folder.
        weights: Which of those in the checkpoint.

    Raises:
        ValueError: If no average was kept, the model to begin from has changed, or `out` is something else.
    """
    model = start_weights(job.model, clips.codec, init=job.init, seed=job.train.seed)
    load_weights(model, step_folder(job.checkpoints, step), weights)
    return export_diffusers(model, out, config=job.model, codec=clips.codec, fps=clips.fps, sizes_px=clips.sizes_px)


def _at_step(record: CheckpointRecord, engine: Engine, step: int, metrics: Metrics) -> CheckpointRecord:
    return replace(record, step=step, num_updates=engine.num_updates, val_loss=metrics.get("val_loss"))


def _train_from(
    job: StageJob,
    data: TrainingData,
    engine: Engine,
    ema: Ema | None,
    done: int,
    save: Callable[[int, Metrics], None],
) -> None:
    settings = stage_settings(job)
    read = sample_reader()
    read_healthy = healthy_reader(read) if job.train.skip_broken else None
    held_out = HeldOutClips(
        rows=validation_clips(data.held_out, job.train),
        read=read,
        read_healthy=read_healthy,
        max_segments=job.train.validation.max_segments,
    )
    log = job.metrics_log if engine.rank == 0 else None
    if log is not None:
        _go_on(log, done)

    def averaged() -> AbstractContextManager[None]:
        return ema.swapped() if ema is not None else nullcontext()

    def validate_average(num_clips: int, load: LoadClip) -> Metrics:
        with averaged():
            return validate(engine, settings, num_clips, load)

    def make_video(step: int) -> None:
        sample = held_out.first(engine)
        if sample is None:
            return
        with averaged():
            video = sample_video(engine, settings, sample, data, job.train.validation, step)
        if engine.rank == 0:
            _keep(video, job.videos)

    gap = partial(_one_step_gap, job, engine, settings)
    speed = Speed(workload=_workload(job, data), num_ranks=engine.num_ranks, device=engine.device)
    callbacks = LoopCallbacks(
        report=log.append if log is not None else lambda _step, _metrics: None,
        validate=partial(held_out.measure, engine, validate_average),
        before=partial(held_out.measure, engine, gap) if job.stage == "direct" else dict,
        measure=lambda step, waited_s, computed_s: speed.metrics(step, waited_s=waited_s, computed_s=computed_s),
        updated=ema.update if ema is not None else lambda _step: None,
        make_video=make_video,
        save=save,
    )
    steps = islice(global_steps(job, data.train, start=done), settings.num_steps - done)
    batches_of = (
        partial(step_batches, read=read)
        if read_healthy is None
        else partial(healthy_batches, read=read_healthy, codec=data.codec)
    )
    train(engine, settings, prefetch(_work(steps, batches_of, engine), depth=STEPS_AHEAD), callbacks)


def _go_on(log: MetricsLog, done: int) -> None:
    """Bring the metrics to where the weights are."""
    log.truncate(done)
    num_missing = len(set(range(1, done + 1)) - log.read().keys())
    if num_missing:
        logger.warning(
            "%s lacks %d of the %d steps that are done: curves and counts go without them", log.path, num_missing, done
        )


def _one_step_gap(job: StageJob, engine: Engine, settings: StageSettings, num_clips: int, load: LoadClip) -> Metrics:
    """What Direct Forcing relies on."""
    figures = one_step_gap(engine, settings, job.train.validation.sample, num_clips, load)
    if engine.rank == 0:
        warn_if_far(figures)
    return figures


def _keep(video: SampledVideo, folder: Path) -> None:
    """A run does not end because there is no room for a video."""
    try:
        save_video(video, folder)
    except OSError as error:
        logger.warning("the video of step %d is lost: %s", video.step, error)


def _work(
    steps: Iterator[GlobalStep], batches_of: Callable[..., tuple[SegmentBatch, ...]], engine: Engine
) -> Iterator[tuple[GlobalStep, tuple[SegmentBatch, ...]]]:
    for step in steps:
        yield step, batches_of(step, rank=engine.rank, num_ranks=engine.num_ranks, device=engine.device)


def _workload(job: StageJob, data: TrainingData) -> Workload:
    return Workload(config=job.model, train=job.train, stage=job.stage, codec=data.codec)


def stage_settings(job: StageJob) -> StageSettings:
    """What the loop needs of a job."""
    video = job.train.validation.video
    return StageSettings(
        name=job.stage,
        objective=_objective(job),
        seed=job.train.seed,
        num_steps=job.settings.steps,
        memory_warmup_steps=memory_warmup_steps(job),
        flow=job.train.flow,
        rope_mode=job.model.rope_mode,
        optimizer=job.settings.optimizer,
        save_every=job.train.checkpoint.every_steps,
        validate_every=job.train.validation.every_steps,
        teacher=teacher_forcing_with(job.train.teacher),
        update="clip" if job.stage == "teacher" else job.train.direct.update,
        skip_nonfinite=job.train.skip_nonfinite,
        skip_broken=job.train.skip_broken,
        video_every=None if video is None else video.every_steps,
    )


def _objective(job: StageJob) -> Objective:
    """What a stage makes of the past."""
    if job.stage == "teacher":
        return teacher_forcing_with(job.train.teacher)
    if job.stage == "student":
        return student_forcing(job.train.direct.student)
    times = job.train.direct.condition_times
    return direct_forcing if times is None else direct_forcing_at(times)


def memory_warmup_steps(job: StageJob) -> int:
    """Steps in which only the memory learns: of the teacher, where there is a memory."""
    return job.train.teacher.memory_warmup_steps if job.stage == "teacher" and job.model.memory.enabled else 0


def global_steps(job: StageJob, rows: tuple[ClipRow, ...], *, start: int = 0) -> Iterator[GlobalStep]:
    """The order of a stage, from step `start`.

    Raises:
        ValueError: If the settings ask for clips that there are none of.
    """
    seed = job.train.seed
    if job.stage == "teacher":
        teacher = job.train.teacher
        return teacher_steps(
            rows, seed=seed, global_batch=teacher.global_batch, memory_dropout=teacher.memory_dropout,
            history_dropout=teacher.history_dropout, start=start,
        )  # fmt: skip
    return direct_steps(rows, seed=seed, config=job.train.direct, start=start)


def checkpoint_record(job: StageJob, data: TrainingData, *, base_sha256: str) -> CheckpointRecord:
    """What the job's checkpoint says of itself before the first step."""
    return CheckpointRecord(
        stage=job.stage,
        step=0,
        num_updates=0,
        val_loss=None,
        settings=shaping_settings(job),
        plan_hash=plan_hash(data.train),
        base_sha256=base_sha256,
        num_ranks=job.train.engine.num_workers,
        clip_format=data.clip_format,
    )


def shaping_settings(job: StageJob) -> dict[str, object]:
    """All settings that shape the weights, by their dotted names.

    More steps only lengthen a teacher whose learning rate stays constant: a curriculum and a decay are stretched.
    """
    section = "teacher" if job.stage == "teacher" else "direct"
    is_stretched = section == "direct" or job.settings.optimizer.decay != "constant"
    return flat_settings(
        {
            "model": job.model.model_dump(mode="json"),
            "train": {
                "seed": job.train.seed,
                "ema_decay": job.train.ema_decay,
                "flow": job.train.flow.model_dump(mode="json"),
                "teacher": job.past_of_teacher_steps,
                section: job.settings.model_dump(mode="json", exclude=set() if is_stretched else {"steps"}),
                "engine": {"dtype": job.train.engine.dtype},
            },
        }
    )
