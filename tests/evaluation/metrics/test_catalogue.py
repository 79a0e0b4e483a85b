import cv2
import numpy as np
import pytest

from evaluation.metrics.catalogue import EXTRACTORS, METRICS, WEIGHTED
from evaluation.types import Metric, Picture, VideoFacts

FACTS = VideoFacts(fps=24, height_px=64, width_px=96, source_height_px=64, source_width_px=96)


def frames() -> list[Picture]:
    coarse = np.random.default_rng(0).integers(0, 255, (12, 40, 3)).astype(np.uint8)
    backdrop = cv2.resize(coarse, (480, 64), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    return [backdrop[:, 2 * frame : 2 * frame + 96].copy() for frame in range(36)]


def rows_of(metric: Metric, pictures: list[Picture]) -> np.ndarray:
    feature = metric.extractor.start(FACTS)
    return np.stack([feature(picture) for picture in pictures])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_window_scores_like_a_video_of_the_same_frames(metric: Metric) -> None:
    window = np.arange(12, 30)  # begins on the grid of sampled pairs (3) and of dropped frames (2)
    from_the_whole = metric.aggregate(rows_of(metric, frames())[window], window, FACTS)
    from_a_cut = metric.aggregate(rows_of(metric, frames()[12:30]), np.arange(18), FACTS)
    assert from_the_whole == pytest.approx(from_a_cut, rel=1e-6)


def test_names_are_unique_and_say_their_family() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("ref/") for name in names)
    assert all(name.startswith("vbench/") for name in WEIGHTED)
    assert len({extractor.name for extractor in EXTRACTORS}) == len(EXTRACTORS)
