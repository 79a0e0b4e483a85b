"""Time stamps and the grid: which source frame is shown at which moment. Pure; one rule for scanning and encoding.

N frames of a source, K frames of a clip. Frame k of a clip is the source frame whose time stamp is nearest to t0 + k / fps, and a
tie takes the earlier.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

MAX_GAP_S = 10.0
"""A longer pause between two frames is a broken clock, not a pause."""

FALLBACK_FPS = 25.0
"""For frames without any time stamp in a file that states no rate."""

TAIL_S = 0.5
"""What lies further behind the last frame of a stream is missing."""

_SAME_S = 1e-6
"""Distances closer than this are a tie: 2.5 frames at 60 fps must not depend on the last bit."""


class Clock:
    """Turns the time stamps of a container, in presentation order, into increasing seconds from 0.

    A missing stamp, one that does not increase, and a gap over `MAX_GAP_S` become one nominal frame; later stamps go on from
    there. Depends on the past alone, so that a stream and an array get the same times.
    """

    def __init__(self, *, time_base: Fraction, fps: float | None) -> None:
        """Start at nothing.

        Args:
            time_base: Seconds of one tick.
            fps: The nominal rate, if the container states one.
        """
        self._time_base = time_base
        self._step = max(1, round(1 / (Fraction(fps or FALLBACK_FPS) * time_base)))
        self._max_gap = round(Fraction(MAX_GAP_S) / time_base)
        self._last: int | None = None
        self._offset = 0

    def seconds(self, pts: int | None) -> float:
        """The time of the next frame, whose stamp is `pts` ticks."""
        now = self._next_tick(pts)
        if pts is not None:
            self._offset = now - pts
        self._last = now
        return float(now * self._time_base)

    def _next_tick(self, pts: int | None) -> int:
        if self._last is None:
            return 0
        if pts is not None and 0 < pts + self._offset - self._last <= self._max_gap:
            return pts + self._offset
        return self._last + self._step


def frame_step_s(timestamps_s: NDArray[np.float64]) -> float:
    """The usual time between two frames: the median; that of `FALLBACK_FPS` for fewer than two frames."""
    if len(timestamps_s) < 2:
        return 1 / FALLBACK_FPS
    ordered = np.sort(np.diff(timestamps_s))  # np.median takes three times as long for as few
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def grid_frames(timestamps_s: NDArray[np.float64], start_frame: int, fps: float, num_frames: int) -> NDArray[np.int64]:
    """Source frames of a clip's grid.

    Past the end the frames go on at their usual distance, so that an index of N or more says: the source is over by then.

    Args:
        timestamps_s: Presentation times, (N,), increasing.
        start_frame: Source frame of k = 0.
        fps: Frames a second of the grid.
        num_frames: K.

    Returns:
        (K,), not decreasing.
    """
    targets_s = timestamps_s[start_frame] + np.arange(num_frames) / fps
    onward_s = going_on(timestamps_s, float(targets_s[-1]), step_s=frame_step_s(timestamps_s))
    later = np.maximum(np.searchsorted(onward_s, targets_s), start_frame + 1)
    return later - 1 + (targets_s - onward_s[later - 1] > onward_s[later] - targets_s + _SAME_S)


def going_on(timestamps_s: NDArray[np.float64], until_s: float, *, step_s: float) -> NDArray[np.float64]:
    """The time stamps, and on at their usual distance: to past a time, and by two frames at least.

    Args:
        timestamps_s: Presentation times, (N,), increasing.
        until_s: The time.
        step_s: `frame_step_s` of the time stamps.

    Returns:
        More than N, increasing.
    """
    more = max(0, int(np.ceil((until_s - timestamps_s[-1]) / step_s))) + 2
    return np.concatenate([timestamps_s, timestamps_s[-1] + step_s * np.arange(1, more + 1)])


def frame_at(onward_s: Sequence[float], start_frame: int, target_s: float) -> int:
    """`grid_frames` for one moment.

    Args:
        onward_s: Presentation times that are `going_on` past the moment.
        start_frame: Source frame before which none is taken.
        target_s: The moment.
    """
    later = max(bisect_left(onward_s, target_s), start_frame + 1)
    return later - 1 + (target_s - onward_s[later - 1] > onward_s[later] - target_s + _SAME_S)


def shown_on_grid(frames: Iterable[tuple[float, T]], fps: float, num_frames: int) -> Iterator[tuple[T, int]]:
    """`grid_frames` for a stream: how often each frame is shown, from the clip's start frame on.

    The last frame of the stream is shown for up to `TAIL_S`.

    Args:
        frames: Presentation times, increasing, each with its frame; the first is the clip's start.
        fps: Frames a second of the grid.
        num_frames: Frames to show.

    Yields:
        A frame and its count, once the next time is known. They sum to `num_frames`, or to less if the stream ends early.
    """
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        return
    start_s, now_s, frame, shown = first[0], first[0], first[1], 0
    for later_s, later_frame in stream:
        count = _nearer_to(now_s, later_s, start_s, fps, range(shown, num_frames))
        yield frame, count
        shown, now_s, frame = shown + count, later_s, later_frame
        if shown == num_frames:
            return
    yield frame, _nearer_to(now_s, now_s + 2 * TAIL_S, start_s, fps, range(shown, num_frames))


def _nearer_to(now_s: float, later_s: float, start_s: float, fps: float, grid: range) -> int:
    """How many of the coming grid frames are nearer to now than to later."""
    count = 0
    for k in grid:
        target_s = start_s + k / fps
        if target_s - now_s > later_s - target_s + _SAME_S:
            break
        count += 1
    return count
