"""Dense optical flow at low resolution: DIS, which at 256 px gives the numbers of larger pictures and other methods for 1.5 ms a pair."""

import cv2
import numpy as np
from numpy.typing import NDArray


class LowResolutionFlow:
    """DIS flow (Kroeger et al., arXiv 1603.03590) with its `fast` preset; holds the work space of one picture size."""

    def __init__(self) -> None:
        """Set up the estimator."""
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, earlier_HW: NDArray[np.uint8], later_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Where each pixel of the earlier picture went: (H, W, 2), x and y, in pixels.

        Both sides must be at least 12 pixels long.
        """
        return np.asarray(self._dis.calc(earlier_HW, later_HW, np.empty(0, np.float32)), np.float32)
