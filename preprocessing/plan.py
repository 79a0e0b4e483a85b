"""Kept clips and the plan so far to added shards; pure.

The plan only grows. A clip that is planned under the current encode settings is not planned again, unless what encoding
reads has changed (`plan_rows.same_clips`) or a retry is asked for. Equal inputs give equal shards with equal names.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing import plan_rows
from preprocessing.config import PlanConfig
from preprocessing.relations import ascending, last_of_each, only, texts
from preprocessing.samples import LATENTS_PER_SEGMENT, CodecRecord, PictureArea, ShardRecord, Verdict
from preprocessing.splits import splits_of

FINGERPRINT_DIGITS = 8
"""Hex digits of the encode fingerprint in a shard's name."""

HASH_DIGITS = 12
"""Hex digits of the content's hash in a shard's name."""

LONGEST_OF_CLASS = (1, 4, 10, 40)
"""Segments of the longest clip of each class of lengths: a curriculum that begins with short clips reads only their shards."""

_LENGTH = "length_class"
"""Column with the place of a clip in `LONGEST_OF_CLASS`."""

_BUCKET = ("height_px", "width_px", _LENGTH)
"""Columns in which the clips of one shard agree."""

_ORDER = (*_BUCKET, "uri", "start_frame", "clip_id")
"""Clips of one file follow each other in time, whichever of its spans they come from."""


def plan(
    kept: pa.Table,
    so_far: pa.Table,
    settings: PlanConfig,
    *,
    latent_bytes: Callable[[pa.Table], NDArray[np.int64]],
    encode_fingerprint: str,
    retry: Collection[str] = (),
) -> pa.Table:
    """The shards to add, so that every kept clip is planned; none if all are.

    Args:
        kept: Clips that are kept now, in any order (schema `plan_rows.KEPT`).
        so_far: All shards ever planned (schema `plan_rows.PLAN`).
        settings: When a shard is full.
        latent_bytes: Size of each clip's latents, known before encoding.
        encode_fingerprint: Of codec and geometry, hex.
        retry: Ids of clips to plan again though they are planned, because encoding them failed.

    Returns:
        Schema `plan_rows.PLAN`.
    """
    prefix = _prefix(encode_fingerprint)
    planned = _planned_under(so_far, prefix)
    added = _with_length_class(_unsettled(kept, planned, retry)).sort_by(ascending(*_ORDER))
    times_planned = _times_planned(added, planned)
    names, buckets = [], []
    for start, end in _pack(added, latent_bytes(added), settings):
        clips = added.slice(start, end - start)
        names += [f"{prefix}-{_content_hash(clips, times_planned)}"] * clips.num_rows
        buckets += [_bucket(clips)] * clips.num_rows
    columns = [
        pa.array(names, pa.string()),
        pa.array(buckets, pa.string()),
        *added.select(plan_rows.KEPT.names).columns,
    ]
    return pa.table(columns, schema=plan_rows.PLAN)


def _prefix(encode_fingerprint: str) -> str:
    prefix = encode_fingerprint[:FINGERPRINT_DIGITS]
    assert len(prefix) == FINGERPRINT_DIGITS, f"encode fingerprint {encode_fingerprint!r} is too short"
    return prefix


def _planned_under(plan: pa.Table, prefix: str) -> pa.Table:
    return plan.filter(pc.starts_with(plan["shard"], f"{prefix}-"))


def _unsettled(kept: pa.Table, planned: pa.Table, retry: Collection[str]) -> pa.Table:
    """The kept clips that are not planned as they are, and those to be tried again."""
    settled = planned.filter(pc.invert(pc.is_in(planned["clip_id"], value_set=pa.array(retry, pa.string()))))
    rows_settled, _ = plan_rows.same_clips(kept, settled)
    wanted = np.ones(kept.num_rows, bool)
    wanted[rows_settled] = False
    return kept.filter(pa.array(wanted))


def _times_planned(added: pa.Table, planned: pa.Table) -> Mapping[str, int]:
    """How often clips were planned before; most never were, and are left out."""
    return Counter(texts(only(planned, "clip_id", added["clip_id"].combine_chunks())["clip_id"]))


def _pack(clips: pa.Table, sizes: NDArray[np.int64], settings: PlanConfig) -> list[tuple[int, int]]:
    """Runs of sorted clips of one bucket; a run ends before it outgrows the target, a single large clip stands alone."""
    filled = np.append(0, np.cumsum(sizes))
    runs, start = [], 0
    for bucket_end in _bucket_ends(clips):
        while start < bucket_end:
            by_size = int(np.searchsorted(filled, filled[start] + settings.target_shard_mb * 2**20, side="right")) - 1
            end = max(start + 1, min(by_size, start + settings.max_samples_per_shard, bucket_end))
            runs.append((start, end))
            start = end
    return runs


def _bucket_ends(clips: pa.Table) -> list[int]:
    """The row behind the last of each bucket of sorted clips."""
    columns = np.stack([clips[name].to_numpy() for name in _BUCKET])
    changes = (columns[:, 1:] != columns[:, :-1]).any(axis=0)
    return [*(np.flatnonzero(changes) + 1).tolist(), clips.num_rows]


def _with_length_class(clips: pa.Table) -> pa.Table:
    places = np.searchsorted(LONGEST_OF_CLASS, clips["num_segments"].to_numpy())
    return clips.append_column(_LENGTH, pa.array(places, pa.int32()))


def _bucket(clips: pa.Table) -> str:
    height_px, width_px, place = (clips[name][0].as_py() for name in _BUCKET)
    return f"{height_px}x{width_px}-{_length_name(place)}"


def _length_name(place: int) -> str:
    """A class of lengths in bucket names: 1, 2to4, 5to10, 11to40 or 41up segments."""
    shortest = LONGEST_OF_CLASS[place - 1] + 1 if place else 1
    if place == len(LONGEST_OF_CLASS):
        return f"{shortest}up"
    longest = LONGEST_OF_CLASS[place]
    return str(longest) if shortest == longest else f"{shortest}to{longest}"


def _content_hash(clips: pa.Table, times_planned: Mapping[str, int]) -> str:
    """Of which clips in which order, and how often each was planned before: a retry gets another name.

    Not of the content id, which is a time stamp: a copied dataset has the same names.
    """
    captions = zip(texts(clips["clip_id"]), texts(clips["caption"]), strict=True)
    content = [[clip_id, caption, times_planned.get(clip_id, 0)] for clip_id, caption in captions]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:HASH_DIGITS]


def pending_shards(plan: pa.Table, encodes: Iterable[ShardRecord], encode_fingerprint: str) -> pa.Table:
    """The rows of planned shards that still have to be encoded under these settings, in the order of the plan."""
    planned = planned_under(plan, encode_fingerprint)
    written = pa.array([record.key for record in encodes], pa.string())
    return planned.filter(pc.invert(pc.is_in(plan_rows.shard_keys(planned), value_set=written)))


def still_kept(shards: pa.Table, kept: pa.Table) -> pa.Table:
    """The rows of those shards that hold a clip which is kept now and would be encoded as it is planned.

    The others were planned under settings that were taken back, or their files changed or vanished since. A shard is
    encoded whole: so what lies in it does not depend on when it is encoded.
    """
    _, as_planned = plan_rows.same_clips(kept, shards)
    keys = plan_rows.shard_keys(shards)
    return shards.filter(pc.is_in(keys, value_set=pc.unique(keys.take(as_planned))))


def at_current_places(shards: pa.Table, sources: pa.Table) -> pa.Table:
    """The same rows with `location` as the sources have it now: files may have moved since they were planned.

    Args:
        shards: Schema `plan_rows.PLAN`.
        sources: `Ledger.sources()`.
    """
    at = pc.index_in(shards["source_id"], value_set=sources["source_id"].combine_chunks())
    place = shards.schema.get_field_index("location")
    locations = pc.coalesce(sources["location"].take(at), shards["location"])
    return shards.set_column(place, shards.schema.field(place), locations)


def planned_under(plan: pa.Table, encode_fingerprint: str) -> pa.Table:
    """The rows of all shards that were ever planned under these encode settings."""
    return _planned_under(plan, _prefix(encode_fingerprint))


def failed_clips(plan: pa.Table, encodes: Iterable[ShardRecord]) -> dict[str, str]:
    """Clips whose last attempt at encoding failed, with a line each; what `plan` may retry.

    A clip whose retry is planned and not yet encoded is not among them, so that a killed retry is not planned twice.
    """
    messages = {(record.key, clip_id): line for record in encodes for clip_id, line in record.failed.items()}
    ever = only(plan, "clip_id", sorted({clip_id for _, clip_id in messages}))
    last = last_of_each(ever, "clip_id")
    places = zip(texts(plan_rows.shard_keys(last)), texts(last["clip_id"]), strict=True)
    return {place[1]: messages[place] for place in places if place in messages}


def latent_bytes(clips: pa.Table, codec: CodecRecord) -> NDArray[np.int64]:
    """Bytes of each clip's latents in its shard: bfloat16, (C, 1 + 9 n, h, w)."""
    columns = (clips[name].to_numpy().astype(np.int64) for name in ("num_segments", "height_px", "width_px"))
    num_segments, height_px, width_px = columns
    area = (height_px // codec.spatial_stride) * (width_px // codec.spatial_stride)
    return 2 * codec.latent_channels * (1 + LATENTS_PER_SEGMENT * num_segments) * area


def kept_clips(
    sources: pa.Table, clips: pa.Table, sizes_px: Sequence[tuple[int, int]], *, eval_percent: int
) -> pa.Table:
    """The clips that are kept, with all that encoding needs to know (schema `plan_rows.KEPT`).

    Their split is that of the group which their source has now, not of the one that they were decided under: so no table of
    kept clips has a group in two splits.

    Args:
        sources: `Ledger.sources()`.
        clips: `Ledger.clips()`.
        sizes_px: (height, width) of the buckets.
        eval_percent: Share of groups held out.
    """
    kept = clips.filter(pc.field("decision") == str(Verdict.KEEP))
    of_clip = sources.take(pc.index_in(kept["source_id"], value_set=sources["source_id"].combine_chunks()))
    height_px, width_px = _nearest_sizes(of_clip, sizes_px)
    found = {"height_px": pa.array(height_px, pa.int32()), "width_px": pa.array(width_px, pa.int32())}
    found |= {name: of_clip[name] for name in _OF_SOURCE}
    found |= {"split": splits_of(of_clip["group_id"], eval_percent)}
    found |= {"caption_origin": pa.array([""] * kept.num_rows, pa.string())}
    found |= {name: kept[name] for name in plan_rows.KEPT.names if name not in found}
    return pa.table(found).select(plan_rows.KEPT.names).cast(plan_rows.KEPT)


_OF_SOURCE = ("group_id", "uri", "location", "caption", "licence", "content_id", "sha256", "crop", "extra")
"""What a kept clip takes over from its source."""


def _nearest_sizes(
    sources: pa.Table, sizes_px: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`nearest_size` of what every source shows between black bars; there are many sources, and few sizes of pictures."""
    shown = _shown_areas(sources).dictionary_encode()
    areas = [PictureArea.of_crop(str(crop)) for crop in shown.dictionary.to_pylist()]
    nearest = [nearest_size(area.height_px, area.width_px, sizes_px) for area in areas if area]
    found = np.array(nearest, np.int64).reshape(-1, 2)[shown.indices.to_numpy()]
    return found[:, 0], found[:, 1]


def _shown_areas(sources: pa.Table) -> pa.StringArray:
    """`PictureArea.crop` of what every source shows, the whole picture where there are no bars."""
    whole = [sources[name].cast(pa.string()) for name in ("width_px", "height_px")]
    corner, separator = pa.scalar("0"), pa.scalar(":")
    uncropped = pc.binary_join_element_wise(*whole, corner, corner, separator)  # pyright: ignore[reportCallIssue, reportArgumentType] - scalars are fine
    crops = pc.if_else(pc.equal(sources["crop"], pa.scalar("")), uncropped, sources["crop"])
    return crops.combine_chunks()


def nearest_size(height_px: int, width_px: int, sizes_px: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) whose aspect ratio is nearest, as a factor; of equal ones the first."""

    def distance(size: tuple[int, int]) -> float:
        ratio = (width_px / height_px) / (size[1] / size[0])
        return round(max(ratio, 1 / ratio), 6)

    return min(sizes_px, key=distance)
