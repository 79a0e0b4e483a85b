"""A folder of videos to scores: each video is decoded once, in a child process, and all metrics see each frame."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.config import EvaluateConfig
from evaluation.drift import drift
from evaluation.film import StillRoll, spread
from evaluation.metrics.catalogue import EXTRACTORS, METRICS
from evaluation.provenance import read_provenance
from evaluation.types import (
    FrameNumbers,
    Measured,
    Metric,
    MetricScore,
    Provenance,
    Rows,
    Skipped,
    Still,
    VideoFacts,
    VideoScores,
)
from preprocessing.config import SourcesConfig
from preprocessing.isolation import ChildFailed, IsolatedWorker
from preprocessing.reasons import Reason
from preprocessing.samples import Probe
from preprocessing.video_io.probe import UnreadableVideo, probe
from preprocessing.video_io.read import read_frames_without_decord

VERSION = 1
"""Raised by hand where a metric's numbers change."""

_CHUNK = 32
"""Frames whose rows leave the child together."""

_MIN_SIDE_PX = 32
"""Shorter side of the smallest picture that DIS takes."""

_STILL_WIDTH_PX = 176
"""Width of a frame in a time strip."""


def evaluate_folder(folder: Path, settings: EvaluateConfig) -> tuple[VideoScores, ...]:
    """Scores of all videos below a folder, in order of their names; a broken one says why.

    Raises:
        ValueError: If there is no such folder, or no video in it.
    """
    names = video_names(folder)
    with IsolatedWorker(
        progress_timeout_s=settings.progress_timeout_s, memory_limit_mb=settings.memory_limit_mb
    ) as child:
        return tuple(score_video(folder, name, settings, child) for name in names)


def video_names(folder: Path) -> tuple[str, ...]:
    """Paths below the folder of all files that are called like videos, sorted.

    Raises:
        ValueError: If there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    known = SourcesConfig().video_extensions
    files = (path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    names = tuple(sorted(path.relative_to(folder).as_posix() for path in files))
    if not names:
        raise ValueError(f"{folder} holds no video: none of its files ends in {' '.join(known)}")
    return names


def score_video(folder: Path, name: str, settings: EvaluateConfig, child: IsolatedWorker) -> VideoScores:
    """Scores of one video; whatever is wrong with the file becomes its `failure`."""
    path = folder / name
    try:
        measured = measure(path, settings, child)
    except (UnreadableVideo, ChildFailed) as error:
        return _failed(name, str(error))
    except Exception as error:  # noqa: BLE001 - one odd video must not end the run; its row says what happened
        return _failed(name, f"{Reason.CRASHED.value}: {type(error).__name__}: {error}")
    provenance = read_provenance(path, measured.num_frames)
    scores = {metric.name: score_metric(metric, measured, provenance, settings) for metric in METRICS}
    return VideoScores(name=name, failure="", measured=measured, provenance=provenance, scores=scores)


def _failed(name: str, failure: str) -> VideoScores:
    return VideoScores(name=name, failure=failure, measured=None, provenance=None, scores={})


def score_metric(metric: Metric, measured: Measured, provenance: Provenance, settings: EvaluateConfig) -> MetricScore:
    """One metric of the whole file, and its drift over the generated frames. Pure."""
    refusal = metric.refuse(measured.facts)
    if refusal:
        return MetricScore(value=Skipped(why=refusal), drift=Skipped(why=refusal))
    rows_ND = measured.rows[metric.extractor.name]

    def score(frames_N: FrameNumbers) -> float:
        enough = len(frames_N) >= metric.min_frames
        return metric.aggregate(rows_ND[frames_N], frames_N, measured.facts) if enough else float("nan")

    value = score(np.arange(measured.num_frames))
    if not math.isfinite(value):
        why = Skipped(
            why=f"{measured.num_frames} frames gave nothing to measure: too few, or empty; give a longer video"
        )
        return MetricScore(value=why, drift=why)
    if metric.is_binary:
        return MetricScore(value=value, drift=Skipped(why="it is 0 or 1; ref/motion drifts in its place"))
    moved = drift(
        score,
        provenance.generated,
        window_share=settings.window_share,
        curve_share=settings.curve_share,
        min_frames=metric.min_frames,
    )
    return MetricScore(value=value, drift=moved)


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Rows of some frames, by extractor."""

    rows: dict[str, Rows]


@dataclass(frozen=True, kw_only=True)
class _End:
    """What is known when all frames were seen."""

    facts: VideoFacts
    decoder: str
    truncated: bool
    stills: tuple[Still, ...]


def measure(path: Path, settings: EvaluateConfig, child: IsolatedWorker) -> Measured:
    """One pass over a video in a child process.

    Raises:
        UnreadableVideo: If no frame decodes.
        ChildFailed: If decoding hangs, crashes or outgrows its memory.
    """
    items = list(child.stream(_measure, str(path), settings.short_side_px, settings.strip_columns))
    chunks, end = [item.rows for item in items if isinstance(item, _Chunk)], items[-1]
    assert isinstance(end, _End), "the child ended without an end"
    rows = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return Measured(
        facts=end.facts,
        decoder=end.decoder,
        num_frames=len(next(iter(rows.values()))),
        truncated=end.truncated,
        rows=rows,
        stills=end.stills,
    )


def _measure(path: str, short_side_px: int, strip_columns: int) -> Iterator[_Chunk | _End | None]:
    """Runs in the child: chunks of rows, and at last what is known at the end."""
    found = probe(path)
    facts = _facts(found, short_side_px)
    features = {extractor.name: extractor.start(facts) for extractor in EXTRACTORS}
    roll = StillRoll(num_stills=strip_columns, width_px=_STILL_WIDTH_PX)
    frames = read_frames_without_decord(path, found, height_px=facts.height_px, width_px=facts.width_px)
    rows: list[dict[str, NDArray[np.float32]]] = []
    for frame in frames:
        rows.append({name: feature(frame.rgb_HWC) for name, feature in features.items()})
        roll.add(frame)
        yield _chunk(rows) if len(rows) == _CHUNK else None
        rows = [] if len(rows) == _CHUNK else rows
    if not roll.stills():
        raise UnreadableVideo(Reason.UNDECODABLE, "no frame of it decodes")
    if rows:
        yield _chunk(rows)
    stills = spread(roll.stills(), strip_columns)
    yield _End(facts=facts, decoder=frames.decoder, truncated=frames.truncated, stills=stills)


def _chunk(rows: list[dict[str, NDArray[np.float32]]]) -> _Chunk:
    return _Chunk(rows={name: np.stack([row[name] for row in rows]) for name in rows[0]})


def _facts(found: Probe, short_side_px: int) -> VideoFacts:
    """Sizes and rate.

    Raises:
        UnreadableVideo: If the picture is too small for optical flow, or there is no frame rate.
    """
    short_px = min(found.height_px, found.width_px)
    if short_px < _MIN_SIDE_PX:
        raise UnreadableVideo(
            Reason.TOO_SMALL, f"{found.width_px} x {found.height_px} pixels; optical flow needs {_MIN_SIDE_PX}"
        )
    if found.fps is None:
        raise UnreadableVideo(Reason.UNDECODABLE, "the container states no frame rate; remux it with one")
    scale = min(1.0, short_side_px / short_px)
    return VideoFacts(
        fps=found.fps,
        height_px=round(found.height_px * scale),
        width_px=round(found.width_px * scale),
        source_height_px=found.height_px,
        source_width_px=found.width_px,
    )
