"""Paired comparisons over clips and seeds."""

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.study_pairs import by_clip, compare, sign_flip_p
from benchmarks.study_rows import Figures, Row


def row(variant: str, seed: int, drifts: Sequence[float | None]) -> Row:
    figures = Figures(values={}, drifts={"m": drifts}, floors={}, curves={}, seams=[])
    return Row(variant=variant, seed=seed, minutes=90, num_segments=20, training=None, figures=figures)


def test_clips_are_told_apart_by_seed_and_place_and_what_was_not_measured_is_absent() -> None:
    rows = [row("a", 0, [1.0, None]), row("a", 1, [3.0, 4.0]), row("b", 0, [9.0, 9.0])]
    assert by_clip(rows, "a", "m") == {(0, 0): 1.0, (1, 0): 3.0, (1, 1): 4.0}


def test_a_difference_is_paired_over_the_clips_that_both_have() -> None:
    ours = [row("a", 0, [1.0, 2.0, None]), row("a", 1, [3.0, 3.0])]
    theirs = [row("b", 0, [2.0, 4.0, 100.0]), row("b", 1, [2.0, 3.0]), row("b", 2, [50.0])]
    found = compare([*ours, *theirs], "a", "b", "m")
    assert found is not None
    assert found.difference.mean == pytest.approx((-1 - 2 + 1 + 0) / 4)
    assert found.by_seed == pytest.approx([-1.5, 0.5])
    assert found.difference.n == 4


def test_rows_without_two_clips_in_common_are_not_compared() -> None:
    assert compare([row("a", 0, [1.0, 2.0]), row("b", 1, [1.0, 2.0])], "a", "b", "m") is None


def test_the_test_counts_sign_flips() -> None:
    # of the 16 sign patterns only all plus and all minus reach this mean
    assert sign_flip_p(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 / 16)
    assert sign_flip_p(np.array([1.0, -1.0, 2.0, -2.0])) == pytest.approx(1.0)
