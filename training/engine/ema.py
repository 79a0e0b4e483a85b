"""An exponential moving average of the trained weights, in fp32, piece by piece where the optimizer holds them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.engine.base import Engine
from training.engine.fragments import EMA


class Ema:
    """The average of the weights after each step; it works on a rank's fragments, so under any ZeRO stage."""

    def __init__(self, engine: Engine, *, decay: float) -> None:
        """Begins at the present weights. The averages become a part of the engine's fragments, and of its checkpoints.

        Args:
            engine: Whose weights.
            decay: Share of the old average that a step keeps, once there have been enough steps.
        """
        self._engine, self._decay = engine, decay
        for fragment in engine.fragments:
            fragment.tensors[EMA] = fragment.weight.clone()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` optimizer steps.

        Early averages are short, (1 + n) / (10 + n) as in TensorFlow's: else they would be those of the beginning.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for fragment in self._engine.fragments:
            fragment.tensors[EMA].lerp_(fragment.weight, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the module computes with the average; all ranks must enter, and no step may be taken."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for fragment in self._engine.fragments:
            live = fragment.weight.clone()
            fragment.weight.copy_(fragment.tensors[EMA])
            fragment.tensors[EMA].copy_(live)
        self._engine.publish()
