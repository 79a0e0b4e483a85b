"""The training loop: one global step after another, the same on every rank.

It knows neither Ray nor files: an `Engine` computes, and callbacks report, validate and save.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from training.broken_samples import without_broken
from training.config import FlowConfig, OptimizerConfig
from training.engine.base import Engine, LearningRates, StepStats, learning_rates_at
from training.loss_table import LossTable
from training.model.rope import RopeMode
from training.nonfinite import ADVICE, NonFiniteError, refuse_gradient, refuse_loss
from training.objectives.base import Objective, SegmentTask
from training.objectives.direct_forcing import direct_forcing
from training.objectives.teacher_forcing import teacher_forcing
from training.order import backwards_per_rank, stacks_per_rank
from training.speed import StepClock
from training.types import GlobalStep, RandomKey, SegmentBatch, SegmentContext

VAL_LOSSES = ("val_loss", "val_loss_without_history", "val_loss_direct")
"""What is measured of held-out clips, see `validate`."""

VALIDATION = "validation"
"""Stage name in the keys of the validation's random numbers: the same in all stages, so that their losses compare."""

Metrics = Mapping[str, float]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What a stage trains on and how long.

    Attributes:
        name: ``teacher``, ``direct`` or ``student``.
        objective: Of steps that train all segments of their clips; a step of one segment is teacher forcing.
        teacher: Of those.
        num_steps: Global batches of the whole stage.
        memory_warmup_steps: Of these, first ones from which only the memory learns.
        update: The optimizer steps after all segments of a global batch, or after each.
        save_every: Steps between checkpoints.
        validate_every: Steps between validations.
        skip_nonfinite: Leave out steps whose loss or gradient is not finite.
        skip_broken: Some clips may be missing from the batches of a step, or have a stand-in there.
        video_every: Steps between videos; None makes none.
    """

    name: str
    objective: Objective
    seed: int
    num_steps: int
    memory_warmup_steps: int
    flow: FlowConfig
    rope_mode: RopeMode
    optimizer: OptimizerConfig
    save_every: int
    validate_every: int
    skip_nonfinite: bool
    skip_broken: bool
    teacher: Objective = teacher_forcing
    update: Literal["clip", "segment"] = "clip"
    video_every: int | None = None

    def objective_of(self, step: GlobalStep) -> Objective:
        """What a step trains."""
        return self.objective if step.segment_index is None else self.teacher


@dataclass(frozen=True, kw_only=True)
class LoopCallbacks:
    """What the loop hands out; every rank calls each of them at the same steps.

    Attributes:
        report: (optimizer steps done, metrics), after every step.
        validate: Metrics of the held-out clips.
        before: What else is measured, before the first step alone.
        measure: (step, seconds that it waited for its batches, seconds that it computed) to metrics.
        updated: (optimizer steps done), after a step that changed the weights.
        make_video: (optimizer steps done), shows what the model makes now; before the checkpoint of the same step, so that
            a run that goes on from there has the video.
        save: (optimizer steps done, metrics of the last), writes a checkpoint.
    """

    report: Callable[[int, Metrics], None]
    validate: Callable[[], Metrics]
    before: Callable[[], Metrics]
    measure: Callable[[GlobalStep, float, float], Metrics]
    updated: Callable[[int], None]
    make_video: Callable[[int], None]
    save: Callable[[int, Metrics], None]


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

    Raises:
        NonFiniteError: If a loss or gradient is not finite, and the settings don't leave such steps out.
    """
    clock = StepClock()
    for planned, batches in clock.waiting(work):
        if planned.step == 0:
            callbacks.report(0, {**callbacks.validate(), **callbacks.before()})
            _make_video_if_due(0, settings, callbacks)
        done = planned.step + 1
        with clock.computing():
            step = without_broken(engine, planned, batches) if settings.skip_broken else planned
            metrics = {**_update(engine, settings, step, batches, callbacks.updated), **_broken_samples(step)}
        metrics |= callbacks.measure(step, clock.waited_s, clock.computed_s)
        metrics |= callbacks.validate() if _is_due(done, settings.validate_every, settings.num_steps) else {}
        callbacks.report(done, metrics)
        _make_video_if_due(done, settings, callbacks)
        if _is_due(done, settings.save_every, settings.num_steps):
            callbacks.save(done, metrics)


def _update(
    engine: Engine,
    settings: StageSettings,
    step: GlobalStep,
    batches: Sequence[SegmentBatch],
    updated: Callable[[int], None],
) -> Metrics:
    """Learn from a global step; its metrics, or only that it, or what followed some of its segments, was left out."""
    if not step.healthy:
        logger.warning("no clip of step %d can be read; the step is left out", step.step + 1)
        return {"skipped": 1.0}
    rates = learning_rates_at(
        step.step, settings.num_steps, settings.optimizer, memory_warmup_steps=settings.memory_warmup_steps
    )
    table, num_updates = LossTable(max(step.num_segments)), engine.num_updates
    try:
        loss, stats = update_weights(engine, settings, step, batches, rates, table)
    except NonFiniteError as error:
        if not settings.skip_nonfinite:
            raise NonFiniteError(f"{error}: {ADVICE}") from error
        engine.discard()
        num_applied = engine.num_updates - num_updates
        logger.warning("%s; %s", error, _what_is_left_out(num_applied))
        if num_applied:
            updated(step.step + 1)
        return {"skipped": 1.0}
    updated(step.step + 1)
    metrics = {
        "loss": loss,
        "num_losses": float(step.num_losses),
        **rates.metrics(),
        **table.means(engine),
    }
    return metrics if stats.grad_norm is None else {**metrics, "grad_norm": stats.grad_norm}


def _what_is_left_out(num_applied: int) -> str:
    """An optimizer step after each segment is not taken back by what comes after it."""
    if not num_applied:
        return "the step is left out"
    return f"the first {num_applied} of its segments had changed the weights already, and the others are left out"


def _broken_samples(step: GlobalStep) -> Metrics:
    return {"broken_samples": float(len(step.broken))} if step.broken else {}


def _is_due(done: int, every: int, num_steps: int) -> bool:
    return done % every == 0 or done == num_steps


def _make_video_if_due(done: int, settings: StageSettings, callbacks: LoopCallbacks) -> None:
    if settings.video_every is not None and _is_due(done, settings.video_every, settings.num_steps):
        callbacks.make_video(done)


def update_weights(
    engine: Engine,
    settings: StageSettings,
    step: GlobalStep,
    batches: Sequence[SegmentBatch],
    rates: LearningRates,
    table: LossTable,
) -> tuple[float, StepStats]:
    """Learn from a global step; returns the mean loss over its segments, and what the last optimizer step says.

    This rank's losses go into the table.

    Raises:
        NonFiniteError: If a loss or gradient is not finite.
    """
    if settings.update == "segment" and step.segment_index is None:
        return step_by_segment(engine, settings, step, batches, rates, table)
    loss = train_step(engine, settings, step, batches, table)
    stats = engine.step(rates)
    refuse_gradient(stats, step)
    return loss, stats


def train_step(
    engine: Engine, settings: StageSettings, step: GlobalStep, batches: Sequence[SegmentBatch], table: LossTable
) -> float:
    """Accumulate the gradient of the mean loss over all segments of the global batch (paper, 3.2); returns it.

    Raises:
        NonFiniteError: If the mean is not finite, on all ranks, naming the clips to blame.
    """
    with engine.accumulate(backwards_per_rank(step, engine.num_ranks)):
        shares = [float(sum(_backward(engine, settings, step, batch, step.num_losses, table))) for batch in batches]
    (loss,) = engine.sum_over_ranks([sum(shares)])
    refuse_loss(engine, loss, step, table.not_finite)
    return loss


def step_by_segment(
    engine: Engine,
    settings: StageSettings,
    step: GlobalStep,
    batches: Sequence[SegmentBatch],
    rates: LearningRates,
    table: LossTable,
) -> tuple[float, StepStats]:
    """An optimizer step after each segment, on the mean loss of that segment: what the paper advises against (3.2).

    Raises:
        NonFiniteError: If a loss or gradient is not finite; the segments before it have changed the weights.
    """
    num_segments = step.num_segments[0]
    assert set(step.num_segments) == {num_segments}, "a global batch holds clips of one length"
    walks = [_backward(engine, settings, step, batch, len(step.healthy), table) for batch in batches]
    total, stats = 0.0, StepStats(grad_norm=None, applied=False)
    for _ in range(num_segments):
        with engine.accumulate(stacks_per_rank(step, engine.num_ranks)):
            share = sum(float(next(walk)) for walk in walks)
        (loss,) = engine.sum_over_ranks([share])
        refuse_loss(engine, loss, step, table.not_finite)
        stats = engine.step(rates)
        refuse_gradient(stats, step)
        total += loss
    return total / num_segments, stats


def _backward(
    engine: Engine, settings: StageSettings, step: GlobalStep, batch: SegmentBatch, num_losses: int, table: LossTable
) -> Iterator[Tensor]:
    """A batch's segments one after another, each with its backward pass; yields its share in the mean of the losses.

    A stand-in runs the same passes, and its share is 0.
    """
    weight = len(batch.clip_ids) / num_losses
    context: SegmentContext | None = None
    for segment_index in _segments(step, batch):
        task = SegmentTask(
            batch=batch,
            segment_index=segment_index,
            context=context,
            use_memory=step.use_memory,
            use_history=step.use_history,
            key=RandomKey(seed=settings.seed, stage=settings.name, step=step.step),
            flow=settings.flow,
            rope_mode=settings.rope_mode,
        )
        output = engine.forward(settings.objective_of(step), task)
        engine.backward(output.loss * weight)
        context = output.next_context
        assert output.clip_losses is not None, "an objective that trains says what its loss is the mean of"
        if not batch.is_stand_in:
            table.add(segment_index, batch.positions, output.clip_losses)
        yield output.loss.detach() * weight


def _segments(step: GlobalStep, batch: SegmentBatch) -> Iterable[int]:
    return range(batch.num_segments) if step.segment_index is None else (step.segment_index,)


def validate(
    engine: Engine, settings: StageSettings, num_clips: int, load: Callable[[int], SegmentBatch]
) -> dict[str, float]:
    """Losses on held-out clips; times and noise are the same at every call and in every stage.

    ``val_loss`` knows the true past. ``val_loss_without_history`` is of the same model that knows only the start
    image, prompt and position: history is zeros, at 1x too, and there is no memory. ``val_loss_direct`` has a past of
    one-step approximations (paper, eq. 7), as Direct Forcing trains it. A clip whose loss is not finite makes the mean so, and
    a warning names it: the mean of the others would be one of other clips than before.

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
    return {name: total / sums[-1] for name, total in zip(VAL_LOSSES, sums, strict=False)}


def _validate_clip(engine: Engine, settings: StageSettings, batch: SegmentBatch) -> tuple[float, float, float, float]:
    """Sums over the segments of a clip of the three losses, and their number."""
    true, without, direct = 0.0, 0.0, 0.0
    context: SegmentContext | None = None
    for n in range(batch.num_segments):
        task = validation_task(settings, batch, n, context)
        bare = replace(task, use_memory=False, use_history=False)
        true += float(engine.forward(teacher_forcing, task).loss)
        without += float(engine.forward(teacher_forcing, bare).loss)
        output = engine.forward(direct_forcing, task)
        direct, context = direct + float(output.loss), output.next_context
    _warn_if_not_finite(batch, (true, without, direct))
    return true, without, direct, float(batch.num_segments)


def _warn_if_not_finite(batch: SegmentBatch, losses: Sequence[float]) -> None:
    names = [name for name, loss in zip(VAL_LOSSES, losses, strict=True) if not math.isfinite(loss)]
    if names:
        logger.warning(
            "held-out clip %s has no finite %s, so the mean over all held-out clips is none either, and such a checkpoint"
            " is never the best: look at this clip or, if it is all of them, at the learning rate",
            ", ".join(batch.clip_ids), ", ".join(names),
        )  # fmt: skip


def validation_task(
    settings: StageSettings, batch: SegmentBatch, segment_index: int, context: SegmentContext | None
) -> SegmentTask:
    """A segment of a held-out clip; all times count alike, so that losses compare."""
    return SegmentTask(
        batch=batch,
        segment_index=segment_index,
        context=context,
        use_memory=True,
        use_history=True,
        key=RandomKey(seed=settings.seed, stage=VALIDATION, step=0),
        flow=settings.flow.model_copy(update={"weighting": "none"}),
        rope_mode=settings.rope_mode,
    )
