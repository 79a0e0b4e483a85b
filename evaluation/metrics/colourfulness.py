"""Colourfulness (Hasler and Suesstrunk, 2003): spread and strength of the opponent colours."""

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import mean_of
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts


def colourfulness(rgb_HWC: Picture) -> float:
    """sqrt(var rg + var yb) + 0.3 sqrt(mean rg ^ 2 + mean yb ^ 2), with rg = R - G and yb = (R + G) / 2 - B."""
    red, green, blue = cv2.split(rgb_HWC.astype(np.float32))
    (rg_mean, rg_std), (yb_mean, yb_std) = (
        (float(opponent.mean(dtype=np.float64)), float(opponent.std(dtype=np.float64)))
        for opponent in (red - green, (red + green) / 2 - blue)
    )
    return float(np.hypot(rg_std, yb_std) + 0.3 * np.hypot(rg_mean, yb_mean))


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        return np.array([colourfulness(rgb_HWC)], dtype=np.float32)

    return feature


COLOURFULNESS = Metric(
    name="ref/colourfulness",
    sentence="0 is grey, above 80 is very colourful; models that burn in colours raise it",
    extractor=Extractor(name="colourfulness", start=_start),
    aggregate=mean_of(0),
    min_frames=1,
)
