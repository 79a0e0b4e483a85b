"""Rows of the study against each other: paired over clips, since all models of a seed continue the same ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from benchmarks.study_rows import DIRECT, TEACHER, Row
from evaluation.config import EvaluateConfig
from evaluation.statistics import mean_with_interval
from evaluation.types import Estimate

PAIRS: tuple[tuple[str, str], ...] = (
    (TEACHER, "F1 w/CT"),
    ("zero-MemoryPack", TEACHER),
    ("B", TEACHER),
    ("C", TEACHER),
    ("Student forcing", TEACHER),
    (DIRECT, TEACHER),
    (DIRECT, "Student forcing"),
    ("a step per segment", DIRECT),
    ("all parameters", DIRECT),
    ("no curriculum", DIRECT),
    ("from scratch", DIRECT),
    ("rope f1", TEACHER),
    ("rope absolute", TEACHER),
)
"""A row and what it is held against: they differ in one thing."""

SETTINGS = EvaluateConfig()
"""Of intervals, as `longtake evaluate` has them."""

ByClip = Mapping[tuple[int, int], float]
"""(seed, clip) to a number; what could not be measured is absent."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row's drift less another's.

    Attributes:
        difference: Mean over clips of all seeds, with its interval; below 0 is less drift.
        p: Of a difference so far from 0 if both drifted alike: the share of the sign flips of clips that reach it.
        by_seed: The mean of each seed.
    """

    variant: str
    against: str
    metric: str
    difference: Estimate
    p: float
    by_seed: Sequence[float]


def by_clip(rows: Iterable[Row], variant: str, metric: str) -> ByClip:
    """Drift of a variant's clips, all seeds."""
    return {
        (row.seed, clip): drift
        for row in rows
        if row.variant == variant
        for clip, drift in enumerate(row.figures.drifts[metric])
        if drift is not None
    }


def compare(rows: Sequence[Row], variant: str, against: str, metric: str) -> Comparison | None:
    """One row against another over the clips that both have; None where there are not two."""
    ours, theirs = by_clip(rows, variant, metric), by_clip(rows, against, metric)
    clips = sorted(ours.keys() & theirs.keys())
    if len(clips) < 2:
        return None
    differences = np.array([ours[clip] - theirs[clip] for clip in clips])
    seeds = np.array([seed for seed, _ in clips])
    return Comparison(
        variant=variant,
        against=against,
        metric=metric,
        difference=estimate(differences.tolist()),
        p=sign_flip_p(differences),
        by_seed=[float(differences[seeds == seed].mean()) for seed in sorted(set(seeds))],
    )


def estimate(values: Sequence[float]) -> Estimate:
    """The mean over clips with its interval."""
    return mean_with_interval(values, confidence=SETTINGS.confidence, resamples=SETTINGS.resamples, seed=SETTINGS.seed)


def sign_flip_p(differences: NDArray[np.float64]) -> float:
    """The paired permutation test of a mean of 0, two-sided; exact where there are few clips."""
    test = permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=SETTINGS.resamples,
        vectorized=True,
        rng=np.random.default_rng(SETTINGS.seed),
    )
    return float(test.pvalue)
