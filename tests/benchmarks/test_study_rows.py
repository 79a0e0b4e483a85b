"""What is trained with which budget, and the file of rows."""

from pathlib import Path

import pytest

from benchmarks.study_pairs import PAIRS
from benchmarks.study_rows import (
    DIRECT,
    FULL_CLIPS,
    FULL_MINUTES,
    FULL_SEGMENTS,
    TEACHER,
    VARIANTS,
    Figures,
    Point,
    Row,
    Training,
    Variant,
    append_row,
    budget_of,
    read_rows,
    recipe_of,
    refuse_other_budget,
)
from training.config import StageName

FIGURES = Figures(
    values={"m": [1.0, None]}, drifts={"m": [0.5, None]}, floors={"m": [0.1, None]}, curves={}, seams=[1.0]
)
TRAINING = Training(
    steps=3, seconds=1.5, val_loss=0.5, val_loss_direct=0.6, points=[Point(steps=1, seconds=0.5, drifts={"m": [0.7]})]
)


def row(variant: str, minutes: float = 90.0) -> Row:
    return Row(variant=variant, seed=0, minutes=minutes, num_segments=20, training=TRAINING, figures=FIGURES)


def named(name: str) -> Variant:
    return next(variant for variant in VARIANTS if variant.name == name)


def steps_of(variant: Variant, minutes: float) -> int:
    train = recipe_of(variant, budget_of(minutes), seed=0).train
    return train.teacher.steps if variant.stage == "teacher" else train.direct.steps


def test_every_variant_has_a_name_of_its_own_and_the_teacher_comes_before_what_begins_from_it() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    first = min(names.index(variant.name) for variant in VARIANTS if variant.from_teacher)
    assert names.index(TEACHER) < first
    assert {name for pair in PAIRS for name in pair} <= set(names)


def test_the_whole_budget_trains_what_the_recipes_say_and_half_of_it_half() -> None:
    whole, half = budget_of(FULL_MINUTES), budget_of(FULL_MINUTES / 2)
    assert (whole.num_clips, whole.num_segments) == (FULL_CLIPS, FULL_SEGMENTS)
    assert (half.num_clips, half.num_segments) == (round(FULL_CLIPS / 2), FULL_SEGMENTS)
    for name in (TEACHER, DIRECT):
        assert steps_of(named(name), FULL_MINUTES / 2) == round(steps_of(named(name), FULL_MINUTES) / 2)


@pytest.mark.parametrize("stage", ["teacher", "direct", "student"])
def test_rows_of_a_stage_have_equal_steps(stage: StageName) -> None:
    variants = [variant for variant in VARIANTS if variant.stage == stage and variant.name != "from scratch"]
    assert len({steps_of(variant, 20) for variant in variants}) == 1
    assert steps_of(named("Student forcing"), 20) == steps_of(named(DIRECT), 20)


def test_from_scratch_trains_as_many_segments_as_teacher_and_direct_together() -> None:
    caps = recipe_of(named(DIRECT), budget_of(20), seed=0).train.direct.curriculum
    mean_cap = sum(caps) / len(caps)
    expected = steps_of(named(TEACHER), 20) + mean_cap * steps_of(named(DIRECT), 20)
    assert mean_cap * steps_of(named("from scratch"), 20) == pytest.approx(expected, abs=mean_cap)


def test_a_recipe_of_the_study_has_the_seed_and_the_overrides() -> None:
    train = recipe_of(named("a step per segment"), budget_of(20), seed=2).train
    assert (train.seed, train.direct.update) == (2, "segment")


def test_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="--minutes 0"):
        budget_of(0)


def test_rows_come_back_from_the_file_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    for name in ("a", "b"):
        append_row(path, row(name))
    assert read_rows(path) == [row("a"), row("b")]


def test_rows_of_another_budget_are_refused(tmp_path: Path) -> None:
    refuse_other_budget(tmp_path, [row("a")], budget_of(90))
    with pytest.raises(ValueError, match="rows of 20 minutes, not of 90: give another --out"):
        refuse_other_budget(tmp_path, [row("a"), row("b", minutes=20)], budget_of(90))
