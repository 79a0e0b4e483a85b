from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.order import (
    backwards_per_rank,
    grouped_batches,
    keyed_normals,
    plan_hash,
    positions_of_rank,
    stacks_of_rank,
    stacks_per_rank,
    teacher_steps,
    unused_clips,
)
from training.types import ClipRow, GlobalStep, RandomKey


def row(i: int, num_segments: int, height_px: int = 64) -> ClipRow:
    return ClipRow(
        clip_id=f"clip{i:03}", dataset="d", shard="a/b", num_segments=num_segments, height_px=height_px, width_px=64
    )


def rows(lengths: list[int]) -> list[ClipRow]:
    return [row(i, n) for i, n in enumerate(lengths)]


lengths = st.lists(st.integers(1, 6), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(lengths=lengths, global_batch=st.integers(1, 5), seed=st.integers(0, 9))
def test_a_global_batch_holds_clips_of_one_length(lengths: list[int], global_batch: int, seed: int) -> None:
    batches = grouped_batches(rows(lengths), seed=seed, name="x", global_batch=global_batch, cap=None)
    for batch in islice(batches, 20):
        assert len(batch) == global_batch
        assert len({clip.num_segments for clip in batch}) == 1


@settings(deadline=None, max_examples=50)
@given(lengths=lengths, global_batch=st.integers(1, 5))
def test_no_clip_is_lost_when_it_does_not_fill_a_batch(lengths: list[int], global_batch: int) -> None:
    # After G epochs every group has been cut without a remainder: each clip was seen exactly G times.
    num_batches = len(lengths)
    batches = grouped_batches(rows(lengths), seed=0, name="x", global_batch=global_batch, cap=None)
    seen = Counter(clip.clip_id for batch in islice(batches, num_batches) for clip in batch)
    assert set(seen.values()) == {global_batch}
    assert len(seen) == len(lengths)


def test_epochs_come_in_different_orders() -> None:
    batches = list(islice(grouped_batches(rows([2] * 8), seed=0, name="x", global_batch=1, cap=None), 16))
    assert batches[:8] != batches[8:]
    assert sorted(b[0].clip_id for b in batches[:8]) == sorted(b[0].clip_id for b in batches[8:])


def test_pictures_of_two_sizes_never_share_a_batch() -> None:
    mixed = [row(i, 2, height_px=64 + 32 * (i % 2)) for i in range(9)]
    for batch in islice(grouped_batches(mixed, seed=0, name="x", global_batch=2, cap=None), 18):
        assert len({clip.size_px for clip in batch}) == 1


def test_the_order_is_a_function_of_the_seed_and_not_of_the_order_of_rows() -> None:
    def ids(rows: list[ClipRow], seed: int) -> list[tuple[object, ...]]:
        steps = teacher_steps(rows, seed=seed, global_batch=2, memory_dropout=0.5, history_dropout=0)
        return [(step.segment_index, step.use_memory, step.clips) for step in islice(steps, 30)]

    clips = rows([1, 2, 3, 4, 4, 5])
    assert ids(clips, 0) == ids(clips[::-1], 0)
    assert ids(clips, 0) != ids(clips, 1)


def test_n_is_uniform_over_the_segments_of_the_clips() -> None:
    steps = teacher_steps(rows([4] * 3), seed=0, global_batch=1, memory_dropout=0.25, history_dropout=0)
    drawn = list(islice(steps, 2000))
    counts = Counter(step.segment_index for step in drawn)
    assert set(counts) == {0, 1, 2, 3}
    assert all(abs(count - 500) < 80 for count in counts.values())
    assert abs(sum(not step.use_memory for step in drawn) - 500) < 80


@settings(deadline=None, max_examples=50)
@given(lengths=lengths, seed=st.integers(0, 9), share=st.floats(0, 1), start=st.integers(0, 60))
def test_history_dropout_changes_nothing_else_in_the_order_and_withholds_no_start_image(
    lengths: list[int], seed: int, share: float, start: int
) -> None:
    def steps(history_dropout: float, start: int) -> Iterator[GlobalStep]:
        return teacher_steps(
            rows(lengths), seed=seed, global_batch=2, memory_dropout=0.3, history_dropout=history_dropout, start=start
        )

    dropped, without = (list(islice(steps(h, start), 5)) for h in (share, 0))
    assert all(step.use_history for step in without)
    assert [replace(step, use_history=True) for step in dropped] == without
    assert dropped == list(islice(steps(share, 0), start, start + 5))
    always = list(islice(steps(1, start), 5))
    assert [step.use_history for step in always] == [step.segment_index == 0 for step in always]


def test_history_and_memory_are_dropped_apart_from_each_other() -> None:
    steps = teacher_steps(rows([5] * 3), seed=0, global_batch=1, memory_dropout=0.5, history_dropout=0.25)
    drawn = [(step.use_history, step.use_memory) for step in islice(steps, 2500) if step.segment_index]
    counts = {pair: count / len(drawn) for pair, count in Counter(drawn).items()}
    assert counts == pytest.approx(
        {(True, True): 0.375, (True, False): 0.375, (False, True): 0.125, (False, False): 0.125}, abs=0.04
    )


def test_the_order_of_a_run_without_history_dropout_is_that_of_versions_that_had_none() -> None:
    steps = teacher_steps(rows([2, 3, 3, 4]), seed=7, global_batch=1, memory_dropout=0.3, history_dropout=0, start=100)
    assert [(s.clips[0].clip_id, s.segment_index, s.use_memory) for s in islice(steps, 12)] == [
        ("clip000", 1, False), ("clip001", 2, True), ("clip002", 1, True), ("clip003", 0, True),
        ("clip002", 1, False), ("clip003", 1, True), ("clip001", 0, True), ("clip000", 1, False),
        ("clip003", 2, False), ("clip001", 2, True), ("clip000", 0, False), ("clip002", 0, True),
    ]  # fmt: skip


def test_the_teacher_loads_no_segment_after_n() -> None:
    for step in islice(teacher_steps(rows([3, 5]), seed=0, global_batch=2, memory_dropout=0, history_dropout=0), 20):
        assert step.segment_index is not None
        assert step.num_segments == (step.segment_index + 1,) * 2
        assert step.num_losses == 2


def test_every_rank_knows_how_many_backward_passes_the_others_run() -> None:
    step = GlobalStep(step=0, clips=(row(0, 3), row(1, 5)), num_segments=(3, 5), segment_index=None, use_memory=True)
    assert backwards_per_rank(step, 2) == (3, 5)
    assert backwards_per_rank(step, 1) == (8,)
    assert step.num_losses == 8
    assert stacks_per_rank(step, 2) == (1, 1)
    assert stacks_per_rank(step, 1) == (2,)


@given(num_ranks=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_the_ranks_share_the_positions_without_gap_or_overlap(num_ranks: int) -> None:
    shares = [positions_of_rank(12, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert [p for share in shares for p in share] == list(range(12))


def test_a_batch_that_the_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 2"):
        positions_of_rank(3, rank=0, num_ranks=2)


def test_clips_of_unequal_length_are_stacked_apart() -> None:
    step = GlobalStep(
        step=0, clips=(row(0, 3), row(1, 5), row(2, 3)), num_segments=(3, 5, 3), segment_index=None, use_memory=True
    )
    assert stacks_of_rank(step, rank=0, num_ranks=1) == [(0, 2), (1,)]


def test_random_numbers_belong_to_the_position_and_not_to_the_rank() -> None:
    key = RandomKey(seed=1, stage="teacher", step=7)
    whole = keyed_normals(key, positions=(0, 1, 2, 3), segment=2, shape=(2, 3))
    second_rank = keyed_normals(key, positions=(2, 3), segment=2, shape=(2, 3))
    torch.testing.assert_close(whole[2:], second_rank, rtol=0, atol=0)
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, keyed_normals(key, positions=(0, 1, 2, 3), segment=3, shape=(2, 3)))


def test_clips_that_were_never_trained_on_are_named() -> None:
    clips = rows([1, 2, 3])
    used = list(islice(teacher_steps(clips, seed=0, global_batch=1, memory_dropout=0, history_dropout=0), 2))
    (left,) = unused_clips(clips, used)
    assert left not in [clip for step in used for clip in step.clips]


def test_clips_of_one_name_in_two_datasets_are_two_clips() -> None:
    first = rows([2, 2, 2])
    second = [replace(clip, dataset="e") for clip in first]
    batches = grouped_batches([*first, *second], seed=0, name="x", global_batch=2, cap=None)
    epoch = [clip for batch in islice(batches, 3) for clip in batch]
    assert sorted(epoch, key=lambda clip: (clip.dataset, clip.clip_id)) == [*first, *second]


mixed = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([64, 96]), st.sampled_from("de")), min_size=1, max_size=15
)


def mixed_rows(clips: list[tuple[int, int, str]]) -> list[ClipRow]:
    """Clips of several lengths, sizes and datasets."""
    return [replace(row(i, n, height_px=height), dataset=dataset) for i, (n, height, dataset) in enumerate(clips)]


@settings(deadline=None, max_examples=50)
@given(clips=mixed, global_batch=st.integers(1, 5), start=st.integers(0, 60))
def test_a_run_that_goes_on_at_any_step_has_the_rest_of_the_order(
    clips: list[tuple[int, int, str]], global_batch: int, start: int
) -> None:
    def steps(start: int) -> Iterator[GlobalStep]:
        return teacher_steps(
            mixed_rows(clips), seed=0, global_batch=global_batch, memory_dropout=0.3, history_dropout=0, start=start
        )

    assert list(islice(steps(start), 5)) == list(islice(steps(0), start, start + 5))


@settings(deadline=None, max_examples=50)
@given(clips=mixed, global_batch=st.integers(1, 5), num_batches=st.integers(0, 60))
def test_no_clip_comes_twice_in_an_epoch_and_none_is_left_out(
    clips: list[tuple[int, int, str]], global_batch: int, num_batches: int
) -> None:
    # Wherever a run stops, the clips of a group were seen equally often, but for those that are left of the epoch.
    seen = Counter(dict.fromkeys(mixed_rows(clips), 0))
    for batch in islice(
        grouped_batches(mixed_rows(clips), seed=0, name="x", global_batch=global_batch, cap=None), num_batches
    ):
        seen.update(batch)
    for _, group in groupby(sorted(seen, key=group_of), key=group_of):
        counts = [seen[clip] for clip in group]
        assert max(counts) - min(counts) <= 1


def group_of(clip: ClipRow) -> tuple[int, int, int]:
    return (*clip.size_px, clip.num_segments)


@settings(deadline=None, max_examples=50)
@given(clips=mixed, num_ranks=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 9))
def test_any_number_of_ranks_trains_on_the_same_batches_and_random_numbers(
    clips: list[tuple[int, int, str]], num_ranks: int, seed: int
) -> None:
    for step in islice(
        teacher_steps(mixed_rows(clips), seed=seed, global_batch=12, memory_dropout=0.3, history_dropout=0), 3
    ):
        key = RandomKey(seed=seed, stage="teacher", step=step.step)
        whole = keyed_normals(key, positions=range(12), segment=0, shape=(3,))
        stacks = [stacks_of_rank(step, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        positions = [position for of_rank in stacks for stack in of_rank for position in stack]
        assert sorted(positions) == list(range(12))
        shares = [keyed_normals(key, positions=stack, segment=0, shape=(3,)) for of_rank in stacks for stack in of_rank]
        torch.testing.assert_close(torch.cat(shares), whole[positions], rtol=0, atol=0)
        assert len(set(backwards_per_rank(step, num_ranks))) == 1  # like segment counts: no rank waits for another


def test_the_plan_hash_follows_the_clips_whatever_their_order() -> None:
    clips = rows([1, 2])
    assert plan_hash(clips) == plan_hash(clips[::-1])
    assert plan_hash(clips) != plan_hash(clips[:1])


def test_a_dataset_without_training_clips_says_so() -> None:
    with pytest.raises(ValueError, match="holds no clip"):
        next(teacher_steps([], seed=0, global_batch=1, memory_dropout=0, history_dropout=0))
