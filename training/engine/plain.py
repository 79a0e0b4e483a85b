"""One process, no DeepSpeed: the reference that the others are held to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from training.config import OptimizerConfig
from training.engine.base import (
    LearningRates,
    StepStats,
    begin_moments,
    count_updates,
    make_optimizer,
    replicated_fragments,
    set_learning_rates,
    set_updates,
)
from training.engine.fragments import Fragment
from training.objectives.base import Objective, ObjectiveModule, SegmentTask
from training.types import StepOutput


class PlainEngine:
    """Bare torch on one process."""

    rank = 0
    num_ranks = 1
    forwards_must_match = False
    replicated = True

    def __init__(self, module: ObjectiveModule, config: OptimizerConfig) -> None:
        """Trains the parameters of the module that require a gradient."""
        self._module = module
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(module, config)
        self._clip_norm = config.clip_norm or float("inf")
        begin_moments(self._optimizer, self._trained)
        self._fragments = replicated_fragments(module, self._optimizer)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self._module.parameters()).device

    def forward(self, objective: Objective, task: SegmentTask) -> StepOutput:
        """One segment."""
        return self._module(objective, task)[1]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this loss."""
        loss.backward()

    @contextmanager
    def accumulate(self, backwards_per_rank: Sequence[int]) -> Iterator[None]:
        """Clear the gradient; a parameter that no loss touches has gradient zero, as under ZeRO."""
        assert len(backwards_per_rank) == 1
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)
        yield

    def step(self, rates: LearningRates) -> StepStats:
        """Clip and update."""
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self._clip_norm)
        if not norm.isfinite():
            return StepStats(grad_norm=float(norm), applied=False)
        set_learning_rates(self._optimizer.param_groups, rates)
        self._optimizer.step()
        return StepStats(grad_norm=float(norm), applied=True)

    def discard(self) -> None:
        """The next step clears it."""

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def has_read(self) -> None:
        """Nobody waits."""

    @property
    def fragments(self) -> tuple[Fragment, ...]:
        """All, whole."""
        return self._fragments

    @property
    def num_updates(self) -> int:
        """Of AdamW."""
        return count_updates(self._optimizer)

    def restore_num_updates(self, num_updates: int) -> None:
        """Of AdamW."""
        set_updates(self._optimizer, num_updates)

    def publish(self) -> None:
        """The fragments are the module's parameters."""
