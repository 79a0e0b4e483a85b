"""One process, no DeepSpeed: the reference that the others are held to."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from training.config import OptimizerConfig
from training.engine.base import StepStats, make_optimizer
from training.objectives.base import Objective, ObjectiveModule, SegmentTask
from training.types import StepOutput

CHECKPOINT_FILE = "plain.pt"


class PlainEngine:
    """Bare torch on one process."""

    rank = 0
    num_ranks = 1
    forwards_must_match = False

    def __init__(self, module: ObjectiveModule, config: OptimizerConfig) -> None:
        """Trains the parameters of the module that require a gradient."""
        self._module = module
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._optimizer = make_optimizer(module, config)
        self._clip_norm = config.clip_norm or float("inf")

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
        for parameter in self._trained.values():
            parameter.grad = torch.zeros_like(parameter)
        yield

    def step(self, learning_rate: float) -> StepStats:
        """Clip and update."""
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self._clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        return StepStats(grad_norm=float(norm))

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def whole_parameters(self) -> AbstractContextManager[None]:
        """They always are."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Trained weights and the optimizer."""
        weights = {name: p.detach() for name, p in self._trained.items()}
        torch.save({"weights": weights, "optimizer": self._optimizer.state_dict()}, folder / CHECKPOINT_FILE)

    def load(self, folder: Path) -> None:
        """What `save` wrote."""
        state = torch.load(folder / CHECKPOINT_FILE, map_location=self.device, weights_only=True)
        self._module.load_state_dict(state["weights"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])
