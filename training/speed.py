"""How fast a stage trains, as this rank sees it."""

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from preprocessing.samples import LATENTS_PER_SEGMENT
from training.types import GlobalStep
from training.workload import Workload, device_peak_flops

T = TypeVar("T")


class StepClock:
    """Measures what a step waits for and what it computes; validation and saving are neither.

    Attributes:
        waited_s: Seconds that the last step waited for its batches.
        computed_s: Seconds that it took after that.
    """

    def __init__(self) -> None:
        """Nothing measured yet."""
        self.waited_s = 0.0
        self.computed_s = 0.0

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items."""
        iterator = iter(items)
        while True:
            begun = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.waited_s = time.perf_counter() - begun
            yield item

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Measures the block."""
        begun = time.perf_counter()
        yield
        self.computed_s = time.perf_counter() - begun


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Turns seconds into metrics.

    Attributes:
        workload: Counts the operations of a step.
        num_ranks: Ranks that share a step.
        device: Of this rank.
    """

    workload: Workload
    num_ranks: int
    device: torch.device

    def metrics(self, step: GlobalStep, *, waited_s: float, computed_s: float) -> dict[str, float]:
        """Seconds, throughput of all ranks together, and this rank's peak memory.

        Args:
            step: What was trained on.
            waited_s: Seconds that this rank waited for its batches.
            computed_s: Seconds of forward and backward passes and update.
        """
        step_s = waited_s + computed_s
        flops_per_s = self.workload.step_flops(step) / step_s
        peak = device_peak_flops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None
        return {
            "step_s": step_s,
            "data_wait_share": waited_s / step_s,
            "segments_per_s": step.num_losses / step_s,
            "latent_frames_per_s": LATENTS_PER_SEGMENT * step.num_losses / step_s,
            "tflops_per_s": flops_per_s / 1e12,
            "peak_memory_gb": peak_memory_bytes(self.device) / 1e9,
            **({} if peak is None else {"mfu": flops_per_s / (self.num_ranks * peak)}),
        }


def peak_memory_bytes(device: torch.device) -> int:
    """The most that tensors took on a GPU, or the process on the CPU (resident set), since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
