"""Metrics of neighbouring frames, on motion that is known."""

import cv2
import numpy as np
import pytest

from evaluation.metrics.flicker import TEMPORAL_FLICKER
from evaluation.metrics.motion import (
    DYNAMIC_DEGREE,
    MOTION,
    OBJECT_MOTION,
    is_dynamic,
    sampling_interval,
    top_share_mean,
)
from evaluation.metrics.smoothness import MOTION_SMOOTHNESS
from evaluation.types import Metric, Picture, VideoFacts

HEIGHT, WIDTH = 96, 128


def facts(fps: float = 24) -> VideoFacts:
    return VideoFacts(fps=fps, height_px=HEIGHT, width_px=WIDTH, source_height_px=HEIGHT, source_width_px=WIDTH)


def backdrop() -> Picture:
    coarse = np.random.default_rng(0).integers(0, 255, (60, 120, 3)).astype(np.uint8)
    return cv2.resize(coarse, (720, 360), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def pan(offsets_px: list[int]) -> list[Picture]:
    return [backdrop()[50 : 50 + HEIGHT, 50 + x : 50 + x + WIDTH].copy() for x in offsets_px]


def score(metric: Metric, frames: list[Picture], fps: float = 24) -> float:
    feature = metric.extractor.start(facts(fps))
    rows = np.stack([feature(frame) for frame in frames])
    return metric.aggregate(rows, np.arange(len(frames)), facts(fps))


def test_sampling_is_vbenchs() -> None:
    assert [sampling_interval(fps) for fps in (24, 25, 30, 12, 8, 2)] == [3, 3, 4, 2, 1, 1]


def test_the_top_share_is_the_mean_of_the_largest_five_per_cent() -> None:
    assert top_share_mean(np.arange(100, dtype=np.float32).reshape(10, 10)) == 97


def test_a_quarter_of_the_pairs_must_pass_the_threshold_strictly() -> None:
    # 480p: 6 px of 256 are 11.25; 80 samples (10 s at 24 fps) ask for 20 pairs.
    tops = np.array([11.26] * 19 + [11.25] * 60)
    assert not is_dynamic(tops, 80, 480)
    assert is_dynamic(np.append(tops, 12.0), 80, 480)


def test_a_still_video_is_not_dynamic_and_does_not_move() -> None:
    still = pan([0] * 25)
    assert score(DYNAMIC_DEGREE, still) == 0
    assert score(MOTION, still) == pytest.approx(0, abs=0.01)
    assert score(MOTION_SMOOTHNESS, still) == score(TEMPORAL_FLICKER, still) == 1


def test_motion_of_a_pan_is_its_speed_and_no_object_moves() -> None:
    frames = pan(list(range(25)))  # 1 px a frame, 24 px a second, of a diagonal of 160 px
    assert score(MOTION, frames) == pytest.approx(15, rel=0.1)
    assert score(OBJECT_MOTION, frames) < 3
    assert score(DYNAMIC_DEGREE, frames) == 1


def test_two_samples_are_too_few_to_call_a_video_dynamic() -> None:
    assert np.isnan(score(DYNAMIC_DEGREE, pan([0, 0, 0, 0])))


def test_smooth_motion_is_smoother_than_jerky_motion() -> None:
    smooth, jerky = pan(list(range(0, 30, 2))), pan([2 * i + 3 * (i % 2) for i in range(15)])
    assert score(MOTION_SMOOTHNESS, smooth) > score(MOTION_SMOOTHNESS, jerky)
    assert score(MOTION_SMOOTHNESS, smooth) > 0.98


def test_flicker_is_one_minus_the_mean_difference() -> None:
    dark, light = (np.full((HEIGHT, WIDTH, 3), level, np.uint8) for level in (100, 151))
    assert score(TEMPORAL_FLICKER, [dark, light, light]) == pytest.approx(1 - 0.2 / 2)


@pytest.mark.parametrize("metric", [TEMPORAL_FLICKER, MOTION, MOTION_SMOOTHNESS])
def test_neighbours_across_a_seam_of_sections_do_not_count(metric: Metric) -> None:
    frames = pan(list(range(48)))
    feature = metric.extractor.start(facts())
    rows = np.stack([feature(frame) for frame in frames])
    rows[24] = 1e6  # what a comparison with something outside the window would say
    backwards = np.concatenate([np.arange(24, 48), np.arange(0, 24)])
    assert metric.aggregate(rows[backwards], backwards, facts()) < 1e3
