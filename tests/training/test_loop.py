import logging
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.training.engine import rank_worker
from training.engine.plain import PlainEngine
from training.loop import LoopCallbacks, Metrics, StageSettings, train, train_step, update_weights, validate
from training.loss_table import LossTable
from training.nonfinite import NonFiniteError
from training.objectives.base import ObjectiveModule, SegmentTask
from training.objectives.direct_forcing import direct_forcing
from training.types import GlobalStep, RandomKey, SegmentBatch

LEARNING_RATE = rank_worker.RATES.backbone


def settings(update: str, **changes: object) -> StageSettings:
    values = {**vars(rank_worker.settings("direct")), "update": update, **changes}
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


def teacher_loss(step: GlobalStep, batch: SegmentBatch) -> tuple[float, dict[str, Tensor]]:
    """The loss of a teacher step, and the past latents that its backbone was given."""
    module, seen = rank_worker.module("teacher"), {}

    def note(_module: nn.Module, _arguments: object, options: dict[str, Tensor]) -> None:
        seen.update({name: value for name, value in options.items() if name.startswith("latents_")})

    module.model.register_forward_pre_hook(note, with_kwargs=True)
    engine = PlainEngine(module, rank_worker.optimizer())
    return train_step(engine, rank_worker.settings("teacher"), step, [batch], LossTable(3)), seen


@pytest.mark.parametrize("use_memory", [True, False])
def test_of_the_past_a_step_of_history_dropout_knows_the_start_image_and_psi_alone(use_memory: bool) -> None:
    shown = GlobalStep(
        step=0, clips=(rank_worker.clip(0, 3),), num_segments=(3,), segment_index=2, use_memory=use_memory
    )
    (batch,) = rank_worker.batches(shown, 0, 1)
    latents = batch.latents_BCTHW.clone()
    latents[:, :, 1:19] += 1.0  # segments 0 and 1
    other = replace(batch, latents_BCTHW=latents)
    withheld = replace(shown, use_history=False)
    loss, seen = teacher_loss(withheld, batch)
    assert torch.equal(seen["latents_clean"][:, :, :1], batch.start_latent_BCTHW)
    assert not seen["latents_clean"][:, :, 1:].any()
    assert not seen["latents_history_2x"].any()
    assert not seen["latents_history_4x"].any()
    assert (teacher_loss(withheld, other)[0] != loss) == use_memory
    assert teacher_loss(shown, other)[0] != teacher_loss(shown, batch)[0] != loss


def spoiled_from(step: GlobalStep, segment: int) -> list[SegmentBatch]:
    """The batches of a step, which are NaN from a segment on."""
    (batch,) = rank_worker.batches(step, 0, 1)
    latents = batch.latents_BCTHW.clone()
    latents[:, :, 1 + 9 * segment :] = float("nan")
    return [replace(batch, latents_BCTHW=latents)]


def trained_on(module: ObjectiveModule, batches: list[SegmentBatch], used: StageSettings) -> tuple[Metrics, list[int]]:
    """The metrics of one step of the loop, and after which steps it said that the weights have changed."""
    metrics: dict[int, Metrics] = {}
    updated: list[int] = []
    callbacks = LoopCallbacks(
        report=metrics.__setitem__, validate=dict, before=dict, measure=lambda *_: {}, updated=updated.append,
        make_video=lambda _: None, save=lambda *_: None,
    )  # fmt: skip
    train(PlainEngine(module, rank_worker.optimizer()), used, [(one_clip(), batches)], callbacks)
    return metrics[1], updated


@pytest.mark.parametrize(
    ("update", "segment", "num_applied"), [("clip", 2, 0), ("segment", 0, 0), ("segment", 1, 1), ("segment", 2, 2)]
)
def test_of_a_step_that_is_left_out_the_segments_that_were_applied_count_as_an_update_and_are_told(
    update: str, segment: int, num_applied: int, caplog: pytest.LogCaptureFixture
) -> None:
    module = rank_worker.module("direct")
    with caplog.at_level(logging.WARNING):
        metrics, updated = trained_on(module, spoiled_from(one_clip(), segment), settings(update, skip_nonfinite=True))
    before = head(rank_worker.module("direct"))
    moved = any(not torch.equal(ours, old) for ours, old in zip(head(module), before, strict=True))
    assert (metrics["skipped"], moved, updated) == (1.0, bool(num_applied), [1] if num_applied else [])
    said = f"the first {num_applied} of its segments had changed the weights" if num_applied else "the step is left out"
    assert f"loss of step 1 is nan (clips clip0); {said}" in caplog.text


def test_a_loss_that_is_not_finite_ends_the_run_with_what_to_do() -> None:
    with pytest.raises(NonFiniteError, match=r"loss of step 1 is nan \(clips clip0\): .*train.skip_nonfinite=true"):
        trained_on(rank_worker.module("direct"), spoiled_from(one_clip(), 1), settings("segment"))


def test_a_held_out_clip_without_a_finite_loss_is_named_and_makes_the_mean_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = PlainEngine(rank_worker.module("direct"), rank_worker.optimizer())
    with caplog.at_level(logging.WARNING):
        whole = validate(engine, settings("clip"), 1, lambda _: rank_worker.batches(one_clip(), 0, 1)[0])
        assert not caplog.records
        losses = validate(engine, settings("clip"), 1, lambda _: spoiled_from(one_clip(), 2)[0])
    assert whole.keys() == losses.keys()
    assert all(math.isfinite(loss) for loss in whole.values())
    assert all(math.isnan(loss) for loss in losses.values())
    assert "held-out clip clip0 has no finite val_loss, val_loss_without_history, val_loss_direct" in caplog.text
