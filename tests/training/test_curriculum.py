from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.test_order import row, rows
from training.config import DirectConfig, TrainConfig
from training.curriculum import curriculum_phases, direct_steps, ground_truth_share, most_segments


def config(**values: object) -> DirectConfig:
    return DirectConfig.model_validate({"steps": 9, "global_batch": 2, "curriculum": [1, 2, 4], **values}, strict=False)


def test_the_curriculum_raises_the_number_of_segments_in_equal_shares() -> None:
    steps = list(direct_steps(rows([8] * 4), seed=0, config=config()))
    assert [step.num_segments[0] for step in steps] == [1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert [step.step for step in steps] == list(range(9))
    assert steps[-1].num_losses == 8


def test_a_curriculum_beyond_the_longest_clip_trains_whole_clips() -> None:
    steps = direct_steps(rows([3]), seed=0, config=config(steps=4, global_batch=1, curriculum=[1, 40]))
    assert [step.num_segments for step in steps] == [(1,), (1,), (3,), (3,)]


@given(
    num_segments=st.integers(1, 9),
    num_steps=st.integers(1, 9),
    caps=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_the_direct_stage_goes_as_far_into_the_longest_clip_as_it_says(
    num_segments: int, num_steps: int, caps: list[int]
) -> None:
    direct = config(steps=num_steps, global_batch=1, curriculum=caps)
    steps = direct_steps(rows([num_segments]), seed=0, config=direct)
    said = most_segments(TrainConfig(direct=direct), "direct", num_segments)
    assert max(step.num_segments[0] for step in steps) == said


def test_clips_sorted_by_length_wait_for_their_cap_and_are_trained_whole() -> None:
    clips = rows([1, 1, 2, 2, 3, 4, 7, 7])
    phases = curriculum_phases(clips, config(sort_by_length=True))
    assert [sorted(clip.num_segments for clip in phase.rows) for phase in phases] == [[1, 1], [2, 2], [3, 4, 7, 7]]
    for step in direct_steps(clips, seed=0, config=config(sort_by_length=True)):
        assert step.num_segments == tuple(min(4, clip.num_segments) for clip in step.clips)


def test_a_cap_that_no_sorted_clip_is_within_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no clip of 3 to 4 segments for cap 4"):
        direct_steps(rows([1, 2]), seed=0, config=config(sort_by_length=True))


def test_more_caps_than_steps_leave_some_out() -> None:
    steps = direct_steps(rows([8]), seed=0, config=config(steps=2, global_batch=1))
    assert [step.num_segments for step in steps] == [(1,), (2,)]


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12), start=st.integers(0, 12), steps=st.integers(1, 12))
def test_a_stage_that_goes_on_at_any_step_has_the_rest_of_the_order(lengths: list[int], start: int, steps: int) -> None:
    settings = config(steps=steps, ground_truth_share=0.5)
    whole = list(direct_steps(rows(lengths), seed=0, config=settings))
    assert [step.step for step in whole] == list(range(steps))
    assert list(direct_steps(rows(lengths), seed=0, config=settings, start=start)) == whole[start:]


def test_a_share_of_the_steps_has_the_true_past_and_the_same_clips() -> None:
    clips = [row(i, 4) for i in range(6)]
    own = list(direct_steps(clips, seed=0, config=config(steps=400, curriculum=[4])))
    mixed = list(direct_steps(clips, seed=0, config=config(steps=400, curriculum=[4], ground_truth_share=0.25)))
    assert [step.clips for step in mixed] == [step.clips for step in own]
    drawn = Counter(step.segment_index for step in mixed)
    assert 260 < drawn.pop(None) < 340
    assert set(drawn) == {0, 1, 2, 3}
    assert all(step.segment_index is None for step in own)


def test_one_stage_can_lead_from_the_teacher_to_direct_forcing() -> None:
    settings = config(steps=300, curriculum=[4], ground_truth_share=1.0, final_ground_truth_share=0.0)
    assert [ground_truth_share(step, settings) for step in (0, 299)] == [1.0, 0.0]
    steps = list(direct_steps(rows([4] * 4), seed=0, config=settings))
    thirds = [sum(step.segment_index is None for step in steps[i : i + 100]) for i in (0, 100, 200)]
    assert thirds == sorted(thirds)
    assert thirds[0] < 35
    assert thirds[2] > 65
