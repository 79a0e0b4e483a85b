"""Temporal flicker: VBench's ``temporal_flickering``, which needs no weights."""

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import mean_over_neighbours
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts


def similarity(before_HWC: Picture, after_HWC: Picture) -> float:
    """(255 - mean absolute difference) / 255."""
    return 1 - float(cv2.absdiff(before_HWC, after_HWC).mean()) / 255


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    previous: list[Picture] = []

    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        value = similarity(previous[0], rgb_HWC) if previous else float("nan")
        previous[:] = [rgb_HWC]
        return np.array([value], dtype=np.float32)

    return feature


TEMPORAL_FLICKER = Metric(
    name="ref/temporal_flicker",
    sentence="1 is none: 1 minus the mean difference of neighbouring frames; for still scenes, as motion lowers it too",
    extractor=Extractor(name="flicker", start=_start),
    aggregate=mean_over_neighbours(0, gap=1),
    min_frames=2,
)
