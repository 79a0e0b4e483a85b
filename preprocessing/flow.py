"""Dense optical flow at low resolution: DIS, which at 256 px gives the numbers of larger pictures and other methods for 1.5 ms a pair."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MIN_SIDE_PX = 32
"""A patch at the finest level that the preset uses. With smaller pictures OpenCV 5.0 reads beyond them, and the process dies."""

NO_MAP: Any = None
"""Second map for `cv2.remap` where the first holds x and y: OpenCV's stubs do not know that it may be missing, and an empty one is no none."""


class LowResolutionFlow:
    """DIS flow (Kroeger et al., arXiv 1603.03590) with its `fast` preset; holds the work space of one picture size."""

    def __init__(self) -> None:
        """Set up the estimator."""
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, earlier_HW: NDArray[np.uint8], later_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Where each pixel of the earlier picture went: (H, W, 2), x and y, in pixels."""
        height, width = earlier_HW.shape
        earlier, later = _padded(earlier_HW), _padded(later_HW)
        flow_HW2 = np.asarray(self._dis.calc(earlier, later, np.empty(0, np.float32)), np.float32)
        return flow_HW2[:height, :width]


@lru_cache(maxsize=4)
def grid(height: int, width: int) -> NDArray[np.float32]:
    """Each pixel, x and y, (H, W, 2): with a flow, where the pixels went, as `cv2.remap` takes it."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def _padded(gray_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with its last row and column repeated up to the smallest side that is safe."""
    height, width = gray_HW.shape
    below, right = max(0, _MIN_SIDE_PX - height), max(0, _MIN_SIDE_PX - width)
    if not below and not right:
        return np.ascontiguousarray(gray_HW)
    return np.asarray(cv2.copyMakeBorder(gray_HW, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
