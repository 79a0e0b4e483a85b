"""Black bars around a picture: lines that stay black through the whole source, next to lines that are lit along their length.

A dark edge of a scene ends unevenly, a bar ends in a straight line. Bars with lettering in them are left as they are.
H, W rows and columns of the analysed picture, N pictures looked at, L lines from one edge of the picture inwards.
"""

import numpy as np
from numpy.typing import NDArray

from preprocessing.samples import PictureArea

_LIT = 32
"""Brightness, of 255, above which a pixel is not black; bars of analogue films reach 20."""
_RARELY = 0.02
"""Share of pictures in which a pixel of a bar may be lit, and share of a bar's pixels that may be lit more often."""
_SOMETIMES = 0.1
"""Share of pictures in which a pixel beside a bar is lit at least."""
_STRAIGHT = 0.6
"""Share of the line beside a bar that is lit sometimes, at least."""
_EDGE_LINES = 2
"""Lines within which a bar ends: a line that is half bar is darker."""
_MIN_LINES = 2
"""A thinner bar is an uneven edge."""
_MIN_SHARE = 0.25
"""Of the picture's height or width between the bars, at least."""
_SPACING_S = 0.25


class BarFinder:
    """Takes pictures of one size in order, looks at four a second, and counts where they are lit."""

    def __init__(self) -> None:
        """Start before the first picture."""
        self._lit_HW: NDArray[np.int32] | None = None
        self._num_seen = 0
        self._next_s = 0.0

    def add(self, time_s: float, gray_HW: NDArray[np.uint8]) -> None:
        """The next picture; looked at if its turn has come."""
        if time_s < self._next_s:
            return
        if self._lit_HW is None:
            self._lit_HW = np.zeros(gray_HW.shape, np.int32)
        self._lit_HW += gray_HW > _LIT
        self._num_seen += 1
        self._next_s = time_s + _SPACING_S

    def area(self) -> tuple[slice, slice]:
        """Rows and columns between the bars that stood in all pictures so far, in analysed pixels."""
        assert self._lit_HW is not None, "no picture was added"
        outermost = (edge_LW[:_MIN_LINES] / self._num_seen for edge_LW in _from_edges(self._lit_HW))
        if not any(_black(edge_LW).all() for edge_LW in outermost):  # as nearly always, and a tenth of the time
            height_px, width_px = self._lit_HW.shape
            return slice(0, height_px), slice(0, width_px)
        return picture_inside(self._lit_HW / self._num_seen)


def picture_inside(lit_HW: NDArray[np.float64]) -> tuple[slice, slice]:
    """Rows and columns between the bars; all of them where there is no bar.

    Args:
        lit_HW: Share of pictures in which each pixel is lit.
    """
    rows = _between(lit_HW, slice(None))
    columns = _between(lit_HW[rows].T, slice(None))
    rows = _between(lit_HW, columns)  # once more: the ends of a line beside a bar may lie in the other bars
    return rows, columns


def _from_edges(picture_HW: NDArray[np.int32]) -> tuple[NDArray[np.int32], ...]:
    """Its lines from top, bottom, left and right inwards."""
    return picture_HW, picture_HW[::-1], picture_HW.T, picture_HW.T[::-1]


def _black(lit_LW: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which lines stay black."""
    return (lit_LW > _RARELY).mean(axis=1) <= _RARELY


def _between(lit_LW: NDArray[np.float64], across: slice) -> slice:
    num_lines = len(lit_LW)
    black_L = _black(lit_LW)
    lit_L = (lit_LW[:, across] > _SOMETIMES).mean(axis=1) >= _STRAIGHT
    first, last = _bar(black_L, lit_L), _bar(black_L[::-1], lit_L[::-1])
    if num_lines - first - last < _MIN_SHARE * num_lines:
        return slice(0, num_lines)
    return slice(first, num_lines - last)


def _bar(black_L: NDArray[np.bool_], lit_L: NDArray[np.bool_]) -> int:
    """Lines of the bar at the first line, 0 if there is none; a half lit line belongs to it."""
    num_black = int(np.argmin(black_L)) if not black_L.all() else 0
    edges = np.flatnonzero(lit_L[num_black : num_black + _EDGE_LINES])
    return num_black + int(edges[0]) if num_black >= _MIN_LINES and len(edges) else 0


def displayed_area(
    area: tuple[slice, slice], analysed_shape: tuple[int, int], *, height_px: int, width_px: int
) -> PictureArea | None:
    """The area in pixels of the displayed picture, rounded inwards; None where it is the whole picture."""
    (top, bottom), (left, right) = (
        _scaled(part, lines, pixels)
        for part, lines, pixels in zip(area, analysed_shape, (height_px, width_px), strict=True)
    )
    if (bottom - top, right - left) == (height_px, width_px):
        return None
    return PictureArea(top_px=top, left_px=left, height_px=bottom - top, width_px=right - left)


def _scaled(part: slice, lines: int, pixels: int) -> tuple[int, int]:
    return int(np.ceil(part.start * pixels / lines)), int(np.floor(part.stop * pixels / lines))
