"""All metrics: those that are computed, and those that would need weights."""

from collections.abc import Mapping

from evaluation.metrics.blockiness import BLOCKINESS
from evaluation.metrics.colour_consistency import COLOUR_CONSISTENCY
from evaluation.metrics.colourfulness import COLOURFULNESS
from evaluation.metrics.exposure import BRIGHTNESS, CLIPPED, CONTRAST
from evaluation.metrics.flicker import TEMPORAL_FLICKER
from evaluation.metrics.motion import DYNAMIC_DEGREE, MOTION, OBJECT_MOTION
from evaluation.metrics.noise import NOISE
from evaluation.metrics.sharpness import SHARPNESS
from evaluation.metrics.smoothness import MOTION_SMOOTHNESS
from evaluation.metrics.texture_consistency import TEXTURE_CONSISTENCY
from evaluation.types import Extractor, Metric

METRICS: tuple[Metric, ...] = (
    DYNAMIC_DEGREE,
    MOTION,
    OBJECT_MOTION,
    MOTION_SMOOTHNESS,
    TEMPORAL_FLICKER,
    COLOUR_CONSISTENCY,
    TEXTURE_CONSISTENCY,
    SHARPNESS,
    NOISE,
    BRIGHTNESS,
    CONTRAST,
    CLIPPED,
    COLOURFULNESS,
    BLOCKINESS,
)
"""Computed without weights."""

EXTRACTORS: tuple[Extractor, ...] = tuple({metric.extractor.name: metric.extractor for metric in METRICS}.values())
"""What one pass over a video runs."""

WEIGHTED: Mapping[str, str] = {
    "vbench/imaging_quality": "needs MUSIQ with the SPAQ weights",
    "vbench/aesthetic_quality": "needs CLIP ViT-L/14 and LAION's aesthetic head",
    "vbench/dynamic_degree": "needs RAFT-things; ref/dynamic_degree is the same rule on DIS flow",
    "vbench/motion_smoothness": "needs AMT-S (CC BY-NC); ref/motion_smoothness is the same rule on DIS flow",
    "vbench/background_consistency": "needs CLIP ViT-B/32; ref/colour_consistency is the same rule on colour histograms",
    "vbench/subject_consistency": "needs DINO ViT-B/16; ref/texture_consistency is the same rule on gradient histograms",
}
"""The paper's six metrics (4.2), which this version cannot compute: no weights come with it, and it loads none."""
