"""The ledger's tables: their schemas, and the package's types to rows and back."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.effort import Effort
from preprocessing.reasons import Reason
from preprocessing.samples import (
    ClipCandidate,
    PictureArea,
    Probe,
    ShardRecord,
    Signals,
    Source,
    SourceScan,
    Span,
    Thumbnail,
    Transition,
    TransitionKind,
)
from preprocessing.video_io.timeline import frame_step_s

SCORES = (
    "height_px", "source_fps", "transitions", "black_share", "frozen_share", "effective_fps", "dynamism",
    "dynamism_spread", "active_share", "long_dynamism", "own_motion", "own_area", "rest_motion", "camera_speed",
    "steadiness", "followed", "caption_words", "truncated", "hdr",
)  # fmt: skip
"""Names of all scores; `preprocessing.scores` says what they mean. One that was not measured is null."""

SCORE_COLUMNS = pa.struct([(name, pa.float64()) for name in SCORES])
TEXTS = pa.map_(pa.string(), pa.string())
_WORDS = pa.list_(pa.string())

SOURCES = pa.schema(
    [
        ("source_id", pa.string()), ("group_id", pa.string()), ("uri", pa.string()), ("status", pa.string()),
        ("reason", pa.string()), ("reasons", _WORDS), ("message", pa.string()), ("num_frames", pa.int64()),
        ("fps", pa.float64()), ("duration_s", pa.float64()), ("width_px", pa.int32()), ("height_px", pa.int32()),
        ("num_shots", pa.int32()), ("decoder", pa.string()), ("caption", pa.string()), ("licence", pa.string()),
        ("extra", TEXTS), ("location", pa.string()), ("content_id", pa.string()), ("probe", pa.string()),
        ("versions", pa.string()), ("fingerprint", pa.string()), ("scan_part", pa.int64()), ("size_bytes", pa.int64()),
        ("scan_cpu_s", pa.float64()), ("scan_wall_s", pa.float64()),
        ("first_frame", pa.int64()), ("start_frame", pa.int64()), ("end_frame", pa.int64()),
        ("start_s", pa.float64()), ("end_s", pa.float64()), ("sha256", pa.string()), ("crop", pa.string()),
        ("table_fps", pa.float64()), ("from_table", pa.bool_()), ("caption_beside", pa.bool_()),
    ]
)  # fmt: skip
"""One row a source; `scan_part` is the part that holds its transitions, signals and thumbnails.

`start_frame` to `end_s` are the span that was asked for, its frames counted at `table_fps` (null: they are the file's own);
`first_frame` and `num_frames` are what it turned out to be. `from_table` and `caption_beside` are those of `Source`, null if not.
Times are the worker's and its child's. `crop` is `PictureArea.crop` of what lies between black bars, empty for the whole picture.
"""

TRANSITIONS = pa.schema(
    [
        ("source_id", pa.string()), ("kind", pa.string()), ("start_frame", pa.int64()), ("end_frame", pa.int64()),
        ("score", pa.float64()),
    ]
)  # fmt: skip

SIGNALS = pa.schema(
    [
        ("source_id", pa.string()), ("timestamps_s", pa.list_(pa.float64())), ("luma", pa.list_(pa.float32())),
        ("motion_times_s", pa.list_(pa.float64())), ("motion_names", _WORDS), ("motion", pa.list_(pa.float32())),
        ("change", pa.list_(pa.float32())),
    ]
)  # fmt: skip
"""One row a source; `motion` holds the series of `motion_names` one after the other."""

THUMBS = pa.schema([("source_id", pa.string()), ("frame", pa.int64()), ("jpeg", pa.binary())])

CANDIDATES = pa.schema(
    [
        ("clip_id", pa.string()), ("source_id", pa.string()), ("shot_index", pa.int32()), ("clip_index", pa.int32()),
        ("start_frame", pa.int64()), ("end_frame", pa.int64()), ("start_s", pa.float64()), ("end_s", pa.float64()),
        ("fps", pa.float64()), ("num_segments", pa.int32()), ("scores", SCORE_COLUMNS),
    ]
)  # fmt: skip

CLIPS = pa.schema(
    [
        *CANDIDATES,
        pa.field("decision", pa.string()),
        pa.field("reasons", _WORDS),
        pa.field("dynamism", pa.float64()),
        pa.field("split", pa.string()),
    ]
)
"""Candidates and what was decided about them."""

ENCODES = pa.schema(
    [
        ("key", pa.string()), ("sha256", pa.string()), ("size", pa.int64()), ("clip_ids", _WORDS), ("failed", TEXTS),
        ("encode_cpu_s", pa.float64()), ("encode_wall_s", pa.float64()),
    ]
)  # fmt: skip

REMOVED = pa.schema([("key", pa.string()), ("plan_parts", pa.int64()), ("encodes_parts", pa.int64())])
"""One row a removed shard: parts of plan and encodes below these numbers no longer speak of it."""

LIBRARIES = ("av", "decord", "numpy", "opencv-python-headless", "scenedetect-headless")
"""Whose versions stand in every source's row."""


@cache
def library_versions() -> str:
    """Versions of the libraries that measure, as JSON; one that is absent is null."""
    return json.dumps({name: _version(name) for name in LIBRARIES})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def count_shots(frames: range, transitions: Iterable[Transition]) -> int:
    """Shots that hold at least one of these frames."""
    bounds = [frames.start, *(frame for t in transitions for frame in (t.start_frame, t.end_frame)), frames.stop]
    return sum(end > start for start, end in zip(bounds[::2], bounds[1::2], strict=True))


def source_row(scan: SourceScan, *, fingerprint: str, part: int) -> dict[str, object]:
    """The row of a scanned source. Rate and duration are measured where there are frames, else as declared."""
    source, probe = scan.source, scan.probe
    fps, duration_s = _clock(scan)
    return {
        **source_columns(source),
        "status": "ok" if scan.ok else "failed",
        "reason": str(scan.reasons[0]) if scan.reasons else "",
        "reasons": [str(reason) for reason in scan.reasons],
        "message": scan.message,
        "num_frames": scan.num_frames,
        "fps": fps,
        "duration_s": duration_s,
        "width_px": probe.width_px if probe else None,
        "height_px": probe.height_px if probe else None,
        "num_shots": count_shots(range(scan.first_frame, scan.first_frame + scan.num_frames), scan.transitions),
        "decoder": scan.decoder,
        "probe": json.dumps({f.name: getattr(probe, f.name) for f in fields(Probe)}) if probe else "",
        "versions": library_versions(),
        "fingerprint": fingerprint,
        "scan_part": part,
        "first_frame": scan.first_frame,
        "crop": scan.picture.crop if scan.picture else "",
        **_effort_columns("scan", scan.effort),
    }


def transfers(sources: pa.Table) -> pa.Array:
    """`Probe.transfer` of every row of a `SOURCES` table: empty if the container does not say, null if nobody could ask it."""
    probes = sources["probe"].to_pylist()
    return pa.array([json.loads(probe).get("transfer", "") if probe else None for probe in probes], pa.string())


def _effort_columns(step: str, effort: Effort | None) -> dict[str, float | None]:
    return {f"{step}_{name}": getattr(effort, name) if effort else None for name in ("cpu_s", "wall_s")}


def _effort(step: str, row: Mapping) -> Effort | None:
    cpu_s, wall_s = row[f"{step}_cpu_s"], row[f"{step}_wall_s"]
    return None if cpu_s is None or wall_s is None else Effort(cpu_s=cpu_s, wall_s=wall_s)


_SOURCE_TEXTS = ("source_id", "group_id", "uri", "location", "content_id", "caption", "licence", "sha256")
_SPAN = tuple(f.name for f in fields(Span))


def _clock(scan: SourceScan) -> tuple[float | None, float | None]:
    times_s = scan.signals.timestamps_s if scan.signals else np.zeros(0)
    declared_fps = scan.probe.fps if scan.probe else None
    if not len(times_s):
        return declared_fps, scan.probe.duration_s if scan.probe else None
    span_s = float(times_s[-1] - times_s[0])
    fps = (len(times_s) - 1) / span_s if span_s else declared_fps
    return fps, span_s + frame_step_s(times_s)  # the last frame is shown for as long as the last clip says


def source_from_row(row: Mapping) -> Source:
    """The source of a `SOURCES` row."""
    span = {name: row[name] for name in _SPAN if row[name] is not None}
    texts = {name: str(row[name]) for name in _SOURCE_TEXTS}
    found = Span(**span) if span else None
    return Source(
        **texts,
        extra=dict(row["extra"]),
        size_bytes=row["size_bytes"],
        span=found,
        from_table=bool(row["from_table"]),
        caption_beside=bool(row["caption_beside"]),
    )


def source_columns(source: Source) -> dict[str, object]:
    """What a listing says about a source, as its row holds it."""
    texts = {name: getattr(source, name) for name in _SOURCE_TEXTS}
    span = {name: getattr(source.span, name, None) for name in _SPAN}
    marks = {name: getattr(source, name) or None for name in ("from_table", "caption_beside")}
    return {**texts, **span, **marks, "size_bytes": source.size_bytes, "extra": sorted(source.extra.items())}


def scan_from_row(row: Mapping, transitions: tuple[Transition, ...], signals: Signals | None) -> SourceScan:
    """The scan of a `SOURCES` row, without thumbnails."""
    return SourceScan(
        source=source_from_row(row),
        ok=row["status"] == "ok",
        reasons=tuple(Reason(reason) for reason in row["reasons"]),
        message=row["message"],
        num_frames=row["num_frames"],
        decoder=row["decoder"],
        probe=Probe(**json.loads(row["probe"])) if row["probe"] else None,
        transitions=transitions,
        signals=signals,
        thumbnails=(),
        effort=_effort("scan", row),
        first_frame=row["first_frame"],
        picture=PictureArea.of_crop(row["crop"] or ""),
    )


def transition_rows(scan: SourceScan) -> list[dict[str, object]]:
    """One row a transition."""
    return [
        {
            "source_id": scan.source.source_id,
            "kind": str(transition.kind),
            "start_frame": transition.start_frame,
            "end_frame": transition.end_frame,
            "score": transition.score,
        }
        for transition in scan.transitions
    ]


def transition_from_row(row: Mapping) -> Transition:
    """The transition of a `TRANSITIONS` row."""
    return Transition(
        kind=TransitionKind(row["kind"]),
        start_frame=row["start_frame"],
        end_frame=row["end_frame"],
        score=row["score"],
    )


def signals_row(scan: SourceScan) -> dict[str, object]:
    """The row of a source that decoded."""
    signals = scan.signals
    assert signals is not None
    names = sorted(signals.motion)
    series = [np.asarray(signals.motion[name], np.float32) for name in names]
    return {
        "source_id": scan.source.source_id,
        "timestamps_s": np.asarray(signals.timestamps_s, np.float64),
        "luma": np.asarray(signals.luma, np.float32),
        "motion_times_s": np.asarray(signals.motion_times_s, np.float64),
        "motion_names": names,
        "motion": np.concatenate(series) if series else np.zeros(0, np.float32),
        "change": signals.change,
    }


def signals_of(table: pa.Table) -> Iterator[Signals]:
    """The signals of every row of a `SIGNALS` table, as views into its columns."""
    series = {name: _lists(table[name]) for name in ("timestamps_s", "luma", "motion_times_s", "motion", "change")}
    measured = pc.is_valid(table["change"]).to_pylist()
    for i, names in enumerate(table["motion_names"].to_pylist()):
        motion = series["motion"][i].reshape(len(names), -1) if names else []
        yield Signals(
            timestamps_s=series["timestamps_s"][i],
            luma=series["luma"][i],
            motion_times_s=series["motion_times_s"][i],
            motion=dict(zip(names or (), motion, strict=True)),
            change=series["change"][i] if measured[i] else None,
        )


def _lists(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The lists of a column of lists of numbers; one that is null is empty."""
    lists: Any = column.combine_chunks()
    lengths = np.nan_to_num(pc.list_value_length(lists).to_numpy(zero_copy_only=False)).astype(np.int64)
    flat, ends = lists.flatten().to_numpy(), np.cumsum(lengths)
    return np.split(flat, ends[:-1]) if len(ends) else []


def thumbnail_rows(scan: SourceScan) -> list[dict[str, object]]:
    """One row a thumbnail."""
    return [{"source_id": scan.source.source_id, "frame": t.frame, "jpeg": t.jpeg} for t in scan.thumbnails]


def thumbnail_from_row(row: Mapping) -> Thumbnail:
    """The thumbnail of a `THUMBS` row."""
    return Thumbnail(frame=row["frame"], jpeg=row["jpeg"])


def candidates_table(found: Iterable[ClipCandidate]) -> pa.Table:
    """The candidates by columns (schema `CANDIDATES`)."""
    listed = list(found)
    unnamed = {name for candidate in listed for name in candidate.scores if name not in SCORES}
    assert not unnamed, f"scores {sorted(unnamed)} have no column: add them to rows.SCORES"
    columns = {name: [getattr(candidate, name) for candidate in listed] for name in CANDIDATES.names}
    return pa.table(columns, schema=CANDIDATES)


def encode_row(record: ShardRecord) -> dict[str, object]:
    """The row that commits a shard."""
    return {
        "key": record.key,
        "sha256": record.sha256,
        "size": record.size,
        "clip_ids": list(record.clip_ids),
        "failed": dict(record.failed),
        **_effort_columns("encode", record.effort),
    }


def record_from_row(row: Mapping) -> ShardRecord:
    """The shard record of an `ENCODES` row."""
    return ShardRecord(
        key=row["key"],
        sha256=row["sha256"],
        size=row["size"],
        clip_ids=tuple(row["clip_ids"]),
        failed=dict(row["failed"]),
        effort=_effort("encode", row),
    )
