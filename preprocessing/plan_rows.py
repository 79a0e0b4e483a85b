"""The plan's tables: kept clips, the shards they are planned into, and which planned clip is which kept one."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing.relations import matching_rows
from preprocessing.rows import SCORE_COLUMNS, TEXTS
from preprocessing.samples import PlannedClip, PlannedShard, Split

KEPT = pa.schema(
    [
        ("clip_id", pa.string()), ("source_id", pa.string()), ("group_id", pa.string()), ("uri", pa.string()),
        ("location", pa.string()), ("caption", pa.string()), ("licence", pa.string()), ("split", pa.string()),
        ("shot_index", pa.int32()), ("clip_index", pa.int32()), ("start_frame", pa.int64()), ("end_frame", pa.int64()),
        ("start_s", pa.float64()), ("end_s", pa.float64()), ("fps", pa.float64()), ("num_segments", pa.int32()),
        ("height_px", pa.int32()), ("width_px", pa.int32()), ("scores", SCORE_COLUMNS), ("content_id", pa.string()),
        ("sha256", pa.string()), ("crop", pa.string()), ("caption_origin", pa.string()),
        ("extra", TEXTS),
    ]
)  # fmt: skip
"""Kept clips with all that encoding needs to know; `samples.PlannedClip` is one row."""

PLAN = pa.schema([pa.field("shard", pa.string()), pa.field("bucket", pa.string()), *KEPT])
"""One row a clip, those of a shard together and in order."""

_ENCODED = ("clip_id", "caption", "crop", "start_frame", "end_frame", "fps", "num_segments", "height_px", "width_px")
"""What encoding reads of a kept clip, besides the file's content."""

CAPTIONS = pa.schema(
    [
        *(KEPT.field(name) for name in (*_ENCODED, "content_id", "sha256")),
        pa.field("text", pa.string()),
        pa.field("failure", pa.string()),
        pa.field("fingerprint", pa.string()),
    ]
)
"""One row a clip that a model was asked about: what it read (`caption` is the one given), and `text`, or why there is none."""


def same_clips(kept: pa.Table, planned: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of kept clips and of the planned ones that encode as they do, sorted.

    Encoding reads another thing where the caption, the frames, the part of the picture, the size or the file's content changed. The content is the
    same where its time stamp is, or its hash: a file that was only touched keeps its samples, and one whose hash was read
    later too.
    """
    by_stamp = matching_rows(kept, planned, (*_ENCODED, "content_id"))
    hashed = np.flatnonzero(pc.not_equal(planned["sha256"], pa.scalar("")).to_numpy())
    left, right = matching_rows(kept, planned.take(hashed), (*_ENCODED, "sha256"))
    pairs = np.unique(np.concatenate([np.stack(by_stamp), np.stack([left, hashed[right]])], axis=1), axis=1)
    return pairs[0], pairs[1]


def shards_of_plan(plan: pa.Table) -> Iterator[PlannedShard]:
    """The shards of a `PLAN` table in its order, one after the other, so that a large plan never lies here as objects."""
    for start, end in shard_ranges(plan):
        shard = plan.slice(start, end - start)
        yield PlannedShard(
            name=shard["shard"][0].as_py(), bucket=shard["bucket"][0].as_py(), clips=planned_clips(shard)
        )


def shard_ranges(plan: pa.Table) -> list[tuple[int, int]]:
    """First row, and the one behind the last, of every shard of a `PLAN` table."""
    if not plan.num_rows:
        return []
    keys = shard_keys(plan)
    starts = [0, *(np.flatnonzero(pc.not_equal(keys[1:], keys[:-1]).to_numpy()) + 1).tolist()]
    return list(zip(starts, [*starts[1:], plan.num_rows], strict=True))


def shard_keys(plan: pa.Table) -> pa.ChunkedArray:
    """`PlannedShard.key` of every row of a `PLAN` table."""
    separator: Any = "/"  # pyarrow's stubs know no separator
    return pc.binary_join_element_wise(plan["bucket"], plan["shard"], separator)


def planned_clips(kept: pa.Table) -> tuple[PlannedClip, ...]:
    """The clips of a `KEPT` or `PLAN` table, in its order."""
    return tuple(map(_planned_clip, kept.to_pylist()))


def _planned_clip(row: Mapping) -> PlannedClip:
    scores = {name: value for name, value in row["scores"].items() if value is not None}
    plain = {f.name: row[f.name] for f in fields(PlannedClip)}
    return PlannedClip(**{**plain, "scores": scores, "split": Split(row["split"]), "extra": dict(row["extra"] or ())})
