"""Exposure: brightness, contrast, and the share of pixels that are burnt out or black."""

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import mean_of
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts

_BLACK, _WHITE = 5, 250
"""Grey levels up to and from which a pixel has lost its detail."""


def exposure(rgb_HWC: Picture) -> tuple[float, float, float]:
    """Mean grey level, its deviation, and the clipped share."""
    grey_HW = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY)
    clipped = (grey_HW <= _BLACK) | (grey_HW >= _WHITE)
    return float(grey_HW.mean()), float(grey_HW.std()), float(clipped.mean())


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        return np.array(exposure(rgb_HWC), dtype=np.float32)

    return feature


_EXPOSURE = Extractor(name="exposure", start=_start)

BRIGHTNESS = Metric(
    name="ref/brightness",
    sentence="mean grey level, 0 to 255",
    extractor=_EXPOSURE,
    aggregate=mean_of(0),
    min_frames=1,
)

CONTRAST = Metric(
    name="ref/contrast",
    sentence="standard deviation of the grey levels of a frame",
    extractor=_EXPOSURE,
    aggregate=mean_of(1),
    min_frames=1,
)

CLIPPED = Metric(
    name="ref/clipped",
    sentence="share of pixels that are black or burnt out, 0 to 1",
    extractor=_EXPOSURE,
    aggregate=mean_of(2),
    min_frames=1,
)
