"""A run directory: ``RUN/<stage>/`` for each stage, what it was begun with, and what came out of it."""

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from training.batches import (
    PinnedDataset,
    TrainingData,
    are_current,
    current_versions,
    open_data,
    pin_datasets,
    unpin_datasets,
    version_exists,
)
from training.checkpoint import Weights, stored_weights
from training.checkpoint_files import (
    complete_steps,
    is_complete,
    newest_step,
    read_checkpoint,
    record_from_values,
    step_folder,
)
from training.compatibility import (
    is_base,
    refuse_damaged,
    refuse_missing,
    refuse_other_model,
    refuse_other_run,
    setting_differences,
    unfamiliar_clips,
)
from training.config import ModelConfig, StageName, TrainConfig
from training.curriculum import most_segments
from training.held_out import validation_clips
from training.model.base_weights import base_fingerprint, find_base
from training.model.presets import ambiguous_distances
from training.model.weights import RECORD_FILE, read_record, refuse_other_folder
from training.order import positions_of_rank, unused_clips
from training.stage import StageJob, checkpoint_record, export_checkpoint, global_steps
from training.types import CheckpointRecord, StageSummary

logger = logging.getLogger(__name__)

STAGE_FILE, SUMMARY_FILE, PIN_FILE = "stage.json", "summary.json", "pin"

FRESH = "fresh weights"
"""What a stage without a model folder began from."""


def prepare_job(
    run_dir: Path,
    stage: StageName,
    *,
    model: ModelConfig,
    train: TrainConfig,
    dataset_uris: Sequence[str],
    init: Path | None,
) -> StageJob:
    """Check all that can be checked before a cluster is asked for, pin the data, and write down what the stage begins with.

    Arguments and errors are those of `check_job`.
    """
    while True:
        job = check_job(run_dir, stage, model=model, train=train, dataset_uris=dataset_uris, init=init)
        if finished(job) is not None:
            return job
        record = _record(job)
        pin_datasets(job.datasets, pin_id=_pin_id(job.folder), holder=f"the training in {job.folder}")
        # A gc that has not seen the pins began before them. It keeps what is current, and that does not change while it runs.
        if _pinned(job.folder, dataset_uris) or are_current(job.datasets):
            break
    _write_json(
        job.folder / STAGE_FILE,
        {
            "record": asdict(record),
            "datasets": [asdict(pinned) for pinned in job.datasets],
            "model": job.model.model_dump(mode="json"),
            "train": job.train.model_dump(mode="json"),
            "init": None if job.init is None else str(_from_run(job.init, run_dir.resolve())),
        },
    )
    return job


def _from_run(init: Path, run_dir: Path) -> Path:
    """Relative to the run where it lies inside, so that a run may be moved."""
    return init.relative_to(run_dir) if init.is_relative_to(run_dir) else init


def check_job(
    run_dir: Path,
    stage: StageName,
    *,
    model: ModelConfig,
    train: TrainConfig,
    dataset_uris: Sequence[str],
    init: Path | None,
) -> StageJob:
    """All that a stage is asked to do, checked; nothing is written.

    A stage keeps the dataset versions that it was begun with, as long as it is given the same datasets.

    Args:
        run_dir: Of the run.
        stage: Which.
        model: Size and memory.
        train: All training settings.
        dataset_uris: Where the clips are.
        init: Model folder, run, stage of a run, or diffusers folder of FramePack or HunyuanVideo to begin from; None takes
            the run's own teacher for later stages.

    Raises:
        ValueError: If a dataset, the model to begin from or a setting is wrong, a file of that model is missing or cut off,
            or the stage was begun with others.
    """
    folder = run_dir / stage
    job = StageJob(
        stage=stage,
        model=model,
        train=train,
        datasets=_pinned(folder, dataset_uris) or current_versions(dataset_uris),
        init=_init_folder(run_dir, stage, init, from_scratch=stage == "teacher" or train.direct.from_scratch),
        folder=folder,
    )
    if finished(job) is not None and not all(version_exists(pinned) for pinned in job.datasets):
        return job  # gc has removed its data, and it asks no more of them
    data = open_data(job.datasets)
    refuse_impossible_order(job, data)
    if job.init is not None:
        refuse_other_model(job.init, model, data.codec)
        if finished(job) is None:
            refuse_damaged(job.init)
    stored = _last_record(job)
    if stored is not None:
        refuse_other_run(folder, stored, _record(job), allow_changed=train.checkpoint.allow_changed)
    if finished(job) is None:
        _refuse_fewer_steps(job)
    return job


def _refuse_fewer_steps(job: StageJob) -> None:
    done, asked = newest_step(job.checkpoints) or 0, job.settings.steps
    if done > asked:
        section = "teacher" if job.stage == "teacher" else "direct"
        raise ValueError(
            f"{job.folder} has done {done} steps, and {asked} are asked for: set train.{section}.steps to {done} or more,"
            " take the model of an earlier checkpoint by longtake export --step, or use a new --run"
        )


def refuse_impossible_order(job: StageJob, data: TrainingData) -> None:
    """Refuse global batches that the ranks cannot share, and a curriculum without clips.

    Raises:
        ValueError: If there are such.
    """
    positions_of_rank(job.settings.global_batch, rank=0, num_ranks=job.train.engine.num_workers)
    global_steps(job, data.train)


def warn_before_start(job: StageJob) -> None:
    """Says before a stage starts what has changed, what its model does not know, and what it will not show or train on."""
    _warn_of_changes(job)
    data = open_data(job.datasets)
    if job.init is not None:
        for line in unfamiliar_clips(job.init, data.clip_format):
            logger.warning("%s", line)
    too_long = ambiguous_distances(
        job.model, most_segments(job.train, job.stage, max(row.num_segments for row in data.train))
    )
    if too_long:
        logger.warning("%s", too_long)
    if not data.held_out:
        logger.warning(
            "no clip is held out, so the %s stage shows no val_loss and no videos, and knows no best checkpoint: preprocess"
            " videos of more groups, or the same again with a larger share of them held out, for example --set sources.eval_percent=20",
            job.stage,
        )
    if data.num_withheld:
        logger.warning(
            "the %s stage leaves out %d clips: they or others of their group are held out, by this or another of its datasets",
            job.stage, data.num_withheld,
        )  # fmt: skip


def _warn_of_changes(job: StageJob) -> None:
    """Of those that `check_job` lets pass. The file of the stage says nothing of them any more: `prepare_job` has written it anew."""
    step = newest_step(job.checkpoints)
    if step is None or not job.train.checkpoint.allow_changed:
        return
    changes = setting_differences(read_checkpoint(step_folder(job.checkpoints, step)), _record(job))
    if changes:
        logger.warning("%s goes on after step %d with changes: %s", job.folder, step, "; ".join(changes))


def _record(job: StageJob) -> CheckpointRecord:
    return checkpoint_record(job, open_data(job.datasets), base_sha256=_base(job.init))


def _init_folder(run_dir: Path, stage: StageName, init: Path | None, *, from_scratch: bool) -> Path | None:
    """The model folder to begin from."""
    if init is None and from_scratch:
        return None
    given = run_dir if init is None else init
    for folder in (given, given / "model", given / "teacher" / "model"):
        if (folder / RECORD_FILE).is_file():
            return folder.resolve()  # workers have another working directory
    base = None if init is None else find_base(init)
    if base is not None:
        return base.resolve()
    if init is None:
        raise ValueError(
            f"the {stage} stage begins from a teacher, and {run_dir} has no finished one: run longtake train --stage teacher"
            " first, give --init, or set train.direct.from_scratch=true"
        )
    raise ValueError(
        f"no model in {init}: expected a model folder, a run, a finished stage of a run, or a diffusers folder of FramePack"
        " or HunyuanVideo"
    )


def _base(init: Path | None) -> str:
    if init is None:
        return FRESH
    return base_fingerprint(init) if is_base(init) else read_record(init).weights_sha256


def _stage_values(folder: Path) -> dict[str, Any] | None:
    path = folder / STAGE_FILE
    return json.loads(path.read_text()) if path.is_file() else None


def _last_record(job: StageJob) -> CheckpointRecord | None:
    """What the stage would go on from, or ended with; None where nothing is done yet."""
    step, values = newest_step(job.checkpoints), _stage_values(job.folder)
    if values is None or (step is None and read_summary(job.folder) is None):
        return None
    asked = record_from_values(values["record"], job.folder / STAGE_FILE)
    if step is None:
        return asked
    # what was asked for last may not have been done; the file of the stage alone knows fresh weights by their name
    return replace(read_checkpoint(step_folder(job.checkpoints, step)), base_sha256=asked.base_sha256)


def stored_job(run_dir: Path, stage: StageName) -> StageJob:
    """A stage as it was last begun.

    Raises:
        ValueError: If it has not been begun, or by another version of longtake.
    """
    folder = run_dir / stage
    values = _stage_values(folder)
    if values is None:
        raise ValueError(f"the {stage} stage of {run_dir} has not been begun")
    if "train" not in values:
        raise ValueError(f"{folder / STAGE_FILE} was written by another version of longtake")
    return StageJob(
        stage=stage,
        model=ModelConfig.model_validate(values["model"], strict=False),
        train=TrainConfig.model_validate(values["train"], strict=False),
        datasets=_datasets(values),
        init=None if values["init"] is None else run_dir / values["init"],
        folder=folder,
    )


def export_stage(run_dir: Path, stage: StageName, out: Path, *, weights: Weights, step: int | None) -> Path:
    """Write the weights of a checkpoint as a model folder, of a stage that has ended or not; returns the checkpoint.

    The checkpoint says what the model reads: `gc` may have removed the data of a stage that has ended.

    Args:
        run_dir: Of the run.
        stage: Which.
        out: See `training.stage.export_checkpoint`.
        weights: Which of those in the checkpoint.
        step: Optimizer steps done at the checkpoint; None takes the newest.

    Raises:
        ValueError: If there is no such checkpoint, what the stage began from is gone or damaged, or `out` exists and is
            something else.
    """
    folder = check_export(run_dir, stage, out, weights=weights, step=step)
    job = stored_job(run_dir, stage)
    try:
        record = read_checkpoint(folder)
        clips = record.clip_format or open_data(job.datasets).clip_format
        export_checkpoint(job, clips, record.step, out, weights=weights)
    except (OSError, ValueError) as error:
        if is_complete(folder):
            raise
        raise ValueError(
            f"{folder} went while it was read, as a training that goes on removes old checkpoints; give the command again"
        ) from error
    return folder


def check_export(run_dir: Path, stage: StageName, out: Path, *, weights: Weights, step: int | None) -> Path:
    """The checkpoint that `export_stage` would write; no weights are loaded and nothing is written.

    Arguments and errors are those of `export_stage`.
    """
    refuse_other_folder(out)
    job = stored_job(run_dir, stage)
    refuse_missing(job.init)
    if job.init is not None:
        refuse_damaged(job.init)
    steps = complete_steps(job.checkpoints)
    wanted = step if step is not None else max(steps, default=0)
    if wanted not in steps:
        raise ValueError(f"no complete checkpoint of step {wanted} in {job.checkpoints}; there are {list(steps)}")
    folder = step_folder(job.checkpoints, wanted)
    stored_weights(folder, weights)
    return folder


def _pin_id(folder: Path) -> str:
    """Drawn once: two runs on two machines may lie under one path."""
    path = folder / PIN_FILE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex)
    return path.read_text()


def _pinned(folder: Path, uris: Sequence[str]) -> tuple[PinnedDataset, ...] | None:
    values = _stage_values(folder)
    if values is None:
        return None
    pinned = _datasets(values)
    return pinned if [dataset.uri for dataset in pinned] == list(uris) else None


def _datasets(stage_values: Mapping[str, Any]) -> tuple[PinnedDataset, ...]:
    return tuple(PinnedDataset(**dataset) for dataset in stage_values["datasets"])


def read_summary(folder: Path) -> StageSummary | None:
    """What a finished stage says of itself, None if it has not finished."""
    path = folder / SUMMARY_FILE
    return StageSummary(**json.loads(path.read_text())) if path.is_file() else None


def finished(job: StageJob) -> StageSummary | None:
    """The summary of a stage that has all the steps it is asked for."""
    summary = read_summary(job.folder)
    return summary if summary is not None and summary.steps >= job.settings.steps else None


def summarize(job: StageJob) -> StageSummary:
    """Sum up a stage whose model folder is written."""
    data = open_data(job.datasets)
    metrics = job.metrics_log.read()
    steps = islice(global_steps(job, data.train), job.settings.steps)
    return StageSummary(
        stage=job.stage,
        steps=job.settings.steps,
        num_clips=len(data.train),
        num_unused_clips=len(unused_clips(data.train, steps)),
        num_withheld_clips=data.num_withheld,
        num_validation_clips=len(validation_clips(data.held_out, job.train)),
        at_start=metrics.get(0, {}),
        at_end=metrics.get(job.settings.steps, {}),
        base_sha256=_base(job.init),
        weights_sha256=read_record(job.model_folder).weights_sha256,
        num_broken_samples=int(sum(values.get("broken_samples", 0) for values in metrics.values())),
        num_skipped_steps=int(sum(values.get("skipped", 0) for values in metrics.values())),
    )


def write_summary(job: StageJob, summary: StageSummary) -> None:
    """Store the summary, which is what makes a stage finished, and let `gc` have the versions that it has read."""
    _write_json(job.folder / SUMMARY_FILE, asdict(summary))
    unpin_datasets(job.datasets, pin_id=_pin_id(job.folder))


def _write_json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)
