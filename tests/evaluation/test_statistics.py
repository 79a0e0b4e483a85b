import numpy as np
import pytest
from scipy.stats import t

from evaluation.config import EvaluateConfig
from evaluation.statistics import mean_with_interval, share_with_interval, summarise
from evaluation.types import Estimate, Skipped, VideoScores


def interval(values: list[float]) -> Estimate:
    return mean_with_interval(values, confidence=0.95, resamples=9999, seed=0)


def test_the_interval_of_many_values_is_near_students() -> None:
    values = np.random.default_rng(1).normal(3, 1, 100)
    found = interval(list(values))
    half = t.ppf(0.975, 99) * values.std(ddof=1) / 10
    assert found.low == pytest.approx(found.mean - half, abs=0.03)
    assert found.high == pytest.approx(found.mean + half, abs=0.03)


def test_the_same_videos_give_the_same_interval() -> None:
    assert interval([1.0, 2.0, 4.0, 8.0, 9.0]) == interval([1.0, 2.0, 4.0, 8.0, 9.0])


def test_one_video_has_no_interval_and_equal_ones_a_point() -> None:
    assert interval([2.0]) == Estimate(mean=2.0, low=None, high=None, n=1)
    assert interval([2.0, 2.0, 2.0]) == Estimate(mean=2.0, low=2.0, high=2.0, n=3)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_videos_give_finite_intervals_around_their_mean(count: int) -> None:
    found = interval([0.1, 0.5, 0.4, 0.9][:count])
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high


def test_a_share_has_wilsons_interval() -> None:
    found = share_with_interval(8, 13, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((0.3552, 0.8229), abs=1e-3)


def test_a_folder_of_broken_videos_is_summarised_as_skipped() -> None:
    broken = VideoScores(name="a.mp4", failure="not a video", measured=None, provenance=None, scores={})
    for row in summarise([broken], EvaluateConfig()):
        assert isinstance(row.value, Skipped)
        assert isinstance(row.absolute, Skipped)
