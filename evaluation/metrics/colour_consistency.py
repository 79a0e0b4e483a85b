"""Colour consistency: VBench's background consistency with colour histograms in the place of CLIP."""

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import anchored_consistency
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts


def colour_histogram(rgb_HWC: Picture) -> NDArray[np.float32]:
    """Square roots of a hue-saturation, an a-b and a lightness histogram; of length 1."""
    hsv_HWC = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2HSV)
    lab_HWC = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2LAB)
    histograms = (
        cv2.calcHist([hsv_HWC], [0, 1], None, [12, 6], [0, 180, 0, 256]),
        cv2.calcHist([lab_HWC], [1, 2], None, [12, 12], [0, 256, 0, 256]),
        cv2.calcHist([lab_HWC], [0], None, [24], [0, 256]),
    )
    joined_D = np.concatenate([histogram.ravel() for histogram in histograms])
    return np.sqrt(joined_D / joined_D.sum()).astype(np.float32)


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    return colour_histogram


COLOUR_CONSISTENCY = Metric(
    name="ref/colour_consistency",
    sentence="likeness of colours to the previous and the first frame; stands where VBench has background consistency",
    extractor=Extractor(name="colour_histogram", start=_start),
    aggregate=anchored_consistency,
    min_frames=2,
)
