"""What the training loop needs from an engine, and what all engines share."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from training.config import OptimizerConfig
from training.objectives.base import Objective, SegmentTask
from training.types import StepOutput

HEAD_PREFIXES = ("norm_out.", "proj_out.")
"""The backbone's final norm and output layer (paper, A.2). Only as a prefix: every single block owns a ``proj_out``."""


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """What an optimizer step says of itself.

    Attributes:
        grad_norm: Norm of the whole gradient before clipping; None where the engine does not compute it.
    """

    grad_norm: float | None


class Engine(Protocol):
    """Forward and backward passes and optimizer steps on one or more ranks.

    One optimizer step is: enter `accumulate`, then `forward` and `backward` as often as was said, leave it, `step`.
    """

    @property
    def rank(self) -> int:
        """This process, from 0."""
        ...

    @property
    def num_ranks(self) -> int:
        """All processes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where batches must lie."""
        ...

    @property
    def forwards_must_match(self) -> bool:
        """True if every rank must run the same forward passes, because they communicate."""
        ...

    def forward(self, objective: Objective, task: SegmentTask) -> StepOutput:
        """One segment through the one forward pass of the module."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this loss; the step's gradient is the sum over all calls of all ranks."""
        ...

    def accumulate(self, backwards_per_rank: Sequence[int]) -> AbstractContextManager[None]:
        """Where a step's backward passes happen.

        Args:
            backwards_per_rank: How many each rank will run.

        Raises:
            ValueError: If the engine would hang or lose gradients with these.
        """
        ...

    def step(self, learning_rate: float) -> StepStats:
        """Clip, update, and clear the gradient."""
        ...

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks; every rank must call it with as many."""
        ...

    def whole_parameters(self) -> AbstractContextManager[None]:
        """Inside, every parameter of the module is whole on every rank; all ranks must enter."""
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's share of weights and optimizer; all ranks must call it. Frozen weights are left out."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, on as many ranks; all ranks must call it."""
        ...


def freeze_all_but_head(model: nn.Module) -> None:
    """Leave only the final norm and the output layer trainable (paper, 4.1 and A.2).

    Raises:
        ValueError: If the model has no such layers.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(HEAD_PREFIXES))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"the model has no parameter under {' or '.join(HEAD_PREFIXES)}: nothing is left to train")


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW (paper, 4.1) over the parameters that are trained."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, eps=1e-8
    )


def learning_rate_at(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """The learning rate of a step: linear warm-up to the peak, then constant, or half a cosine to zero.

    Args:
        step: From 0.
        num_steps: Steps of the stage.
        config: Peak, warm-up and what follows it.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.learning_rate
    share = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
