"""The training loop: one global step after another, the same on every rank.

It knows neither Ray nor files: an `Engine` computes, and callbacks report, validate and save.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from training.config import FlowConfig, OptimizerConfig
from training.engine.base import Engine, learning_rate_at
from training.model.rope import RopeMode
from training.objectives.base import Objective, SegmentTask
from training.objectives.direct_forcing import direct_forcing
from training.objectives.teacher_forcing import teacher_forcing
from training.order import backwards_per_rank
from training.types import GlobalStep, RandomKey, SegmentBatch, SegmentContext

VALIDATION = "validation"
"""Stage name in the keys of the validation's random numbers: the same in all stages, so that their losses compare."""

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What a stage trains on and how long.

    Attributes:
        name: ``teacher`` or ``direct``.
        num_steps: Optimizer steps of the whole stage.
        save_every: Steps between checkpoints.
        validate_every: Steps between validations.
    """

    name: str
    objective: Objective
    seed: int
    num_steps: int
    flow: FlowConfig
    rope_mode: RopeMode
    optimizer: OptimizerConfig
    save_every: int
    validate_every: int


@dataclass(frozen=True, kw_only=True)
class LoopCallbacks:
    """What the loop hands out; every rank calls each of them at the same steps.

    Attributes:
        report: (optimizer steps done, metrics), after every step.
        validate: Metrics of the held-out clips.
        save: (optimizer steps done), writes a checkpoint.
    """

    report: Callable[[int, Metrics], None]
    validate: Callable[[], Metrics]
    save: Callable[[int], None]


def train(
    engine: Engine,
    settings: StageSettings,
    work: Iterable[tuple[GlobalStep, Sequence[SegmentBatch]]],
    callbacks: LoopCallbacks,
) -> None:
    """Run the steps that are left of a stage.

    Args:
        engine: Holds the model.
        settings: Of the stage.
        work: Each step that is left, with this rank's share of its clips.
        callbacks: What happens with the results.
    """
    for step, batches in work:
        if step.step == 0:
            callbacks.report(0, callbacks.validate())
        learning_rate = learning_rate_at(step.step, settings.num_steps, settings.optimizer)
        loss = train_step(engine, settings, step, batches)
        stats = engine.step(learning_rate)
        done = step.step + 1
        metrics = {"loss": loss, "learning_rate": learning_rate, "num_losses": float(step.num_losses)}
        metrics |= {} if stats.grad_norm is None else {"grad_norm": stats.grad_norm}
        metrics |= callbacks.validate() if _is_due(done, settings.validate_every, settings.num_steps) else {}
        callbacks.report(done, metrics)
        if _is_due(done, settings.save_every, settings.num_steps):
            callbacks.save(done)


def _is_due(done: int, every: int, num_steps: int) -> bool:
    return done % every == 0 or done == num_steps


def train_step(engine: Engine, settings: StageSettings, step: GlobalStep, batches: Sequence[SegmentBatch]) -> float:
    """Accumulate the gradient of the mean loss over all segments of the global batch; returns that mean."""
    with engine.accumulate(backwards_per_rank(step, engine.num_ranks)):
        shares = [_accumulate(engine, settings, step, batch) for batch in batches]
    (loss,) = engine.sum_over_ranks([sum(shares)])
    return loss


def _accumulate(engine: Engine, settings: StageSettings, step: GlobalStep, batch: SegmentBatch) -> float:
    """This batch's share of the step's loss and gradient: its segments one after another (paper, 3.2)."""
    weight = len(batch.clip_ids) / step.num_losses
    context: SegmentContext | None = None
    share = torch.zeros(())
    for segment_index in _segments(step, batch):
        task = SegmentTask(
            batch=batch,
            segment_index=segment_index,
            context=context,
            use_memory=step.use_memory,
            use_history=True,
            key=RandomKey(seed=settings.seed, stage=settings.name, step=step.step),
            flow=settings.flow,
            rope_mode=settings.rope_mode,
        )
        output = engine.forward(settings.objective, task)
        engine.backward(output.loss * weight)
        context = output.next_context
        share = share + output.loss.detach().to(share.device) * weight
    return float(share)


def _segments(step: GlobalStep, batch: SegmentBatch) -> Iterable[int]:
    return range(batch.num_segments) if step.segment_index is None else (step.segment_index,)


def validate(
    engine: Engine, settings: StageSettings, num_clips: int, load: Callable[[int], SegmentBatch]
) -> dict[str, float]:
    """Losses on held-out clips; times and noise are the same at every call and in every stage.

    ``val_loss`` knows the true past. ``val_loss_without_history`` is of the same model that knows only the start
    image, prompt and position: history is zeros, at 1x too, and there is no memory. ``val_loss_direct`` has a past of
    one-step approximations (paper, eq. 7), as Direct Forcing trains it.

    Args:
        engine: Holds the model.
        settings: Of the stage.
        num_clips: Held-out clips, at least one; the ranks share them unless their forwards must match.
        load: Loads one of them, as a batch of its own at the position of its number.
    """
    share = slice(None) if engine.forwards_must_match else slice(engine.rank, None, engine.num_ranks)
    with torch.no_grad():
        rows = [_validate_clip(engine, settings, load(i)) for i in range(num_clips)[share]]
    sums = engine.sum_over_ranks([sum(column) for column in zip(*rows, strict=True)] if rows else [0.0] * 4)
    names = ("val_loss", "val_loss_without_history", "val_loss_direct")
    return {name: total / sums[-1] for name, total in zip(names, sums, strict=False)}


def _validate_clip(engine: Engine, settings: StageSettings, batch: SegmentBatch) -> tuple[float, float, float, float]:
    """Sums over the segments of a clip of the three losses, and their number."""
    true, without, direct = 0.0, 0.0, 0.0
    context: SegmentContext | None = None
    for n in range(batch.num_segments):
        task = _validation_task(settings, batch, n, context)
        bare = replace(task, use_memory=False, use_history=False)
        true += float(engine.forward(teacher_forcing, task).loss)
        without += float(engine.forward(teacher_forcing, bare).loss)
        output = engine.forward(direct_forcing, task)
        direct, context = direct + float(output.loss), output.next_context
    return true, without, direct, float(batch.num_segments)


def _validation_task(
    settings: StageSettings, batch: SegmentBatch, segment_index: int, context: SegmentContext | None
) -> SegmentTask:
    return SegmentTask(
        batch=batch,
        segment_index=segment_index,
        context=context,
        use_memory=True,
        use_history=True,
        key=RandomKey(seed=settings.seed, stage=VALIDATION, step=0),
        flow=settings.flow,
        rope_mode=settings.rope_mode,
    )
