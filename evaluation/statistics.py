"""Means over videos with intervals."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap

from evaluation.config import EvaluateConfig
from evaluation.metrics.catalogue import METRICS
from evaluation.types import DriftScores, Estimate, Metric, MetricSummary, Skipped, VideoScores


def mean_with_interval(values: Sequence[float], *, confidence: float, resamples: int, seed: int) -> Estimate:
    """The mean and its bootstrap interval (BCa) over videos, the same at every call.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("a mean of no videos; say that the metric was skipped")
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Estimate(mean=mean, low=None, high=None, n=len(sample))
    if np.ptp(sample) < 1e-12 * max(1.0, abs(mean)):  # BCa divides by the spread
        return Estimate(mean=mean, low=mean, high=mean, n=len(sample))
    # With two or three videos BCa's acceleration is undefined or wild: their percentiles are no better, but finite.
    method = "BCa" if len(sample) > 3 else "percentile"
    rng = np.random.default_rng(seed)
    result = bootstrap(
        (sample,), np.mean, confidence_level=confidence, n_resamples=resamples, method=method, rng=rng, batch=1000
    )
    interval = result.confidence_interval
    return Estimate(mean=mean, low=float(interval.low), high=float(interval.high), n=len(sample))


def share_with_interval(successes: int, n: int, *, confidence: float) -> Estimate:
    """A share of videos with Wilson's interval, for metrics that are 0 or 1.

    Raises:
        ValueError: If there are no videos.
    """
    if n < 1:
        raise ValueError("a share of no videos; say that the metric was skipped")
    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(mean=successes / n, low=float(interval.low), high=float(interval.high), n=n)


def summarise(videos: Sequence[VideoScores], settings: EvaluateConfig) -> tuple[MetricSummary, ...]:
    """All metrics over all videos, each with its interval and the number of videos that it could measure."""
    return tuple(_summary(metric, videos, settings) for metric in METRICS)


def _summary(metric: Metric, videos: Sequence[VideoScores], settings: EvaluateConfig) -> MetricSummary:
    scores = [video.scores[metric.name] for video in videos if not video.failure]
    values = [score.value for score in scores if not isinstance(score.value, Skipped)]
    drifts = [score.drift for score in scores if isinstance(score.drift, DriftScores)]
    why_no_value = _first_why([score.value for score in scores])
    why_no_drift = _first_why([score.drift for score in scores])
    return MetricSummary(
        name=metric.name,
        value=_share(values, settings, why_no_value) if metric.is_binary else _mean(values, settings, why_no_value),
        absolute=_mean([drift.absolute for drift in drifts], settings, why_no_drift),
        signed=_mean([drift.signed for drift in drifts], settings, why_no_drift),
        floor=_mean([drift.floor for drift in drifts], settings, why_no_drift),
    )


def _mean(values: Sequence[float], settings: EvaluateConfig, why_not: str) -> Estimate | Skipped:
    if not values:
        return Skipped(why=why_not)
    return mean_with_interval(values, confidence=settings.confidence, resamples=settings.resamples, seed=settings.seed)


def _share(values: Sequence[float], settings: EvaluateConfig, why_not: str) -> Estimate | Skipped:
    if not values:
        return Skipped(why=why_not)
    return share_with_interval(sum(value == 1 for value in values), len(values), confidence=settings.confidence)


def _first_why(scores: Sequence[object]) -> str:
    return next((score.why for score in scores if isinstance(score, Skipped)), "no video could be measured")
