"""Where the clips of a source begin and end: its shots, divided where they pause, filled with clips on the grid. Pure.

Of one frame after the other, in lists: for a handful of numbers numpy's calls cost more than its work.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocessing.config import ClipsConfig
from preprocessing.samples import FRAMES_PER_SEGMENT
from preprocessing.video_io.timeline import frame_at, going_on


class Piece(NamedTuple):
    """A range of one shot; a whole shot, or a part of one, has `num_segments` 0. All mean what `ClipCandidate` says."""

    shot_index: int
    clip_index: int
    start_frame: int
    end_frame: int
    num_segments: int


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where clips may end: when each of N frames is shown, and more behind them, and what a clip is."""

    onward_s: list[float]
    num_frames: int
    fps: float
    min_segments: int
    max_segments: int


def pieces_of(
    timestamps_s: NDArray[np.float64],
    black_N: NDArray[np.bool_],
    transitions: Sequence[tuple[int, int]],
    pauses: Sequence[int],
    clips: ClipsConfig,
    *,
    step_s: float,
) -> Iterator[Piece]:
    """The clips of all shots of a source, in order; a part of a shot without room for one as it is.

    Args:
        timestamps_s: Presentation times, (N,), increasing.
        black_N: Whether each frame is black, (N,).
        transitions: The frames that each mixes, none for a cut; in order, not overlapping.
        pauses: Frames, in order, at which a shot is divided.
        clips: How shots become clips.
        step_s: `frame_step_s` of the time stamps.
    """
    num_frames = len(timestamps_s)
    shots = list(_shots(num_frames, transitions))
    if clips.policy != "split":
        shots = _without_black_ends(shots, transitions, black_N) or shots
    if clips.policy == "drop" and len(shots) > 1:
        yield Piece(shot_index=0, clip_index=0, start_frame=0, end_frame=num_frames, num_segments=0)
        return
    behind_s = float(timestamps_s[-1]) + step_s + (FRAMES_PER_SEGMENT + 1) / clips.fps
    grid = _Grid(
        onward_s=going_on(timestamps_s, behind_s, step_s=step_s).tolist(),
        num_frames=num_frames,
        fps=clips.fps,
        min_segments=clips.min_segments,
        max_segments=clips.max_segments,
    )
    if clips.policy == "longest":
        shots = sorted(shots, key=lambda shot: -_duration_s(shot, grid))[:1]
    for shot in shots:
        first = 0
        for start, end in _parts(*_guarded(shot, grid, clips.guard_s), pauses):
            for piece in _clips(Piece(shot.shot_index, first, start, end, 0), grid):
                yield piece
                first = piece.clip_index + 2


def _shots(num_frames: int, transitions: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    """Frames between transitions, numbered from 0; a gradual change belongs to neither side."""
    starts = [0, *(end for _, end in transitions)]
    ends = [*(start for start, _ in transitions), num_frames]
    ranges = [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]
    for index, (start, end) in enumerate(ranges):
        yield Piece(shot_index=index, clip_index=0, start_frame=start, end_frame=end, num_segments=0)


def _without_black_ends(
    shots: Sequence[Piece], transitions: Sequence[tuple[int, int]], black_N: NDArray[np.bool_]
) -> list[Piece]:
    """The shots but for what is black between an end of the source and a gradual change: it is the rest of a fade."""
    changes = [(start, end) for start, end in transitions if end > start]
    if not changes:
        return list(shots)
    first, last = changes[0][0], changes[-1][1]
    begin = first if black_N[:first].all() else 0
    over = last if black_N[last:].all() else len(black_N)
    return [shot for shot in shots if begin <= shot.start_frame and shot.end_frame <= over]


def _duration_s(shot: Piece, grid: _Grid) -> float:
    """For how long a shot is shown, to the microsecond: at a constant rate as many frames are a tie."""
    return round(grid.onward_s[shot.end_frame] - grid.onward_s[shot.start_frame], 6)


def _guarded(shot: Piece, grid: _Grid, guard_s: float) -> tuple[int, int]:
    """Without the frames near a transition; the file's own ends are none. One frame is left at least."""
    start, end, times_s = shot.start_frame, shot.end_frame, grid.onward_s
    if guard_s and start > 0:
        start = min(bisect_left(times_s, times_s[start] + guard_s), end - 1)
    if guard_s and end < grid.num_frames:
        end = max(bisect_right(times_s, times_s[end] - guard_s), start + 1)
    return start, end


def _parts(start: int, end: int, pauses: Sequence[int]) -> Iterator[tuple[int, int]]:
    """A range of frames, divided at every pause inside it."""
    return pairwise([start, *pauses[bisect_right(pauses, start) : bisect_left(pauses, end)], end])


def _clips(part: Piece, grid: _Grid) -> Iterator[Piece]:
    """Consecutive clips of a part of a shot, or the whole part if it has no room for one; indices go on from the part's."""
    start, clip_index = part.start_frame, part.clip_index
    while start < part.end_frame:
        end, num_segments = _longest(start, part.end_frame, grid)
        if num_segments == 0:
            break
        yield Piece(part.shot_index, clip_index, start, end, num_segments)
        start, clip_index = end, clip_index + 1
    if clip_index == part.clip_index:
        yield part


def _longest(start: int, stop: int, grid: _Grid) -> tuple[int, int]:
    """End frame and segments of the longest clip from a frame on that ends by another; 0 segments if none.

    Of the grid only the frames 36 n and 36 n + 1 are looked at: the last frame of a clip and the one behind it, which are the
    same at half the rate. A clip whose last frame is shown before `stop` ends by its time, so few n are.
    """
    onward_s, start_s = grid.onward_s, grid.onward_s[start]
    at_most = int((onward_s[stop] - start_s) * grid.fps / FRAMES_PER_SEGMENT) + 1
    for num_segments in range(min(at_most, grid.max_segments), grid.min_segments - 1, -1):
        frames = FRAMES_PER_SEGMENT * num_segments
        end = frame_at(onward_s, start, start_s + (frames + 1) / grid.fps)
        if start < end <= stop and frame_at(onward_s, start, start_s + frames / grid.fps) < stop:
            return end, num_segments
    return start, 0
