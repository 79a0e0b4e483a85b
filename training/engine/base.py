"""What the training loop needs from an engine, and what all engines share."""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from training.config import OptimizerConfig
from training.engine.fragments import MOMENTS, WEIGHT, Fragment
from training.model.weights import MEMORY_PREFIX
from training.objectives.base import MODEL_PREFIX, Objective, SegmentTask
from training.types import StepOutput

HEAD_PREFIXES = ("norm_out.", "proj_out.")
"""The backbone's final norm and output layer (paper, A.2). Only as a prefix: every single block owns a ``proj_out``."""

Part = Literal["backbone", "memory"]
PARTS: tuple[Part, ...] = ("backbone", "memory")

PART = "part"
"""Key of a parameter group that names its part."""


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """What an optimizer step says of itself.

    Attributes:
        grad_norm: Norm of the whole gradient before clipping; None where the engine does not compute it.
        applied: False if the gradient was not finite, and the weights stayed as they were.
    """

    grad_norm: float | None
    applied: bool


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Of one optimizer step; at 0 weights stay what they are, whatever their gradient and the weight decay.

    Attributes:
        backbone: Of all parameters but the memory's.
        memory: Of SemanticPack's.
    """

    backbone: float
    memory: float

    def metrics(self) -> dict[str, float]:
        """Numbers to log; the memory's where it differs."""
        differs = {"memory_learning_rate": self.memory} if self.memory != self.backbone else {}
        return {"learning_rate": self.backbone, **differs}


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

    def step(self, rates: LearningRates) -> StepStats:
        """Clip, update, and clear the gradient; a gradient that is not finite updates nothing."""
        ...

    def discard(self) -> None:
        """Forget the gradient without a step; all ranks must call it."""
        ...

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks; every rank must call it with as many."""
        ...

    def has_read(self) -> None:
        """This rank has read one more piece of a file: progress, where the others may be waiting for it."""
        ...

    @property
    def fragments(self) -> tuple[Fragment, ...]:
        """What this rank's optimizer holds; the ranks together hold every element of every trained parameter."""
        ...

    @property
    def replicated(self) -> bool:
        """True if every rank holds the same fragments, so that a checkpoint needs those of one."""
        ...

    @property
    def num_updates(self) -> int:
        """Updates that AdamW has made, which its bias correction counts."""
        ...

    def restore_num_updates(self, num_updates: int) -> None:
        """Go on counting from here."""
        ...

    def publish(self) -> None:
        """Compute with what the fragments hold now, after they were written to; all ranks must call it."""
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
    """AdamW (paper, 4.1) over the parameters that are trained: a group of the backbone's and one of the memory's.

    They are told apart for their learning rates alone. Which parameters are trained cannot change under ZeRO once the
    optimizer is made, so a part that waits has the rate 0.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    groups = [
        {PART: part, "params": [parameter for name, parameter in trained if part_of(name) == part]} for part in PARTS
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        eps=1e-8,
    )


def part_of(name: str) -> Part:
    """Which part of the model a parameter of `ObjectiveModule` belongs to."""
    return "memory" if name.startswith(MODEL_PREFIX + MEMORY_PREFIX) else "backbone"


def set_learning_rates(groups: Iterable[dict[str, Any]], rates: LearningRates) -> None:
    """Give each parameter group of `make_optimizer` the rate of its part."""
    for group in groups:
        group["lr"] = rates.memory if group[PART] == "memory" else rates.backbone


def learning_rates_at(step: int, num_steps: int, config: OptimizerConfig, *, memory_warmup_steps: int) -> LearningRates:
    """The learning rates of a step; the backbone's schedule begins when the backbone does.

    Args:
        step: From 0.
        num_steps: Steps of the stage.
        config: Peak, warm-up and what follows it.
        memory_warmup_steps: First steps, in which only the memory learns.
    """
    waited = step - memory_warmup_steps
    return LearningRates(
        backbone=0.0 if waited < 0 else learning_rate_at(waited, num_steps - memory_warmup_steps, config),
        memory=learning_rate_at(step, num_steps, config),
    )


def begin_moments(optimizer: torch.optim.Optimizer, tensors: Iterable[Tensor]) -> None:
    """Give AdamW the zero moments of these tensors, which it would make at its first step."""
    for tensor in tensors:
        moments = {name: torch.zeros_like(tensor, requires_grad=False) for name in MOMENTS}
        optimizer.state[tensor] = {"step": torch.tensor(0.0), **moments}


def count_updates(optimizer: torch.optim.Optimizer) -> int:
    """Updates that AdamW has made; the same for all its tensors."""
    return int(next(iter(optimizer.state.values()))["step"])


def set_updates(optimizer: torch.optim.Optimizer, num_updates: int) -> None:
    """Make AdamW go on counting from here."""
    for state in optimizer.state.values():
        state["step"].fill_(float(num_updates))


def replicated_fragments(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Fragment, ...]:
    """The fragments of an optimizer that updates the module's own parameters: each is whole."""
    return tuple(
        Fragment(
            name=name,
            start=0,
            tensors={WEIGHT: parameter.detach().view(-1)}
            | {moment: optimizer.state[parameter][moment].view(-1) for moment in MOMENTS},
        )
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
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
