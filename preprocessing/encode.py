"""A planned shard to samples, streamed: a minute at 480p never sits in memory as pixels.

Untrusted video is decoded in the worker's killable child; the codec runs here. A clip that cannot be read is recorded
with one line and left out, and the shard goes on.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby
from pathlib import Path

from preprocessing.clip_frames import Chunk, Unreadable, read_clips
from preprocessing.codecs.base import Codec, Frame
from preprocessing.config import EncodeConfig
from preprocessing.downloads import Downloads
from preprocessing.input_files import is_remote
from preprocessing.isolation import ChildFailed, IsolatedWorker
from preprocessing.reasons import gone_line
from preprocessing.samples import CodecRecord, LatentSample, PlannedClip, PlannedShard, ShardRecord
from preprocessing.shards import write_shard
from preprocessing.storage import Storage

VERSION = 1
"""Bumped by hand when the same clip and codec would give another sample."""

SCHEMA = 1
"""Version of a sample's metadata."""


class ClipFailed(Exception):
    """A clip that cannot be encoded; its message is one line for people."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A clip that was not encoded, with one line for people."""

    clip_id: str
    message: str


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
    downloads: Downloads,
) -> ShardRecord:
    """Encode all clips of a shard and publish it; committing the record is the caller's.

    Args:
        shard: What to encode, in this order.
        codec: Loaded for the same settings.
        worker: Its child decodes, ahead of the codec.
        storage: The dataset's.
        settings: How often a dying child is replaced.
        fingerprint: `encode_fingerprint` of the settings, stored with every sample.
        scratch: Local folder for the growing tar.
        downloads: Brings videos of buckets here, one after the other.

    Raises:
        StorageError: If a bucket does not hand out what it holds, or this machine's disk is full.
    """

    def encode(clip: PlannedClip, chunks: Iterator[Chunk | Unreadable]) -> LatentSample | LeftOut:
        try:
            return encode_clip(clip, _frames(clip, chunks), codec=codec, fingerprint=fingerprint)
        except ClipFailed as error:
            return LeftOut(clip_id=clip.clip_id, message=str(error))

    since = worker.spent()
    failed: dict[str, str] = {}
    results = _encode_all(shard.clips, encode, worker, settings.max_attempts, downloads)
    samples = _without_failures(results, failed)
    record = write_shard(storage, shard.key, samples, scratch=scratch, failed=failed)
    return replace(record, effort=worker.spent() - since)


def _without_failures(results: Iterator[LatentSample | LeftOut], failed: dict[str, str]) -> Iterator[LatentSample]:
    """The samples; what was left out goes into `failed` instead."""
    for result in results:
        if isinstance(result, LeftOut):
            failed[result.clip_id] = result.message
        else:
            yield result


def _encode_all(
    clips: Sequence[PlannedClip], encode: "Encode", worker: IsolatedWorker, max_attempts: int, downloads: Downloads
) -> Iterator[LatentSample | LeftOut]:
    """`encode_clips`: local clips all together, those of a bucket file by file."""
    for location, group in groupby(clips, key=lambda clip: clip.location if is_remote(clip.location) else ""):
        run = tuple(group)
        try:
            here = _downloaded(run, downloads) if location else run
        except ClipFailed as error:
            yield from (LeftOut(clip_id=clip.clip_id, message=str(error)) for clip in run)
        else:
            yield from encode_clips(here, encode, worker, max_attempts)


def _downloaded(clips: Sequence[PlannedClip], downloads: Downloads) -> tuple[PlannedClip, ...]:
    """Clips of one file in a bucket, with its place on this machine.

    Raises:
        ClipFailed: If the file is gone, or is not the one that was scanned.
    """
    first = clips[0]
    try:
        path = downloads.local_path(first.location, first.content_id)
    except FileNotFoundError as error:
        raise ClipFailed(gone_line(first.uri, first.location)) from error
    if first.sha256 and downloads.sha256(first.location, first.content_id) != first.sha256:
        raise ClipFailed(f"{first.uri} has changed since it was scanned; scan it again")
    return tuple(replace(clip, location=path, content_id="") for clip in clips)


Encode = Callable[[PlannedClip, Iterator[Chunk | Unreadable]], LatentSample | LeftOut]


def encode_clips(
    clips: Sequence[PlannedClip], encode: Encode, worker: IsolatedWorker, max_attempts: int
) -> Iterator[LatentSample | LeftOut]:
    """What `encode` makes of each clip and its chunks, in order.

    One child reads all clips, and may be in the next one when it dies: so the clip that was waited for is read again by
    itself, and is to blame only if `max_attempts` children die of it alone.
    """
    waiting = deque(clips)
    while waiting:
        chunks = worker.stream(read_clips, tuple(waiting))
        try:
            while waiting:
                yield encode(waiting[0], chunks)
                waiting.popleft()
            _finish(chunks)
        except ChildFailed:
            yield _alone(waiting.popleft(), encode, worker, max_attempts)


def _alone(clip: PlannedClip, encode: Encode, worker: IsolatedWorker, max_attempts: int) -> LatentSample | LeftOut:
    message = ""
    for attempt in range(1, max_attempts + 1):
        chunks = worker.stream(read_clips, (clip,))
        try:
            result = encode(clip, chunks)
            _finish(chunks)
            return result
        except ChildFailed as error:
            message = f"{' '.join(str(error).split())} ({attempt} attempts)"
    return LeftOut(clip_id=clip.clip_id, message=message)


def _finish(chunks: Iterator[object]) -> None:
    """Hear a child out that has given all it had: else it would be killed, and the next call would start another."""
    with suppress(ChildFailed):
        deque(chunks, maxlen=0)


def encode_clip(clip: PlannedClip, frames: Iterator[Frame], *, codec: Codec, fingerprint: str) -> LatentSample:
    """The sample of a clip's frames, which are taken as the codec asks for them."""
    first = next(frames)
    return LatentSample(
        key=clip.clip_id,
        latents_CTHW=codec.encode_video(chain([first], frames)),
        start_latent_CTHW=codec.encode_image(first),
        text=codec.encode_text(clip.caption),
        siglip_ND=codec.image_features(first),
        metadata=sample_metadata(clip, codec.record, fingerprint),
    )


def _frames(clip: PlannedClip, chunks: Iterator[Chunk | Unreadable]) -> Iterator[Frame]:
    """The clip's frames out of a stream of many clips' chunks, as they are asked for.

    Raises:
        ClipFailed: If reading them failed in a way that another attempt would repeat.
        ChildFailed: If the child died.
    """
    given = 0
    while given < clip.num_frames:
        chunk = next(chunks)
        if isinstance(chunk, Unreadable):
            raise ClipFailed(chunk.message)
        yield from chunk
        given += len(chunk)


def sample_metadata(clip: PlannedClip, record: CodecRecord, fingerprint: str) -> dict[str, object]:
    """What a sample says of itself: JSON values, no absolute path, time or host; group and split may be newer in the manifest."""
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
        "crop": clip.crop,
        "scores": dict(clip.scores),
        "caption": clip.caption,
        "codec": asdict(record),
        "fingerprints": {"encode": fingerprint},
    }
    written = {"caption_origin": json.loads(clip.caption_origin)} if clip.caption_origin else {}
    known = {"licence": clip.licence, "extra": dict(clip.extra)}
    return metadata | written | {name: value for name, value in known.items() if value}
