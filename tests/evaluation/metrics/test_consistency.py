import cv2
import numpy as np
import pytest

from evaluation.metrics.colour_consistency import COLOUR_CONSISTENCY, colour_histogram
from evaluation.metrics.rules import anchored_consistency, has_predecessor, nanmean
from evaluation.metrics.texture_consistency import gradient_histogram
from evaluation.types import Picture, Rows, VideoFacts

FACTS = VideoFacts(fps=24, height_px=96, width_px=128, source_height_px=96, source_width_px=128)


def slow_and_obvious(rows: Rows) -> float:
    """VBench's loop (subject_consistency.py), as it is written there."""
    total = 0.0
    unit = [row / np.linalg.norm(row) for row in rows.astype(np.float64)]
    for i in range(1, len(unit)):
        total += (max(0.0, unit[i - 1] @ unit[i]) + max(0.0, unit[0] @ unit[i])) / 2
    return total / (len(unit) - 1)


def test_the_rule_is_vbenchs() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    assert anchored_consistency(rows, np.arange(9), FACTS) == pytest.approx(slow_and_obvious(rows), abs=1e-6)


def test_a_window_is_anchored_on_its_own_first_frame() -> None:
    rows = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]
    assert anchored_consistency(rows, np.arange(4), FACTS) == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert anchored_consistency(rows[1:], np.arange(1, 4), FACTS) == pytest.approx(1)


def scene(seed: int) -> Picture:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


@pytest.mark.parametrize("feature", [colour_histogram, gradient_histogram])
def test_features_have_length_one_also_where_there_is_nothing_to_see(feature: "object") -> None:
    for picture in (scene(0), np.zeros((96, 128, 3), np.uint8)):
        assert np.linalg.norm(feature(picture)) == pytest.approx(1, abs=1e-5)  # type: ignore[operator]


def test_colours_know_a_colour_cast_and_edges_know_another_scene() -> None:
    cast = np.clip(scene(0) * np.array([1.0, 0.8, 0.6]), 0, 255).astype(np.uint8)
    colour_of_cast = colour_histogram(scene(0)) @ colour_histogram(cast)
    edges_of_cast = gradient_histogram(scene(0)) @ gradient_histogram(cast)
    edges_of_another = gradient_histogram(scene(0)) @ gradient_histogram(scene(1))
    assert edges_of_cast > 0.95
    assert colour_of_cast < 0.9
    assert edges_of_another < 0.9


def test_a_still_video_is_consistent() -> None:
    rows = np.stack([colour_histogram(scene(0))] * 4)
    assert COLOUR_CONSISTENCY.aggregate(rows, np.arange(4), FACTS) == pytest.approx(1)


def test_predecessors_must_stand_in_the_window_in_order_of_time() -> None:
    frames = np.array([7, 8, 9, 3, 4, 5])
    np.testing.assert_array_equal(has_predecessor(frames, 1), [False, True, True, False, True, True])
    np.testing.assert_array_equal(has_predecessor(frames, 2), [False, False, True, False, False, True])


def test_the_mean_of_nothing_is_not_a_number() -> None:
    assert np.isnan(nanmean(np.array([np.nan, np.nan])))
    assert nanmean(np.array([np.nan, 2.0])) == 2
