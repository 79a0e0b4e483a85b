"""Kept clips and the plan so far to added shards; pure.

The plan only grows. A clip that is planned under the current encode settings is not planned again, unless what encoding
reads has changed (`PlannedClip.identity`) or a retry is asked for. Equal inputs give equal shards with equal names.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from preprocessing.config import PlanConfig
from preprocessing.samples import (
    CodecRecord,
    PictureArea,
    PlannedClip,
    PlannedShard,
    ShardRecord,
    Split,
    Verdict,
    clip_num_latents,
)

FINGERPRINT_DIGITS = 8
"""Hex digits of the encode fingerprint in a shard's name."""

HASH_DIGITS = 12
"""Hex digits of the content's hash in a shard's name."""


def plan(
    kept: Iterable[PlannedClip],
    so_far: Sequence[PlannedShard],
    settings: PlanConfig,
    *,
    latent_bytes: Callable[[PlannedClip], int],
    encode_fingerprint: str,
    retry: Collection[str] = (),
) -> tuple[PlannedShard, ...]:
    """The shards to add, so that every kept clip is planned; none if all are.

    Args:
        kept: All clips that are kept now, in any order.
        so_far: All shards ever planned.
        settings: When a shard is full.
        latent_bytes: Size of a clip's latents, known before encoding.
        encode_fingerprint: Of codec and geometry, hex.
        retry: Ids of clips to plan again though they are planned, because encoding them failed.
    """
    prefix = encode_fingerprint[:FINGERPRINT_DIGITS]
    assert len(prefix) == FINGERPRINT_DIGITS, f"encode fingerprint {encode_fingerprint!r} is too short"
    planned = [clip for shard in so_far if shard.fingerprint_prefix == prefix for clip in shard.clips]
    settled = {clip.identity for clip in planned} - {clip.identity for clip in planned if clip.clip_id in retry}
    times_planned = Counter(clip.clip_id for clip in planned)
    added = sorted((clip for clip in kept if clip.identity not in settled), key=_order)
    return tuple(
        PlannedShard(name=f"{prefix}-{_content_hash(clips, times_planned)}", bucket=bucket, clips=clips)
        for bucket, clips in _pack(added, settings, latent_bytes)
    )


def _order(clip: PlannedClip) -> tuple[int, int, str, int, str]:
    """Those of one file follow each other in time, whichever of its spans they come from."""
    return (clip.height_px, clip.width_px, clip.uri, clip.start_frame, clip.clip_id)


def _pack(
    clips: Sequence[PlannedClip], settings: PlanConfig, latent_bytes: Callable[[PlannedClip], int]
) -> Iterator[tuple[str, tuple[PlannedClip, ...]]]:
    """Runs of clips of one size; a run ends before it outgrows the target, a single large clip stands alone."""
    run: list[PlannedClip] = []
    run_bytes = 0
    for clip in clips:
        size = latent_bytes(clip)
        full = run_bytes + size > settings.target_shard_mb * 2**20 or len(run) == settings.max_samples_per_shard
        if run and (full or _bucket(clip) != _bucket(run[0])):
            yield _bucket(run[0]), tuple(run)
            run, run_bytes = [], 0
        run.append(clip)
        run_bytes += size
    if run:
        yield _bucket(run[0]), tuple(run)


def _bucket(clip: PlannedClip) -> str:
    return f"{clip.height_px}x{clip.width_px}"


def _content_hash(clips: Sequence[PlannedClip], times_planned: Mapping[str, int]) -> str:
    """Of which clips in which order, and how often each was planned before: a retry gets another name.

    Not of the content id, which is a time stamp: a copied dataset has the same names.
    """
    content = [[clip.clip_id, clip.caption, times_planned[clip.clip_id]] for clip in clips]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:HASH_DIGITS]


def pending_shards(
    shards: Sequence[PlannedShard], encodes: Iterable[ShardRecord], encode_fingerprint: str
) -> tuple[PlannedShard, ...]:
    """Planned shards that still have to be encoded under these settings, in the order of the plan."""
    written = {record.key for record in encodes}
    prefix = encode_fingerprint[:FINGERPRINT_DIGITS]
    return tuple(shard for shard in shards if shard.fingerprint_prefix == prefix and shard.key not in written)


def failed_clips(shards: Sequence[PlannedShard], encodes: Iterable[ShardRecord]) -> dict[str, str]:
    """Clips whose last attempt at encoding failed, with a line each; what `plan` may retry.

    A clip whose retry is planned and not yet encoded is not among them, so that a killed retry is not planned twice.
    """
    written = {record.key: record for record in encodes}
    last = {clip.clip_id: written.get(shard.key) for shard in shards for clip in shard.clips}
    return {clip_id: record.failed[clip_id] for clip_id, record in last.items() if record and clip_id in record.failed}


def latent_bytes(clip: PlannedClip, codec: CodecRecord) -> int:
    """Bytes of a clip's latents in its shard: bfloat16, (C, 1 + 9 n, h, w)."""
    height, width = clip.height_px // codec.spatial_stride, clip.width_px // codec.spatial_stride
    return 2 * codec.latent_channels * clip_num_latents(clip.num_segments) * height * width


def kept_clips(sources: pa.Table, clips: pa.Table, sizes_px: Sequence[tuple[int, int]]) -> tuple[PlannedClip, ...]:
    """The clips that are kept, with all that encoding needs to know.

    Args:
        sources: `Ledger.sources()`.
        clips: `Ledger.clips()`.
        sizes_px: (height, width) of the buckets.
    """
    by_id = {row["source_id"]: row for row in sources.to_pylist()}
    kept = [row for row in clips.to_pylist() if row["decision"] == Verdict.KEEP]
    return tuple(_planned_clip(row, by_id[row["source_id"]], sizes_px) for row in kept)


def _planned_clip(clip: Mapping, source: Mapping, sizes_px: Sequence[tuple[int, int]]) -> PlannedClip:
    picture = PictureArea.of_crop(source["crop"] or "")
    shown = (picture.height_px, picture.width_px) if picture else (source["height_px"], source["width_px"])
    height_px, width_px = nearest_size(*shown, sizes_px)
    return PlannedClip(
        **{name: clip[name] for name in _CLIP_COLUMNS},
        **{name: source[name] for name in _SOURCE_COLUMNS},
        crop=source["crop"] or "",
        split=Split(clip["split"]),
        height_px=height_px,
        width_px=width_px,
        scores=dict(clip["scores"]),
    )


_SOURCE_COLUMNS = ("group_id", "uri", "location", "caption", "licence", "content_id", "sha256")
_CLIP_COLUMNS = (
    "clip_id", "source_id", "shot_index", "clip_index", "start_frame", "end_frame", "start_s", "end_s", "fps",
    "num_segments",
)  # fmt: skip


def nearest_size(height_px: int, width_px: int, sizes_px: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) whose aspect ratio is nearest, as a factor; of equal ones the first."""

    def distance(size: tuple[int, int]) -> float:
        ratio = (width_px / height_px) / (size[1] / size[0])
        return round(max(ratio, 1 / ratio), 6)

    return min(sizes_px, key=distance)
