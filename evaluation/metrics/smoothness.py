"""Motion smoothness: VBench's rule with DIS flow in the place of AMT-S, which has a non-commercial licence.

Every odd frame is dropped, made again in the middle of its even neighbours, and compared.
"""

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.flicker import similarity
from evaluation.metrics.optical_flow import Flow, dis_flow, grey
from evaluation.metrics.rules import mean_over_neighbours
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts


def midpoint(before_HWC: Picture, after_HWC: Picture, flow: Flow) -> Picture:
    """The frame half way, each pixel fetched from both sides along half the flow."""
    flow_HW2 = flow(grey(before_HWC), grey(after_HWC))
    from_before, from_after = _shifted(before_HWC, -flow_HW2 / 2), _shifted(after_HWC, flow_HW2 / 2)
    return cv2.addWeighted(from_before, 0.5, from_after, 0.5, 0).astype(np.uint8, copy=False)


def _shifted(frame_HWC: Picture, by_HW2: NDArray[np.floating]) -> Picture:
    height, width = by_HW2.shape[:2]
    x_HW, y_HW = np.meshgrid(np.arange(width), np.arange(height))
    x_HW, y_HW = (x_HW + by_HW2[..., 0]).astype(np.float32), (y_HW + by_HW2[..., 1]).astype(np.float32)
    shifted = cv2.remap(frame_HWC, x_HW, y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return shifted.astype(np.uint8, copy=False)


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    flow = dis_flow()
    last: deque[Picture] = deque(maxlen=3)
    count = 0

    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        """The row of an even frame is about the odd one before it."""
        nonlocal count
        last.append(rgb_HWC)
        count += 1
        if count % 2 == 0 or len(last) < 3:
            return np.array([np.nan], dtype=np.float32)
        return np.array([similarity(midpoint(last[0], last[2], flow), last[1])], dtype=np.float32)

    return feature


MOTION_SMOOTHNESS = Metric(
    name="ref/motion_smoothness",
    sentence="1 is smooth: how well odd frames follow from their neighbours by optical flow",
    extractor=Extractor(name="smoothness", start=_start),
    aggregate=mean_over_neighbours(0, gap=2),
    min_frames=4,
)
