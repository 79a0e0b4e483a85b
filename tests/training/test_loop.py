import pytest
import torch

from tests.training.engine import rank_worker
from training.engine.plain import PlainEngine
from training.loop import StageSettings, train_step, update_weights
from training.loss_table import LossTable
from training.objectives.base import ObjectiveModule, SegmentTask
from training.objectives.direct_forcing import direct_forcing
from training.types import GlobalStep, RandomKey

LEARNING_RATE = rank_worker.RATES.backbone


def settings(update: str) -> StageSettings:
    values = {**vars(rank_worker.settings("direct")), "update": update}
    return StageSettings(**values)


def one_clip() -> GlobalStep:
    return GlobalStep(step=0, clips=(rank_worker.clip(0, 3),), num_segments=(3,), segment_index=None, use_memory=True)


def head(module: ObjectiveModule) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters() if parameter.requires_grad]


def trained(update: str) -> tuple[float, list[torch.Tensor]]:
    module = rank_worker.module("direct")
    engine = PlainEngine(module, rank_worker.optimizer())
    batches = rank_worker.batches(one_clip(), 0, 1)
    loss, _ = update_weights(engine, settings(update), one_clip(), batches, rank_worker.RATES, LossTable(3))
    return loss, head(module)


def test_a_step_per_segment_is_adamw_after_each_backward_pass() -> None:
    module = rank_worker.module("direct")
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    (batch,), context, losses = rank_worker.batches(one_clip(), 0, 1), None, []
    for n in range(3):
        task = SegmentTask(
            batch=batch, segment_index=n, context=context, use_memory=True, use_history=True,
            key=RandomKey(seed=3, stage="direct", step=0), flow=settings("segment").flow, rope_mode="relative_start",
        )  # fmt: skip
        output = direct_forcing(module.model, task)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
        context = output.next_context

    loss, weights = trained("segment")
    assert loss == pytest.approx(sum(losses) / 3)
    for ours, expected in zip(weights, head(module), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_a_step_per_clip_is_one_step_however_many_segments() -> None:
    _, by_clip = trained("clip")
    _, by_segment = trained("segment")
    before = head(rank_worker.module("direct"))
    moved = [
        max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True)) for after in (by_clip, by_segment)
    ]
    assert moved[0] == pytest.approx(LEARNING_RATE, rel=0.01)  # the first step of AdamW is the learning rate
    assert moved[1] > 2 * LEARNING_RATE


def test_a_step_of_one_segment_is_taken_whole_whatever_the_update() -> None:
    step = GlobalStep(step=0, clips=(rank_worker.clip(0, 3),), num_segments=(3,), segment_index=2, use_memory=True)
    batches = rank_worker.batches(step, 0, 1)
    module = rank_worker.module("direct")
    engine = PlainEngine(module, rank_worker.optimizer())
    expected = train_step(engine, settings("clip"), step, batches, LossTable(3))
    loss, _ = update_weights(engine, settings("segment"), step, batches, rank_worker.RATES, LossTable(3))
    assert loss == expected
