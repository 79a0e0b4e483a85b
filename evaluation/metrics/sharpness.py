"""Sharpness: the energy of the gradient."""

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import mean_of
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts


def gradient_energy(rgb_HWC: Picture) -> float:
    """Root mean square of the Sobel gradient of brightness (Tenengrad), in grey levels a pixel."""
    grey_HW = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY)
    dx_HW, dy_HW = (cv2.Sobel(grey_HW, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return float(np.sqrt(np.mean(dx_HW**2 + dy_HW**2, dtype=np.float64)))


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        return np.array([gradient_energy(rgb_HWC)], dtype=np.float32)

    return feature


SHARPNESS = Metric(
    name="ref/sharpness",
    sentence="edges: root mean square of the brightness gradient, in grey levels a pixel; blur lowers it, noise raises it",
    extractor=Extractor(name="sharpness", start=_start),
    aggregate=mean_of(0),
    min_frames=1,
)
