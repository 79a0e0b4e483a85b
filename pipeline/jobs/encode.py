"""Planned shards to Ray tasks to latent shards."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import ray
from psutil import pid_exists
from ray.exceptions import RayTaskError

from pipeline.config import Recipe
from pipeline.jobs.cluster import Task, decoding_child, refuse_impossible
from pipeline.progress import Meter
from preprocessing.codecs.base import Codec
from preprocessing.codecs.catalog import load_codec
from preprocessing.config import EncodeConfig, ScanConfig
from preprocessing.downloads import process_downloads
from preprocessing.encode import encode_shard
from preprocessing.samples import CodecRecord, PlannedShard, ShardRecord
from preprocessing.shards import SCRATCH
from preprocessing.storage import Storage, open_storage


def fetch_codec_record(recipe: Recipe) -> CodecRecord:
    """What the codec says of itself, from a worker that can load its weights.

    Raises:
        ValueError: If it has none, or no node can hold it.
    """
    refuse_impossible(cpus=recipe.cluster.cpus_per_task, gpus=recipe.cluster.gpus_per_encode)
    try:
        return ray.get(_remote(_codec_record, recipe).remote(recipe.encode))
    except RayTaskError as error:
        raise ValueError(f"the codec {recipe.encode.codec} cannot be loaded: {error.cause}") from error


def encode_tasks(
    shards: Iterable[PlannedShard],
    recipe: Recipe,
    *,
    dataset_uri: str,
    fingerprint: str,
    on_record: Callable[[ShardRecord], None],
    meter: Meter,
) -> Iterator[Task]:
    """One Ray task a shard."""
    remote = _remote(_encode, recipe)

    def done(record: ShardRecord) -> None:
        on_record(record)
        meter.advance(note=record.key)

    for shard in shards:
        arguments = (shard, dataset_uri, recipe.encode, recipe.scan, fingerprint)
        yield Task(name=shard.key, submit=lambda arguments=arguments: remote.remote(*arguments), done=done)


def _remote(function: Callable[..., object], recipe: Recipe) -> Any:  # noqa: ANN401 - Ray has no public type for it
    cluster = recipe.cluster
    return ray.remote(num_cpus=cluster.cpus_per_task, num_gpus=cluster.gpus_per_encode, max_retries=0)(function)


def _codec_record(settings: EncodeConfig) -> CodecRecord:
    return worker_codec(settings).record


def _encode(
    shard: PlannedShard, dataset_uri: str, settings: EncodeConfig, limits: ScanConfig, fingerprint: str
) -> ShardRecord:
    storage = open_storage(dataset_uri)
    worker = decoding_child(limits.progress_timeout_s, limits.memory_limit_mb)
    return encode_shard(
        shard,
        codec=worker_codec(settings),
        worker=worker,
        storage=storage,
        settings=settings,
        fingerprint=fingerprint,
        scratch=_scratch(storage),
        downloads=process_downloads(),
    )


def clear_scratch(storage: Storage) -> None:
    """Remove the growing shards of dead workers; hold the lease, and run no task meanwhile."""
    folder = storage.local_path(SCRATCH)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch(storage: Storage) -> Path:
    """Where a shard grows: on the dataset's disk, else in a folder of this worker's on its own."""
    return storage.local_path(SCRATCH) or _folder_of_this_worker(Path(gettempdir()) / f"longtake-scratch-{os.getuid()}")


@cache
def _folder_of_this_worker(parent: Path) -> Path:
    """Named by the process, so that those of dead ones can be told and removed."""
    parent.mkdir(exist_ok=True)
    for folder in parent.iterdir():
        if not pid_exists(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    return parent / str(os.getpid())


def worker_codec(settings: EncodeConfig) -> Codec:
    """The codec of this Ray worker, loaded once."""
    return _codec(settings.model_dump_json())


@cache
def _codec(settings_json: str) -> Codec:
    return load_codec(EncodeConfig.model_validate_json(settings_json))
