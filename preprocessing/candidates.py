"""Transitions, signals and clip settings in, clip candidates with all their scores out. Pure: replayed without decoding.

A shot is what lies between two transitions, without the frames that a gradual change mixes. On the grid each shot gives clips one after
the other, clip k + 1 where clip k ended, each as long as it may be. Where a shot is black or frozen for a while it is divided, and
`clip_index` skips a number: clips k and k + 1 of a shot are always neighbours without a gap. A part without room for a clip gives
a candidate of 0 segments, so that it has a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from preprocessing.config import ClipsConfig
from preprocessing.samples import FRAMES_PER_SEGMENT, ClipCandidate, Signals, Transition
from preprocessing.scores import SCORE_DECIMALS, Measurements, scores_of
from preprocessing.video_io.timeline import frame_step_s, frames_at

VERSION = 4


@dataclass(frozen=True, kw_only=True)
class _Timeline:
    """When each frame is shown, and the usual time between two of them."""

    times_s: NDArray[np.float64]
    step_s: float


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A range of one shot; a whole shot, or a part of one, has `num_segments` 0."""

    shot_index: int
    clip_index: int
    start_frame: int
    end_frame: int
    num_segments: int


def candidates(
    *,
    source_id: str,
    num_frames: int,
    height_px: int,
    width_px: int,
    transitions: Sequence[Transition],
    signals: Signals,
    clips: ClipsConfig,
    first_frame: int = 0,
) -> tuple[ClipCandidate, ...]:
    """All clips that a source could give, in order.

    Args:
        source_id: Whose they are.
        num_frames: Frames that decoded.
        height_px: Of the displayed picture.
        width_px: Of the displayed picture.
        transitions: In order, not overlapping; in frames of the file, as the clips are.
        signals: Of the same frames.
        clips: How shots become clips.
        first_frame: Frame of the file that the first of the frames that decoded is.
    """
    timeline = _Timeline(times_s=signals.timestamps_s, step_s=frame_step_s(signals.timestamps_s))
    inside = tuple(_shifted(transition, -first_frame) for transition in transitions) if first_frame else transitions
    of_source = {
        "height_px": float(min(height_px, width_px)),
        "source_fps": round(1 / timeline.step_s, SCORE_DECIMALS),
    }
    measured = Measurements.of(signals, clips)
    pieces = list(_pieces(num_frames, inside, measured, timeline, clips))
    scores = scores_of(signals, measured, [range(piece.start_frame, piece.end_frame) for piece in pieces], clips)
    return tuple(
        _candidate(source_id, piece, timeline, clips.fps, of_source | own | _crossed(piece, inside), first_frame)
        for piece, own in zip(pieces, scores, strict=True)
    )


def _crossed(piece: _Piece, transitions: Sequence[Transition]) -> dict[str, float]:
    return {"transitions": float(sum(_crosses(piece, transition) for transition in transitions))}


def _shifted(transition: Transition, by: int) -> Transition:
    return replace(transition, start_frame=transition.start_frame + by, end_frame=transition.end_frame + by)


def _pieces(
    num_frames: int,
    transitions: Sequence[Transition],
    measured: Measurements,
    timeline: _Timeline,
    clips: ClipsConfig,
) -> Iterator[_Piece]:
    shots = list(_shots(num_frames, transitions))
    if clips.policy == "drop" and len(shots) > 1:
        yield _Piece(shot_index=0, clip_index=0, start_frame=0, end_frame=num_frames, num_segments=0)
        return
    if clips.policy == "longest":
        shots = sorted(shots, key=lambda shot: shot.start_frame - shot.end_frame)[:1]
    pauses = sorted({frame for stretch in (*measured.black, *measured.frozen) for frame in stretch})
    for shot in shots:
        first = 0
        for part in _parts(_guarded(shot, num_frames, timeline.times_s, clips.guard_s), pauses):
            found = list(_clips(replace(part, clip_index=first), timeline, clips))
            first = found[-1].clip_index + 2
            yield from found


def _parts(shot: _Piece, bounds: Sequence[int]) -> Iterator[_Piece]:
    """The shot, divided at every bound inside it."""
    inside = [bound for bound in bounds if shot.start_frame < bound < shot.end_frame]
    for start, end in pairwise([shot.start_frame, *inside, shot.end_frame]):
        yield replace(shot, start_frame=start, end_frame=end)


def _shots(num_frames: int, transitions: Sequence[Transition]) -> Iterator[_Piece]:
    """Frames between transitions, numbered from 0; a gradual change belongs to neither side."""
    starts = [0, *(transition.end_frame for transition in transitions)]
    ends = [*(transition.start_frame for transition in transitions), num_frames]
    ranges = [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]
    for index, (start, end) in enumerate(ranges):
        yield _Piece(shot_index=index, clip_index=0, start_frame=start, end_frame=end, num_segments=0)


def _guarded(shot: _Piece, num_frames: int, timestamps_s: NDArray[np.float64], guard_s: float) -> _Piece:
    """Without the frames near a transition; the file's own ends are none. One frame is left at least."""
    start, end = shot.start_frame, shot.end_frame
    if guard_s and start > 0:
        start = min(int(np.searchsorted(timestamps_s, timestamps_s[start] + guard_s)), end - 1)
    if guard_s and end < num_frames:
        end = max(int(np.searchsorted(timestamps_s, timestamps_s[end] - guard_s, side="right")), start + 1)
    return _Piece(shot_index=shot.shot_index, clip_index=0, start_frame=start, end_frame=end, num_segments=0)


def _clips(part: _Piece, timeline: _Timeline, clips: ClipsConfig) -> Iterator[_Piece]:
    """Consecutive clips of a part of a shot, or the whole part if it has no room for one; indices go on from the part's."""
    start, clip_index = part.start_frame, part.clip_index
    while start < part.end_frame:
        end, num_segments = _longest(start, part.end_frame, timeline, clips)
        if num_segments == 0:
            break
        yield _Piece(
            shot_index=part.shot_index, clip_index=clip_index, start_frame=start, end_frame=end, num_segments=num_segments
        )  # fmt: skip
        start, clip_index = end, clip_index + 1
    if clip_index == part.clip_index:
        yield part


def _longest(start: int, shot_end: int, timeline: _Timeline, clips: ClipsConfig) -> tuple[int, int]:
    """End frame and segments of the longest clip from a frame on that ends by the end of the shot; 0 segments if none.

    Of the grid only the frames 36 n and 36 n + 1 are looked at: the last frame of a clip and the one behind it, which are the
    same at half the rate.
    """
    times_s, shortest_s = timeline.times_s, clips.min_segments * FRAMES_PER_SEGMENT / clips.fps
    if shot_end < len(times_s) and times_s[start] + shortest_s > times_s[shot_end]:
        return start, 0
    grid = frames_at(times_s, start, _ends_s(clips.max_segments, clips.fps), step_s=timeline.step_s)
    lasts, ends = grid[::2], grid[1::2]
    num_segments = int(np.sum((ends <= shot_end) & (lasts < shot_end) & (ends > start)))
    return (int(ends[num_segments - 1]), num_segments) if num_segments >= clips.min_segments else (start, 0)


@cache
def _ends_s(max_segments: int, fps: float) -> NDArray[np.float64]:
    """When the frames 36 n and 36 n + 1 of a clip are shown, after its first one, for n = 1, 2, ..."""
    whole = FRAMES_PER_SEGMENT * np.arange(1, max_segments + 1)
    return np.stack([whole, whole + 1], axis=1).ravel() / fps


def _crosses(piece: _Piece, transition: Transition) -> bool:
    """Whether mixed frames, or both sides of a cut, lie in the piece."""
    if transition.start_frame == transition.end_frame:
        return piece.start_frame < transition.start_frame < piece.end_frame
    return transition.start_frame < piece.end_frame and piece.start_frame < transition.end_frame


def _candidate(
    source_id: str,
    piece: _Piece,
    timeline: _Timeline,
    fps: float,
    scores: dict[str, float],
    first_frame: int,
) -> ClipCandidate:
    start, end = first_frame + piece.start_frame, first_frame + piece.end_frame
    return ClipCandidate(
        clip_id=f"{source_id}-{piece.shot_index:03d}-{piece.clip_index:03d}-{start}-{end}-{round(fps * 1000)}",
        source_id=source_id,
        shot_index=piece.shot_index,
        clip_index=piece.clip_index,
        start_frame=start,
        end_frame=end,
        start_s=_seconds(timeline, piece.start_frame),
        end_s=_seconds(timeline, piece.end_frame),
        fps=fps,
        num_segments=piece.num_segments,
        scores=scores,
    )


def _seconds(timeline: _Timeline, frame: int) -> float:
    """When a frame is shown; the one behind the last, one step later."""
    if frame < len(timeline.times_s):
        return round(float(timeline.times_s[frame]), 6)
    return round(float(timeline.times_s[-1]) + timeline.step_s, 6)
