"""Dense optical flow without weights (DIS, Kroeger 2016): 8 to 10 ms a pair at 480 x 832."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.types import Picture

Grey = NDArray[np.uint8]
"""Brightness, (H, W)."""

Flow = Callable[[Grey, Grey], NDArray[np.float32]]
"""Takes two pictures and gives where each pixel of the first went, (H, W, 2) in pixels, x before y."""


def grey(rgb_HWC: Picture) -> Grey:
    """Brightness of a picture."""
    return cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def dis_flow() -> Flow:
    """A flow estimator with buffers of its own."""
    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # stubs want an initial flow
    return lambda before_HW, after_HW: estimator.calc(before_HW, after_HW, None)
