"""One training stage on Ray Train: `training.stage` on every worker, checkpoints through `ray.train.report`."""

import logging
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR

from pipeline.config import Recipe
from pipeline.jobs import failures, warning_log
from pipeline.jobs.cluster import is_shared_cluster
from pipeline.jobs.sampled_videos import OnVideo, SampledVideos, refuse_impossible_videos
from pipeline.jobs.warning_log import RankWarnings, kept_warnings
from preprocessing.process_folder import process_folder
from training.checkpoint import write_checkpoint
from training.checkpoint_files import step_folder
from training.config import OptimizerConfig, StageName
from training.engine.base import Engine
from training.engine.watchdog import Pulse, watch
from training.objectives.base import ObjectiveModule
from training.retention import prune, set_aside_incomplete
from training.run_folder import finished, prepare_job, summarize, write_summary
from training.stage import StageJob, run_stage
from training.types import CheckpointRecord, StageSummary

logger = logging.getLogger(__name__)

OnMetrics = Callable[[Mapping[int, Mapping[str, float]]], None]
"""Takes curves: step -> name -> value; a step may come again, with the same values."""

OnEnd = Callable[[StageSummary], None]
"""Takes the summary of a stage that has ended."""

MAX_FAILURES = 2
"""How often Ray starts the workers again, from the newest checkpoint, before the command fails."""

FOLLOW_EVERY_S = 1.0
"""How often the driver looks for new metrics."""

HANG_EXIT_CODE = 70
"""Of a worker that ends because the others did not come."""

LOCAL_CHECKPOINTS = "longtake-checkpoints-"
"""Begins the names of the folders below `TMPDIR` that hold what a worker has not handed over yet."""

RAY_STATE = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of checkpoints. It is not written atomically, so a killed run may leave half of one."""


def run_training(
    recipe: Recipe,
    *,
    dataset_uris: Sequence[str],
    run_dir: Path,
    stage: StageName,
    init: Path | None,
    on_metrics: OnMetrics,
    on_video: OnVideo = lambda _video, _scored: None,
    on_end: OnEnd = lambda _: None,
) -> StageSummary:
    """Run one stage to its end; the same call goes on where an earlier one was stopped.

    Ray must be initialised, and no other driver may be at work on the stage (`pipeline.jobs.stage` sees to that).

    What the workers warn of is logged here, each warning once, as it comes.

    Args:
        recipe: Its `model` and `train` sections count; for videos of the model `encode`, `evaluate` and `cluster` too.
        dataset_uris: Where the clips are, as URIs or absolute paths: workers have another working directory.
        run_dir: Of the run, on a disk that all workers share.
        stage: ``teacher`` or ``direct``.
        init: Model folder, run or stage to begin from, see `prepare_job`.
        on_metrics: Gets the curves while they grow, in the driver, from a thread of its own.
        on_video: Gets videos of the model while they come, in the driver, from the same thread or the caller's.
        on_end: Gets the summary before it is stored, which is what makes the stage finished: whoever kills the driver in
            between has `on_end` called again by the next call.

    Raises:
        ValueError: If the settings, a dataset or the model to begin from are wrong.
        RuntimeError: If the workers failed more often than `MAX_FAILURES`.
    """
    run_dir = run_dir.resolve()
    job = prepare_job(run_dir, stage, model=recipe.model, train=recipe.train, dataset_uris=dataset_uris, init=init)
    summary = finished(job)
    if summary is not None:
        logger.info("%s stage of %s is finished: %d steps", stage, run_dir, summary.steps)
        on_metrics(job.metrics_log.read())
        return summary
    _refuse_too_many_workers(job)
    if job.train.validation.video is not None:
        refuse_impossible_videos(recipe)
    _clean_up(job)
    videos = SampledVideos(job.videos, recipe, on_video)
    with _following(job, on_metrics, videos):
        _fit(job)
    videos.finish()
    prune(job.checkpoints, job.train.checkpoint)
    summary = summarize(job)
    on_end(summary)
    write_summary(job, summary)
    return summary


def _refuse_too_many_workers(job: StageJob) -> None:
    """A local Ray does not grow: workers that don't fit would be waited for without end."""
    engine = job.train.engine
    cpus = ray.cluster_resources().get("CPU", 0.0)
    if not is_shared_cluster() and engine.num_workers * engine.cpus_per_worker > cpus:
        raise ValueError(
            f"{engine.num_workers} workers with {engine.cpus_per_worker:g} CPUs each on a machine that offers {cpus:g};"
            f" set train.engine.cpus_per_worker={cpus / engine.num_workers:g}"
        )


def _clean_up(job: StageJob) -> None:
    """Leave only whole checkpoints of an earlier attempt, and all of them: the newest may be found damaged."""
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    set_aside_incomplete(job.checkpoints)
    failures.forget(job.folder)
    warning_log.forget(job.folder)
    (job.checkpoints / RAY_STATE).unlink(missing_ok=True)


class _Trainer(TorchTrainer):
    """Without helpers that we have no use for: each is a process that takes seconds from the training on two cores.

    Datasets of Ray Data are not used: shards are read by the workers. The cleaner removes what a dead driver leaves on a
    shared cluster; it asks Ray's dashboard, and where there is none complains every second.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback,) if is_shared_cluster() else (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]

    def _register_sigint_handler(self, controller: object) -> None:
        """Ctrl-C stays Python's: Ray's handler outlives the training, swallows what comes after it, and ends in status 1."""


def _fit(job: StageJob) -> None:
    engine = job.train.engine
    if not is_shared_cluster():
        os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"
    trainer = _Trainer(
        _work,
        # a reference: Ray's controller reads this too, and would import all that a stage needs
        train_loop_config={"job": ray.put(job)},
        torch_config=TorchConfig(backend="nccl" if engine.use_gpu else "gloo", timeout_s=_group_timeout_s(job)),
        scaling_config=ScalingConfig(
            num_workers=engine.num_workers,
            use_gpu=engine.use_gpu,
            resources_per_worker={"CPU": engine.cpus_per_worker, **({"GPU": 1} if engine.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=job.checkpoints.name,
            storage_path=str(job.folder),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"the {job.stage} stage failed: {_message(job, error)}") from error
    final = failures.final_message(job.folder)
    if final is not None:
        raise RuntimeError(f"the {job.stage} stage failed: {final}")


def _message(job: StageJob, error: ray.train.TrainingFailedError) -> str:
    if not isinstance(error, ray.train.WorkerGroupError):
        return str(error)
    return failures.message(job.folder, {rank: _unwrapped(error) for rank, error in error.worker_failures.items()})


def _unwrapped(error: Exception) -> Exception:
    """What Ray wraps: what a worker raised, so that its traceback survives the journey, and how it died."""
    return getattr(error, "_base_exc", getattr(error, "health_check_failure", error))


def _group_timeout_s(job: StageJob) -> int:
    """Longer than the watchdog's, which knows more."""
    return int(2 * job.train.engine.step_timeout_s) + 1


def _work(config: "dict[str, ray.ObjectRef[StageJob]]") -> None:
    """What a worker does."""
    job = ray.get(config["job"])
    if failures.final_message(job.folder) is not None:
        return
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    try:
        with kept_warnings(warning_log.rank_file(job.folder, rank)):
            _train(job, rank, num_ranks)
    except Exception as error:
        failures.note(job.folder, failures.explain(error, rank=rank), rank=rank)
        raise


def _train(job: StageJob, rank: int, num_ranks: int) -> None:
    _prepare_worker(job)
    pulse, local = Pulse(), process_folder(LOCAL_CHECKPOINTS)
    guard = watch(
        pulse, job.folder / "heartbeats", rank=rank, num_ranks=num_ranks,
        timeout_s=job.train.engine.step_timeout_s, on_hang=lambda message: _give_up(job, rank, message),
    )  # fmt: skip
    with guard:
        # imported after the environment is set: DeepSpeed looks at it when it is imported
        from training.engine.zero import ZeroEngine

        def make_engine(module: ObjectiveModule, optimizer: OptimizerConfig) -> Engine:
            return ZeroEngine(module, job.train.engine, optimizer, pulse)

        device = get_device() if job.train.engine.use_gpu else torch.device("cpu")
        run_stage(job, make_engine, device=device, save=partial(_report_checkpoint, job, local, pulse))
    shutil.rmtree(local, ignore_errors=True)


def _give_up(job: StageJob, rank: int, message: str) -> None:
    """End this process, whose main thread cannot be told: Ray starts all workers again."""
    logger.error(message)
    failures.note(job.folder, failures.Failure(message=message, is_final=False), rank=rank)
    os._exit(HANG_EXIT_CODE)


def _prepare_worker(job: StageJob) -> None:
    torch.set_num_threads(job.train.engine.threads_per_worker)
    if not job.train.engine.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def _report_checkpoint(job: StageJob, local: Path, pulse: Pulse, engine: Engine, record: CheckpointRecord) -> None:
    """Every rank hands its files to Ray, which copies them into one folder while the training goes on.

    The last checkpoint is waited for: the model folder is made from it. `local` holds what is not copied yet.
    """
    folder = Path(tempfile.mkdtemp(dir=local))
    # two meetings: where one rank hangs in its own files, the others are seen to wait for it in Ray's barrier
    with pulse.meeting(writing=folder):
        write_checkpoint(engine, folder, record)
    is_last = record.step == job.settings.steps
    with pulse.meeting(writing=job.checkpoints):
        ray.train.report(
            {"step": record.step},
            checkpoint=Checkpoint.from_directory(str(folder)),
            checkpoint_dir_name=step_folder(Path(), record.step).name,
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if is_last else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )
    if is_last:
        engine.sum_over_ranks([0.0])  # the files of the other ranks are there as well
    if engine.rank == 0:
        prune(job.checkpoints, job.train.checkpoint)


@contextmanager
def _following(job: StageJob, on_metrics: OnMetrics, videos: SampledVideos) -> Iterator[None]:
    """Hands over metrics, videos and warnings of the stage while the block runs, and the last ones at its end."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(job, on_metrics, videos, stop), name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(job: StageJob, on_metrics: OnMetrics, videos: SampledVideos, stop: threading.Event) -> None:
    seen: set[int] = set()
    offset, ended, said = 0, False, RankWarnings(job.folder)
    while not ended:
        ended = stop.wait(FOLLOW_EVERY_S)
        said.say_new()
        metrics, offset = job.metrics_log.read_from(offset)
        new = {step: values for step, values in metrics.items() if step not in seen}
        seen |= new.keys()
        if new:
            on_metrics(new)
        videos.look()
