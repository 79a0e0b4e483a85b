"""Where a film pauses: stretches of black and of one frozen picture; and how many of its frames are new ones. Pure.

N frames of a source, P ranges of them.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.samples import Signals

_BLOCKS = (16, 9)
"""Columns and rows over which differences between frames are averaged, so that noise fades and a small thing does not."""
_SAME = 1.5
"""Largest difference between blocks, in levels of 255, of a frame that is shown again: encoders add up to 1."""
_MOVES = 4.0
"""Largest difference over a quarter of a second from which on a film moves, in levels."""
_REPEATED = 0.15
"""A frame in a moving film that differs less than this part of what its neighbours do was shown before."""
_NEIGHBOURHOOD_S = 0.25
_MIN_JUDGED = 0.5
"""Share of frames that must lie in motion before the rate is told."""


def largest_change(earlier_HW: NDArray[np.uint8], later_HW: NDArray[np.uint8]) -> float:
    """How much two pictures differ where they differ most, in whole levels of 255."""
    return float(cv2.resize(cv2.absdiff(earlier_HW, later_HW), _BLOCKS, interpolation=cv2.INTER_AREA).max())


def black_stretches(signals: Signals, *, black_luma: float, at_least_s: float) -> list[tuple[int, int]]:
    """Half-open ranges of black frames that last."""
    dark_N = signals.luma < black_luma
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dark_N, [False]])))
    return _lasting(edges[::2], edges[1::2], signals.timestamps_s, at_least_s)


def frozen_stretches(signals: Signals, *, at_least_s: float) -> list[tuple[int, int]]:
    """Half-open ranges of frames that show one picture, where it lasts; none where nobody measured."""
    if signals.change is None:
        return []
    new = np.flatnonzero(signals.change >= _SAME)
    starts = new if len(new) and new[0] == 0 else np.append(0, new)
    ends = np.append(starts[1:], len(signals.change))
    return _lasting(starts, ends, signals.timestamps_s, at_least_s)


def _lasting(
    starts: NDArray[np.int64], ends: NDArray[np.int64], timestamps_s: NDArray[np.float64], at_least_s: float
) -> list[tuple[int, int]]:
    """Those ranges that are on screen for long enough; the last frame of the film for no time."""
    until_s = timestamps_s[np.minimum(ends, len(timestamps_s) - 1)]
    lasts = until_s - timestamps_s[starts] >= at_least_s
    return list(zip(starts[lasts].tolist(), ends[lasts].tolist(), strict=True))


def new_frames(signals: Signals, *, step_s: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which frames are new, and which lie in motion so that one can tell; (N,) each. Neither where nobody measured.

    Args:
        signals: Of the source.
        step_s: `frame_step_s` of its time stamps.
    """
    num_frames = len(signals.timestamps_s)
    if signals.change is None or num_frames < 2:
        return np.ones(num_frames, np.bool_), np.zeros(num_frames, np.bool_)
    reach = max(1, round(_NEIGHBOURHOOD_S / step_s))
    row = np.asarray(signals.change, np.float32).reshape(1, -1)
    around = cv2.dilate(row, np.ones((1, 2 * reach + 1), np.uint8)).ravel()
    return signals.change > _REPEATED * around, around >= _MOVES


def effective_rate(
    new_P: NDArray[np.int64], moving_P: NDArray[np.int64], frames_P: NDArray[np.int64], lasts_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """New frames a second, of the part of each range that moves; NaN if too little of it does.

    A film of 12 frames a second in a container of 24 has 12.

    Args:
        new_P: New frames that lie in motion, in each of P ranges.
        moving_P: Frames that lie in motion.
        frames_P: All frames, 1 or more.
        lasts_s: From the first to the last frame, (P,).
    """
    judged_P = (frames_P > 1) & (moving_P / frames_P >= _MIN_JUDGED)
    per_second_P = (frames_P - 1) / np.where(judged_P, lasts_s, 1.0)
    return np.where(judged_P, per_second_P * (new_P / np.maximum(moving_P, 1)), np.nan)
