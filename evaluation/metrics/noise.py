"""Noise: what a Laplacian that is blind to edges leaves (Immerkaer, 1996)."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import mean_of
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts

_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
"""Difference of two Laplacians; its response to white noise of deviation s has deviation 6 s."""


def noise_deviation(rgb_HWC: Picture) -> float:
    """Estimated standard deviation of white noise, in grey levels: sqrt(pi / 2) / 6 times the mean response."""
    grey_HW = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY)
    response_HW = cv2.filter2D(grey_HW, cv2.CV_32F, _MASK)
    return math.sqrt(math.pi / 2) / 6 * float(np.abs(response_HW).mean(dtype=np.float64))


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        return np.array([noise_deviation(rgb_HWC)], dtype=np.float32)

    return feature


NOISE = Metric(
    name="ref/noise",
    sentence="deviation of white noise that would look like this, in grey levels; fine texture counts as noise",
    extractor=Extractor(name="noise", start=_start),
    aggregate=mean_of(0),
    min_frames=1,
)
