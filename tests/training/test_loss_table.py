import pytest
import torch

from tests.training.engine import rank_worker
from training.engine.plain import PlainEngine
from training.loop import update_weights
from training.loss_table import LossTable
from training.types import ClipLosses, GlobalStep


def plain_engine() -> PlainEngine:
    return PlainEngine(rank_worker.module("direct"), rank_worker.optimizer())


def test_losses_are_averaged_by_time_and_by_segment() -> None:
    table = LossTable(3)
    table.add(0, (0, 1), ClipLosses(t=torch.tensor([0.1, 0.5]), loss=torch.tensor([1.0, 2.0])))
    table.add(2, (2, 3), ClipLosses(t=torch.tensor([0.19, 1.0]), loss=torch.tensor([3.0, 8.0])))
    assert table.means(plain_engine()) == {
        "loss_t0-0.2": 2.0, "loss_t0.4-0.6": 2.0, "loss_t0.8-1": 8.0, "loss_segment0": 1.5, "loss_segment2": 5.5,
    }  # fmt: skip


def test_the_losses_by_segment_add_up_to_the_loss_of_the_step() -> None:
    step = GlobalStep(step=0, clips=(rank_worker.clip(0, 3),), num_segments=(3,), segment_index=None, use_memory=True)
    engine, table = plain_engine(), LossTable(3)
    loss, _ = update_weights(
        engine, rank_worker.settings("direct"), step, rank_worker.batches(step, 0, 1), rank_worker.RATES, table
    )
    means = table.means(engine)
    assert loss == pytest.approx(sum(means[f"loss_segment{n}"] for n in range(3)) / 3)
