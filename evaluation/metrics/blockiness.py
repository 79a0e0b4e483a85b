"""Blockiness: steps on the borders of the 8 x 8 grid against steps elsewhere."""

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.rules import mean_of
from evaluation.types import Extractor, FeatureOfFrame, Metric, Picture, VideoFacts

_GRID_PX = 8
"""Block size of JPEG, of H.264's transform, and of the latent grid of all codecs here."""


def blockiness(rgb_HWC: Picture) -> float:
    """Mean step between neighbours across block borders over the mean step inside blocks; NaN for a flat picture."""
    grey_HW = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    steps = [np.abs(np.diff(grey_HW, axis=axis)).mean(axis=1 - axis, dtype=np.float64) for axis in (0, 1)]
    on_border = [(np.arange(len(step)) + 1) % _GRID_PX == 0 for step in steps]
    across = np.concatenate([step[border] for step, border in zip(steps, on_border, strict=True)])
    inside = np.concatenate([step[~border] for step, border in zip(steps, on_border, strict=True)])
    return float(across.mean() / inside.mean()) if inside.any() and len(across) else float("nan")


def _start(_facts: VideoFacts) -> FeatureOfFrame:
    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        return np.array([blockiness(rgb_HWC)], dtype=np.float32)

    return feature


def _refuse(facts: VideoFacts) -> str:
    if facts.is_native:
        return ""
    return (
        f"the frames of {facts.source_width_px} x {facts.source_height_px} pixels were scaled, which moves the grid; "
        "raise evaluate.short_side_px to measure them as they are"
    )


BLOCKINESS = Metric(
    name="ref/blockiness",
    sentence="steps across 8 x 8 block borders over steps elsewhere; 1 is none",
    extractor=Extractor(name="blockiness", start=_start),
    aggregate=mean_of(0),
    min_frames=1,
    refuse=_refuse,
)
