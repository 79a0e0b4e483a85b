"""A planned shard to samples, streamed: a minute at 480p never sits in memory as pixels.

Untrusted video is decoded in the worker's killable child; the codec runs here. A clip that cannot be read is recorded
with one line and left out, and the shard goes on.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocessing.codecs.base import Codec, Frame
from preprocessing.config import EncodeConfig
from preprocessing.isolation import ChildFailed, IsolatedWorker
from preprocessing.samples import CodecRecord, LatentSample, PlannedClip, PlannedShard, ShardRecord
from preprocessing.shards import write_shard
from preprocessing.storage import Storage
from preprocessing.video_io.probe import UnreadableVideo, probe
from preprocessing.video_io.read import read_clip

VERSION = 1
"""Bumped by hand when the same clip and codec would give another sample."""

SCHEMA = 1
"""Version of a sample's metadata."""

FRAMES_PER_CHUNK = 8
"""Frames that cross from the child at once: 10 MB at 480p."""


class ClipFailed(Exception):
    """A clip that cannot be encoded; its message is one line for people."""


def encode_fingerprint(settings: EncodeConfig, record: CodecRecord) -> str:
    """What latents depend on, hex: codec, its weights and options, sizes; not where weights lie, nor on which device."""
    content = {"version": VERSION, "sizes_px": settings.sizes_px, "codec": asdict(record)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def encode_shard(
    shard: PlannedShard,
    *,
    codec: Codec,
    worker: IsolatedWorker,
    storage: Storage,
    settings: EncodeConfig,
    fingerprint: str,
    scratch: Path,
) -> ShardRecord:
    """Encode all clips of a shard and publish it; committing the record is the caller's.

    Args:
        shard: What to encode, in this order.
        codec: Loaded for the same settings.
        worker: Its child decodes.
        storage: The dataset's.
        settings: How often a dying child is replaced.
        fingerprint: `encode_fingerprint` of the settings, stored with every sample.
        scratch: Local folder for the growing tar.
    """
    since = worker.spent()
    failed: dict[str, str] = {}
    samples = _samples(shard, codec, worker, settings.max_attempts, fingerprint, failed)
    record = write_shard(storage, shard.key, samples, scratch=scratch, failed=failed)
    return replace(record, effort=worker.spent() - since)


def _samples(
    shard: PlannedShard,
    codec: Codec,
    worker: IsolatedWorker,
    max_attempts: int,
    fingerprint: str,
    failed: dict[str, str],
) -> Iterator[LatentSample]:
    """The shard's samples; clips that fail go into `failed` instead."""
    for clip in shard.clips:
        try:
            yield encode_clip(clip, codec=codec, worker=worker, max_attempts=max_attempts, fingerprint=fingerprint)
        except ClipFailed as error:
            failed[clip.clip_id] = str(error)


def encode_clip(
    clip: PlannedClip, *, codec: Codec, worker: IsolatedWorker, max_attempts: int, fingerprint: str
) -> LatentSample:
    """One clip's sample, from a new child after each that dies.

    Raises:
        ClipFailed: If the clip cannot be read, or `max_attempts` children died of it.
    """
    for attempt in range(1, max_attempts + 1):
        try:
            return _encode_once(clip, codec, worker, fingerprint)
        except ChildFailed as error:
            if attempt == max_attempts:
                raise ClipFailed(_one_line(f"{error} ({attempt} attempts)")) from error
    raise AssertionError("max_attempts is positive")


def _encode_once(clip: PlannedClip, codec: Codec, worker: IsolatedWorker, fingerprint: str) -> LatentSample:
    frames = _frames(clip, worker)
    first = next(frames)
    return LatentSample(
        key=clip.clip_id,
        latents_CTHW=codec.encode_video(chain([first], frames)),
        start_latent_CTHW=codec.encode_image(first),
        text=codec.encode_text(clip.caption),
        siglip_ND=codec.image_features(first),
        metadata=sample_metadata(clip, codec.record, fingerprint),
    )


def _frames(clip: PlannedClip, worker: IsolatedWorker) -> Iterator[Frame]:
    """Exactly the clip's frames, decoded in the child as they are asked for.

    Raises:
        ClipFailed: If there are fewer, or reading them failed in a way that another attempt would repeat.
        ChildFailed: If the child died.
    """
    given = 0
    try:
        for chunk_NHWC in worker.stream(read_clip_chunks, clip):
            yield from chunk_NHWC
            given += len(chunk_NHWC)
    except (UnreadableVideo, OSError, ValueError, RuntimeError) as error:
        raise ClipFailed(_one_line(str(error) or type(error).__name__)) from error
    if given != clip.num_frames:
        raise ClipFailed(f"the video gave {given} of {clip.num_frames} frames from {clip.start_frame} on")


def read_clip_chunks(clip: PlannedClip) -> Iterator[NDArray[np.uint8]]:
    """The clip's frames, a few at a time, (n, height_px, width_px, 3); runs in the child."""
    frames = read_clip(
        clip.location,
        probe(clip.location),
        start_frame=clip.start_frame,
        fps=clip.fps,
        num_frames=clip.num_frames,
        height_px=clip.height_px,
        width_px=clip.width_px,
    )
    return map(np.stack, _batches(frames))


def sample_metadata(clip: PlannedClip, record: CodecRecord, fingerprint: str) -> dict[str, object]:
    """What a sample says of itself: JSON values, no absolute path, time or host."""
    metadata: dict[str, object] = {
        "schema": SCHEMA,
        "clip_id": clip.clip_id,
        "source_id": clip.source_id,
        "group_id": clip.group_id,
        "uri": clip.uri,
        "split": clip.split.value,
        "shot_index": clip.shot_index,
        "clip_index": clip.clip_index,
        "start_frame": clip.start_frame,
        "end_frame": clip.end_frame,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "fps": clip.fps,
        "num_segments": clip.num_segments,
        "num_frames": clip.num_frames,
        "height_px": clip.height_px,
        "width_px": clip.width_px,
        "scores": dict(clip.scores),
        "caption": clip.caption,
        "codec": asdict(record),
        "fingerprints": {"encode": fingerprint},
    }
    return metadata | ({"licence": clip.licence} if clip.licence else {})


def _batches(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, FRAMES_PER_CHUNK)):
        yield batch


def _one_line(message: str) -> str:
    return " ".join(message.split())
