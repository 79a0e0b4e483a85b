"""Texture consistency: VBench's subject consistency with histograms of oriented gradients in the place of DINO."""

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import anchored_consistency
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts

_SIZE_PX, _CELLS, _ORIENTATIONS = 128, 4, 9
_FLAT = 4.0
"""Gradient under which a pixel has no orientation, in grey levels a pixel: noise."""


def gradient_histogram(rgb_HWC: Picture) -> NDArray[np.float32]:
    """Square roots of the share of pixels of each orientation, or of none, in 4 x 4 cells; of length 1."""
    grey_HW = cv2.resize(cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY), (_SIZE_PX, _SIZE_PX), interpolation=cv2.INTER_AREA)
    dx_HW, dy_HW = (cv2.Sobel(grey_HW, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    orientation_HW = np.floor(np.arctan2(dy_HW, dx_HW) % np.pi / np.pi * _ORIENTATIONS).astype(np.int64)
    bin_HW = np.where(np.hypot(dx_HW, dy_HW) < _FLAT, _ORIENTATIONS, orientation_HW.clip(0, _ORIENTATIONS - 1))
    cell = np.arange(_SIZE_PX) * _CELLS // _SIZE_PX
    place_HW = (cell[:, None] * _CELLS + cell) * (_ORIENTATIONS + 1) + bin_HW
    counts_D = np.bincount(place_HW.ravel(), minlength=_CELLS**2 * (_ORIENTATIONS + 1))
    return np.sqrt(counts_D / counts_D.sum()).astype(np.float32)


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    return gradient_histogram


TEXTURE_CONSISTENCY = Metric(
    name="ref/texture_consistency",
    sentence="likeness of edges and their places to the previous and the first frame; stands where VBench has subject consistency",
    extractor=Extractor(name="gradient_histogram", start=_start),
    aggregate=anchored_consistency,
    min_frames=2,
)
