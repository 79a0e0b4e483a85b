from collections.abc import Callable

import pytest

from preprocessing.members import StoredSample, encode_sample, view_sample
from tests.training.engine import rank_worker
from tests.training.small_dataset import make_sample
from training.batches import BrokenSampleError
from training.broken_samples import healthy_reader
from training.engine.plain import PlainEngine
from training.held_out import HeldOutClips
from training.types import ClipRow, SegmentBatch


def clips(*broken: int, skip: bool) -> HeldOutClips:
    def read(row: ClipRow) -> StoredSample:
        if row.clip_id in {f"clip{i}" for i in broken}:
            raise BrokenSampleError(f"{row.clip_id} is broken")
        return view_sample(row.clip_id, encode_sample(make_sample(row.clip_id, row.num_segments, seed=0)))

    rows = tuple(rank_worker.clip(i, 2) for i in range(3))
    return HeldOutClips(rows=rows, read=read, read_healthy=healthy_reader(read) if skip else None, max_segments=1)


def places(num_clips: int, load: Callable[[int], SegmentBatch]) -> dict[str, float]:
    """The place in the random numbers of each clip that is measured."""
    batches = [load(i) for i in range(num_clips)]
    assert all(batch.num_segments == 1 for batch in batches)
    return {batch.clip_ids[0]: float(batch.positions[0]) for batch in batches}


def measured(held_out: HeldOutClips) -> dict[str, float]:
    return dict(held_out.measure(PlainEngine(rank_worker.module("direct"), rank_worker.optimizer()), places))


@pytest.mark.parametrize("skip", [False, True])
def test_each_clip_is_measured_at_its_place(*, skip: bool) -> None:
    assert measured(clips(skip=skip)) == {"clip0": 0.0, "clip1": 1.0, "clip2": 2.0}


def test_a_broken_clip_is_left_out_and_counted_and_the_others_keep_their_noise() -> None:
    assert measured(clips(1, skip=True)) == {"clip0": 0.0, "clip2": 2.0, "val_broken_samples": 1.0}


def test_without_a_clip_that_can_be_read_there_are_no_figures() -> None:
    assert measured(clips(0, 1, 2, skip=True)) == {"val_broken_samples": 3.0}


def test_a_broken_clip_that_may_not_be_left_out_is_an_error() -> None:
    with pytest.raises(BrokenSampleError, match="clip1"):
        measured(clips(1, skip=False))
