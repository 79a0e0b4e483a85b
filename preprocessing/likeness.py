"""Small pictures, and how alike two of them are."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT_PX, WIDTH_PX = 27, 48
"""Large enough to tell shots apart, small enough to forgive motion."""

_FLAT = 2.0
"""Contrast, of 255, under which a picture shows nothing."""


class SmallPicture(NamedTuple):
    """A picture at 48 x 27.

    Attributes:
        rgb_HW3: Colours, 0 to 255.
        centred_P: The same as one row, less the mean of each colour.
        contrast: Standard deviation of that row.
    """

    rgb_HW3: NDArray[np.float32]
    centred_P: NDArray[np.float32]
    contrast: float


def small_picture(rgb_HWC: NDArray[np.uint8]) -> SmallPicture:
    """A frame made small."""
    small = cv2.resize(rgb_HWC, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA)
    small_HW3 = np.asarray(small, np.float32)
    # OpenCV's sums are exact, and thus what numpy finds; numpy takes ten times as long over an axis of three.
    mean_3 = (np.array(cv2.sumElems(small)[:3]) / (HEIGHT_PX * WIDTH_PX)).astype(np.float32)
    centred_P = np.asarray(cv2.subtract(small_HW3, np.append(mean_3, 0.0).astype(np.float64)), np.float32).ravel()
    return SmallPicture(small_HW3, centred_P, float(np.sqrt(centred_P @ centred_P / centred_P.size)))


def likeness(first: SmallPicture, second: SmallPicture) -> float:
    """Correlation of two pictures, -1 to 1, whatever their brightness and contrast; 0 if one shows nothing."""
    if min(first.contrast, second.contrast) < _FLAT:
        return 0.0
    size = first.centred_P.size
    return float(first.centred_P @ second.centred_P) / (size * first.contrast * second.contrast)
