"""Drift: how far a metric moves from the first generated frames to the last (paper, eq. 8)."""

import math
from collections.abc import Callable

import numpy as np

from evaluation.types import DriftScores, FrameNumbers, Skipped

MIN_WINDOW = 2
"""Frames of the shortest window: one frame is no part of a video."""

ScoreOfFrames = Callable[[FrameNumbers], float]
"""A metric on the part of a video that these frames are, in this order; NaN if it cannot be measured."""


def window_length(share: float, num_frames: int) -> int:
    """Frames of a window: the share, rounded up (36 of 240, 108 of 720, 216 of 1440)."""
    return math.ceil(round(share * num_frames, 9))  # 0.15 * 240 must not become 37


def drift(
    score: ScoreOfFrames, generated: FrameNumbers, *, window_share: float, curve_share: float, min_frames: int
) -> DriftScores | Skipped:
    """|M(V_start) - M(V_end)| over the first and the last share of the generated frames (paper, eq. 8).

    Args:
        score: M.
        generated: The generated frames in order of generation, (N,).
        window_share: Share of them in V_start and in V_end; 0.15 in the paper.
        curve_share: Share of them in a sliding window of the curve.
        min_frames: Shortest window that M can measure.
    """
    k = window_length(window_share, len(generated))
    shortest = max(MIN_WINDOW, min_frames)
    if 2 * k > len(generated) or k < shortest:
        return Skipped(
            why=f"{len(generated)} generated frames give windows of {k}, and this metric needs two of {shortest}; "
            f"make a longer video"
        )
    start, following, end = (score(part) for part in (generated[:k], generated[k : 2 * k], generated[-k:]))
    if not all(map(math.isfinite, (start, following, end))):
        return Skipped(why=f"a window of {k} frames gave nothing to measure: too few, or empty; make a longer video")
    return DriftScores(
        absolute=abs(start - end),
        signed=end - start,
        floor=abs(start - following),
        start=start,
        end=end,
        window_frames=k,
        curve=drift_curve(score, generated, share=curve_share, min_frames=min_frames),
    )


def drift_curve(
    score: ScoreOfFrames, generated: FrameNumbers, *, share: float, min_frames: int
) -> tuple[tuple[float, float], ...]:
    """The metric in windows that slide by half their length: (share of the frames at the middle, score).

    The last window ends with the last frame. Windows without a measurement are left out.
    """
    length = min(len(generated), max(min_frames, window_length(share, len(generated))))
    last = len(generated) - length
    starts = np.unique(np.append(np.arange(0, last + 1, max(1, length // 2)), last))
    points = [((first + length / 2) / len(generated), score(generated[first : first + length])) for first in starts]
    return tuple((float(middle), value) for middle, value in points if math.isfinite(value))
