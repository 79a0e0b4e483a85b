"""What is not finite must not reach the weights: found on all ranks alike, and told with its step and clips."""

import math
from collections.abc import Collection, Sequence

from training.engine.base import Engine, StepStats
from training.types import ClipRow, GlobalStep

ADVICE = (
    "it was not applied, and checkpoints from before it stay; lower the learning rate, look at these clips, or leave such steps"
    " out by --set train.skip_nonfinite=true"
)
"""What to do about it, where it ends the run."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite, and was not applied."""


def refuse_loss(engine: Engine, loss: float, step: GlobalStep, bad: Collection[int]) -> None:
    """Refuse a mean loss that is not finite, on all ranks.

    Args:
        engine: To ask the other ranks.
        loss: The mean, the same on every rank.
        step: What was trained on.
        bad: Positions of this rank's clips whose own loss is not finite.

    Raises:
        NonFiniteError: If it is not, naming the clips to blame.
    """
    if not math.isfinite(loss):
        raise NonFiniteError(_message("loss", loss, step, _to_blame(engine, step, bad)))


def refuse_gradient(stats: StepStats, step: GlobalStep) -> None:
    """Refuse a gradient that the engine did not apply, on all ranks.

    Raises:
        NonFiniteError: If it did not, naming the clips of the step.
    """
    if not stats.applied:
        raise NonFiniteError(_message("gradient", stats.grad_norm, step, _healthy(step)))


def _message(what: str, value: float | None, step: GlobalStep, clips: Sequence[ClipRow]) -> str:
    names = ", ".join(dict.fromkeys(clip.clip_id for clip in clips))
    return f"the {what} of step {step.step + 1} is {'not finite' if value is None else value} (clips {names})"


def _to_blame(engine: Engine, step: GlobalStep, bad: Collection[int]) -> list[ClipRow]:
    """The clips of all ranks whose own loss is not finite; all of them where only the sum of their losses is not."""
    counts = engine.sum_over_ranks([float(position in bad) for position in range(len(step.clips))])
    return [clip for clip, count in zip(step.clips, counts, strict=True) if count] or _healthy(step)


def _healthy(step: GlobalStep) -> list[ClipRow]:
    return [step.clips[position] for position in step.healthy]
