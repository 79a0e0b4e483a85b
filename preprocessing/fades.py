"""Fades, from two numbers a frame: contrast and brightness move steadily to those of a black or white picture, or away from them. Pure.

N frames of a source, M frames beside a flat stretch, away from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLACK, _WHITE = 30.0, 225.0
"""Mean brightness of the flat end, of 255."""
_FLAT = 6.0
"""Standard deviation of the flat end, of 255."""
_MIN_FRAMES = 3
"""A shorter change is a cut."""
_MIN_GAIN = 4.0
"""How many times the contrast of the flat end the whole picture has."""
_MIN_STEP = 0.15
"""Contrast that a fade gains in a frame, at least, of 255."""
_STEADY = 0.4
"""Part of its mean gain that a fade gains in a frame, at least: what goes on more slowly is the shot itself."""
_MAX_STEP = 0.5
"""Part of the whole gain that one frame may bring; more is a cut."""
_PATIENCE_FRAMES = 3
"""Frames for which a fade may stand still."""
_SHORT_FLAT_FRAMES = 30
"""A flat stretch this short, between two fades or at an end of the file, belongs to the change; a longer one is a shot of its own."""


@dataclass(frozen=True, kw_only=True)
class Fade:
    """The half-open range of a fade out, its flat stretch, and the fade in that follows, or of a part of these."""

    start_frame: int
    end_frame: int


def find_fades(contrast_N: NDArray[np.float64], luma_N: NDArray[np.float64]) -> tuple[Fade, ...]:
    """All fades, in order, not overlapping.

    Args:
        contrast_N: Standard deviation of each picture's brightness, of 255.
        luma_N: Its mean.
    """
    found: list[Fade] = []
    for flat_start, flat_end in _runs((contrast_N < _FLAT) & ((luma_N < _BLACK) | (luma_N > _WHITE))):
        for fade in _around(flat_start, flat_end, contrast_N, luma_N):
            if not found or fade.start_frame >= found[-1].end_frame:
                found.append(fade)
    return tuple(found)


def _runs(flat_N: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Half-open ranges of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat_N, [False]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _around(
    flat_start: int, flat_end: int, contrast_N: NDArray[np.float64], luma_N: NDArray[np.float64]
) -> Iterator[Fade]:
    """The fades beside a flat stretch, as one if it is short."""
    floor = float(contrast_N[flat_start:flat_end].min())
    out = _length(contrast_N[flat_start::-1], np.abs(luma_N - luma_N[flat_start])[flat_start::-1], floor)
    into = _length(contrast_N[flat_end - 1 :], np.abs(luma_N - luma_N[flat_end - 1])[flat_end - 1 :], floor)
    if flat_end - flat_start <= _SHORT_FLAT_FRAMES:
        if out or into:
            yield Fade(start_frame=flat_start - out, end_frame=flat_end + into)
        return
    if out:
        yield Fade(start_frame=flat_start - out, end_frame=flat_start)
    if into:
        yield Fade(start_frame=flat_end, end_frame=flat_end + into)


def _length(contrast_M: NDArray[np.float64], distance_M: NDArray[np.float64], floor: float) -> int:
    """Frames for which contrast and the distance to the flat brightness grow steadily; 0 if that is no fade.

    Args:
        contrast_M: From the last flat frame on, away from the flat stretch.
        distance_M: Of its brightness from that of the flat frame.
        floor: The smallest contrast of the flat stretch.
    """
    edge = best = float(contrast_M[0])
    farthest, length, largest = 0.0, 0, 0.0
    for step in range(1, len(contrast_M)):
        waited = step - length
        if waited > _PATIENCE_FRAMES:
            break
        needed = max(_MIN_STEP, _STEADY * (best - edge) / max(length, 1)) * waited
        if contrast_M[step] > best + needed and distance_M[step] >= farthest:
            largest = max(largest, contrast_M[step] - best)
            best, farthest, length = float(contrast_M[step]), float(distance_M[step]), step
    is_fade = length >= _MIN_FRAMES and best >= _MIN_GAIN * max(floor, 1.0) and largest <= _MAX_STEP * (best - floor)
    return length if is_fade else 0
