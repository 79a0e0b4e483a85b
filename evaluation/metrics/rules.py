"""Pure rules that several metrics share: rows of frames to a score."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evaluation.types import FrameNumbers, Rows, VideoFacts


def mean_of(column: int) -> Callable[[Rows, FrameNumbers, VideoFacts], float]:
    """The mean of one column over the frames; NaN if no frame has a value."""

    def mean(rows_ND: Rows, _frames_N: FrameNumbers, _facts: VideoFacts) -> float:
        return nanmean(rows_ND[:, column])

    return mean


def nanmean(values_N: NDArray[np.floating]) -> float:
    """The mean of the values that are not NaN, in fp64; NaN if there are none."""
    values_N = values_N[~np.isnan(values_N)]
    return float(values_N.mean(dtype=np.float64)) if len(values_N) else float("nan")


def has_predecessor(frames_N: FrameNumbers, gap: int) -> NDArray[np.bool_]:
    """Which frames follow, in this window, on an unbroken run of `gap` frames: their rows look at nothing outside it.

    Frames are counted in order of generation, where a window may hold pieces of the video that are not neighbours.
    """
    inside = np.zeros(len(frames_N), dtype=np.bool_)
    inside[gap:] = frames_N[gap:] - frames_N[:-gap] == gap
    return inside


def mean_over_neighbours(column: int, gap: int) -> Callable[[Rows, FrameNumbers, VideoFacts], float]:
    """The mean of one column over the frames whose `gap` predecessors are in the window too."""

    def mean(rows_ND: Rows, frames_N: FrameNumbers, _facts: VideoFacts) -> float:
        return nanmean(rows_ND[has_predecessor(frames_N, gap), column])

    return mean


def anchored_consistency(rows_ND: Rows, _frames_N: FrameNumbers, _facts: VideoFacts) -> float:
    """VBench's consistency: each frame against the one before it and against the window's first.

    mean over i >= 1 of (max(0, cos(f[i-1], f[i])) + max(0, cos(f[0], f[i]))) / 2. Of square roots of histograms the cosine is
    the Bhattacharyya coefficient.
    """
    unit_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    to_previous = np.einsum("nd,nd->n", unit_ND[:-1], unit_ND[1:])
    to_first = unit_ND[1:] @ unit_ND[0]
    return nanmean((np.maximum(0, to_previous) + np.maximum(0, to_first)) / 2)
