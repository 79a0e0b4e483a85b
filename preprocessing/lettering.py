"""Whether lettering, or another flat shape, appeared over a shot or went away: no transition, though much of the picture changes. Pure.

Shapes: H and W rows and columns, N pixels.
"""

import numpy as np
from numpy.typing import NDArray

_CHANGED = 40
"""Difference of a pixel, of 255, that lettering makes."""
_SAME = 12
"""Difference of a pixel, of 255, that is none."""
_LETTERING_SHARE = 0.45
"""Share of pixels that lettering covers, at most."""
_ONE_COLOUR = 0.68
"""Share of changed pixels within 25 of their median, before or after: lettering has 0.75 and more, jump cuts under 0.64."""
_REST_STAYS = 0.75
"""Share of the other pixels that stay as they are: under lettering 0.79 and more, at cuts under 0.71."""
_REST_CONTRAST = 15.0
"""Standard deviation of the rest, of 255: a rest that shows nothing cannot show that it stays."""


def is_lettering(before_HW: NDArray[np.uint8], after_HW: NDArray[np.uint8]) -> bool:
    """Whether all that changed has one colour, before or after, and the rest, which shows something, goes on."""
    difference_HW = np.abs(before_HW.astype(np.int16) - after_HW)
    changed_HW = difference_HW > _CHANGED
    rest_N = after_HW[~changed_HW]
    if not 0 < changed_HW.mean() < _LETTERING_SHARE or rest_N.std() < _REST_CONTRAST:
        return False
    if (difference_HW[~changed_HW] <= _SAME).mean() < _REST_STAYS:
        return False
    return max(_one_colour(picture[changed_HW]) for picture in (before_HW, after_HW)) >= _ONE_COLOUR


def _one_colour(gray_N: NDArray[np.uint8]) -> float:
    """Share of values near their median."""
    return float((np.abs(gray_N - np.median(gray_N)) < 25).mean())
