"""What cannot be read is left out: of the gradient, of the mean, and of nothing else."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from preprocessing.members import StoredSample, encode_sample, view_sample
from preprocessing.shards import index_key, tar_key
from tests.training.engine import rank_worker
from tests.training.small_dataset import CODEC, SHARD, damage, make_dataset, make_sample
from training.batches import BrokenSampleError, clip_batch, current_versions, open_data, sample_reader
from training.broken_samples import HealthyReader, healthy_batches, healthy_reader, without_broken
from training.engine.plain import PlainEngine
from training.loop import StageSettings, train_step, update_weights
from training.loss_table import LossTable
from training.objectives.base import ObjectiveModule, SegmentTask
from training.types import ClipRow, GlobalStep, RandomKey

CPU = torch.device("cpu")
SETTINGS = rank_worker.settings("direct")
NUM_SEGMENTS = (2, 2, 1)


def step_of_three() -> GlobalStep:
    """Clips of two lengths, so that one of them is a batch of its own."""
    clips = tuple(rank_worker.clip(i, n) for i, n in enumerate(NUM_SEGMENTS))
    return GlobalStep(step=0, clips=clips, num_segments=NUM_SEGMENTS, segment_index=None, use_memory=True)


def stored(row: ClipRow) -> StoredSample:
    return view_sample(
        row.clip_id, encode_sample(make_sample(row.clip_id, row.num_segments, seed=int(row.clip_id[-1])))
    )


def reader(*broken: int) -> HealthyReader:
    def read(row: ClipRow) -> StoredSample:
        if row.clip_id in {f"clip{i}" for i in broken}:
            raise BrokenSampleError(f"{row.clip_id} is broken")
        return stored(row)

    return healthy_reader(read)


def segment_losses(module: ObjectiveModule, row: ClipRow, position: int) -> Iterator[Tensor]:
    """The loss of each segment of one clip, without an engine."""
    batch = clip_batch([stored(row)], (position,), num_segments=row.num_segments, device=CPU)
    context = None
    for segment in range(row.num_segments):
        task = SegmentTask(
            batch=batch, segment_index=segment, context=context, use_memory=True, use_history=True,
            key=RandomKey(seed=SETTINGS.seed, stage=SETTINGS.name, step=0), flow=SETTINGS.flow,
            rope_mode=SETTINGS.rope_mode,
        )  # fmt: skip
        output = module(SETTINGS.objective, task)[1]
        context = output.next_context
        yield output.loss


@pytest.mark.parametrize("broken", [0, 2])
def test_a_step_learns_the_mean_over_the_segments_of_its_healthy_clips(broken: int) -> None:
    module = rank_worker.module("direct")
    engine, planned = PlainEngine(module, rank_worker.optimizer()), step_of_three()
    batches = healthy_batches(planned, reader(broken), CODEC, rank=0, num_ranks=1, device=CPU)
    step = without_broken(engine, planned, batches)
    loss = train_step(engine, SETTINGS, step, batches, LossTable(2))
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = [parameter.grad.clone() for parameter in trained if parameter.grad is not None]

    healthy = [i for i in range(3) if i != broken]
    losses = torch.stack([loss for i in healthy for loss in segment_losses(module, planned.clips[i], i)])
    assert step.num_losses == len(losses) == 5 - NUM_SEGMENTS[broken]
    assert loss == pytest.approx(losses.mean().item())
    for ours, expected in zip(gradients, torch.autograd.grad(losses.mean(), trained), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_step_after_each_segment_leaves_broken_clips_out_as_well() -> None:
    clips = tuple(rank_worker.clip(i, 2) for i in range(3))
    planned = GlobalStep(step=0, clips=clips, num_segments=(2, 2, 2), segment_index=None, use_memory=True)
    by_segment = StageSettings(**{**vars(SETTINGS), "update": "segment"})

    def loss_of(step: GlobalStep, *broken: int) -> float:
        engine = PlainEngine(rank_worker.module("direct"), rank_worker.optimizer())
        batches = healthy_batches(step, reader(*broken), CODEC, rank=0, num_ranks=1, device=CPU)
        step = without_broken(engine, step, batches)
        return update_weights(engine, by_segment, step, batches, rank_worker.RATES, LossTable(2))[0]

    first_two = GlobalStep(step=0, clips=clips[:2], num_segments=(2, 2), segment_index=None, use_memory=True)
    assert loss_of(planned, 2) == pytest.approx(loss_of(first_two))


def test_a_stand_in_has_the_shape_of_a_clip_and_is_in_no_loss() -> None:
    engine = PlainEngine(rank_worker.module("direct"), rank_worker.optimizer())
    whole, without = (
        healthy_batches(step_of_three(), reader(*broken), CODEC, rank=0, num_ranks=1, device=CPU)
        for broken in ((), (0, 1))
    )
    assert [batch.is_stand_in for batch in without] == [True, False]
    assert without[0].latents_BCTHW.shape[1:] == whole[0].latents_BCTHW.shape[1:]
    assert repr(without[0].condition) == repr(whole[1].condition)
    table, step = LossTable(2), without_broken(engine, step_of_three(), without)
    loss = train_step(engine, SETTINGS, step, without, table)
    assert step.healthy == (2,)
    assert table.means(engine)["loss_segment0"] == pytest.approx(loss)
    assert "loss_segment1" not in table.means(engine)


def test_without_broken_samples_batches_are_those_of_the_plan() -> None:
    engine = PlainEngine(rank_worker.module("direct"), rank_worker.optimizer())
    batches = healthy_batches(step_of_three(), reader(), CODEC, rank=0, num_ranks=1, device=CPU)
    assert [batch.positions for batch in batches] == [(0, 1), (2,)]
    assert without_broken(engine, step_of_three(), batches) == step_of_three()


def test_a_broken_clip_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    read = reader(0)
    with caplog.at_level(logging.WARNING):
        assert [read(rank_worker.clip(i, 1)) is None for i in (0, 1, 0)] == [True, False, True]
    assert [record.getMessage() for record in caplog.records] == ["clip clip0 of d is left out: clip0 is broken"]


def flip_a_bit(folder: Path) -> None:
    damage(folder, "clip00")


def cut_short(folder: Path) -> None:
    path = folder / tar_key(SHARD)
    path.write_bytes(path.read_bytes()[:2000])


def flip_a_bit_of_the_index(folder: Path) -> None:
    path = folder / index_key(SHARD)
    data, (*_, xxh3) = bytearray(path.read_bytes()), columns(path)
    data[xxh3.data_page_offset + xxh3.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def columns(path: Path) -> list[Any]:
    row_group = pq.ParquetFile(path).metadata.row_group(0)
    return [row_group.column(i) for i in range(row_group.num_columns)]


def empty_the_index(folder: Path) -> None:
    (folder / index_key(SHARD)).write_bytes(b"")


def remove_the_tar(folder: Path) -> None:
    (folder / tar_key(SHARD)).unlink()


def remove_the_index(folder: Path) -> None:
    (folder / index_key(SHARD)).unlink()


@pytest.mark.parametrize(
    "harm",
    [flip_a_bit, cut_short, flip_a_bit_of_the_index, empty_the_index, remove_the_tar, remove_the_index],
)
def test_a_sample_that_cannot_be_read_is_an_error_with_its_name(harm: Callable[[Path], None], tmp_path: Path) -> None:
    folder = make_dataset(tmp_path)
    row = open_data(current_versions([str(folder)])).train[0]
    harm(folder)
    with pytest.raises(BrokenSampleError, match=r"clip clip00 of .* cannot be read: .*--set train\.skip_broken=true"):
        sample_reader()(row)
