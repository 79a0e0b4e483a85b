"""DeepSpeed ZeRO over a torch.distributed process group that somebody else has started. Home of DeepSpeed.

What is avoided here was measured on DeepSpeed 0.19.8: several backward passes before one `step` lose gradients
silently under ZeRO-1 and 2 unless `coalesce_grad_reduction` holds them together; unequal numbers of forward passes
hang ZeRO-3; an unset `gradient_clipping` clips at 1.0; the CPU backend compiles a C++ extension when it starts.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from training.config import EngineConfig, OptimizerConfig
from training.engine.base import StepStats, make_optimizer
from training.objectives.base import Objective, ObjectiveModule, SegmentTask
from training.types import StepOutput

TAG = "zero"
"""DeepSpeed's name of the only checkpoint in a folder."""


def refuse_unsafe(zero_stage: int, backwards_per_rank: Sequence[int]) -> None:
    """Refuse a step that would hang or lose gradients.

    Raises:
        ValueError: If ZeRO-3 ranks would run unequal numbers of passes, or a rank none at all.
    """
    if min(backwards_per_rank) == 0:
        raise ValueError(f"backward passes of the ranks: {list(backwards_per_rank)}; expected at least one on each")
    if zero_stage == 3 and len(set(backwards_per_rank)) > 1:
        raise ValueError(
            f"ZeRO-3 gathers weights in every forward pass and hangs where ranks run unequal numbers of segments, got"
            f" {list(backwards_per_rank)}; set train.engine.zero_stage to 1 or 2"
        )


class ZeroEngine:
    """A DeepSpeed engine behind our protocol."""

    def __init__(self, module: ObjectiveModule, engine: EngineConfig, optimizer: OptimizerConfig) -> None:
        """Wraps the module; torch.distributed must have been initialised.

        Args:
            module: Model and objectives, on this rank's device.
            engine: ZeRO stage and dtype.
            optimizer: AdamW and clipping.
        """
        self._zero_stage: Literal[0, 1, 2, 3] = engine.zero_stage
        self._module = module
        self._engine = _initialize(module, engine, optimizer)
        self._backwards_left = 0

    @property
    def rank(self) -> int:
        """Of the process group."""
        return dist.get_rank()

    @property
    def num_ranks(self) -> int:
        """Of the process group."""
        return dist.get_world_size()

    @property
    def device(self) -> torch.device:
        """Of this rank."""
        return torch.device(self._engine.device)

    @property
    def forwards_must_match(self) -> bool:
        """ZeRO-3 gathers parameters in every forward pass."""
        return self._zero_stage == 3

    def forward(self, objective: Objective, task: SegmentTask) -> StepOutput:
        """One segment."""
        return self._engine(objective, task)[1]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this loss; times the number of ranks, because DeepSpeed averages over them."""
        self._backwards_left -= 1
        if self._zero_stage == 0:
            self._engine.set_gradient_accumulation_boundary(self._backwards_left == 0)
        self._engine.backward(loss * self.num_ranks, scale_wrt_gas=False)

    @contextmanager
    def accumulate(self, backwards_per_rank: Sequence[int]) -> Iterator[None]:
        """One reduction over the ranks for all backward passes inside."""
        refuse_unsafe(self._zero_stage, backwards_per_rank)
        self._forget_last_step()
        self._backwards_left = backwards_per_rank[self.rank]
        if self._zero_stage == 0 or max(backwards_per_rank) == 1:
            yield
        else:
            with self._engine.coalesce_grad_reduction():
                yield
        assert self._backwards_left == 0, f"{self._backwards_left} backward passes are missing"

    def _forget_last_step(self) -> None:
        """Clear ZeRO-3's gradients: one that this step does not touch would otherwise keep the last step's.

        Measured: teacher forcing with a step whose memory is unused is off by 1 % of the largest gradient without it.
        """
        if self._zero_stage == 3:
            self._engine.optimizer.grad_partitions_flat_buffer.zero_()

    def step(self, learning_rate: float) -> StepStats:
        """Clip and update, all ranks together."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return StepStats(grad_norm=None if norm is None else float(norm))

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """One all-reduce, in double precision."""
        total = torch.tensor(values, device=self.device, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def whole_parameters(self) -> AbstractContextManager[None]:
        """Gathers what ZeRO-3 has partitioned."""
        from deepspeed.runtime.zero import GatheredParameters

        return GatheredParameters(list(self._module.parameters()), enabled=self._zero_stage == 3)

    def save(self, folder: Path) -> None:
        """One file a rank, and rank 0's weights; named so that the ranks' files can lie in one folder."""
        self._engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """What `save` wrote, on as many ranks.

        Raises:
            ValueError: If there is no checkpoint in the folder.
        """
        # not strict: frozen weights are not in it
        path, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if path is None:
            raise ValueError(f"no DeepSpeed checkpoint in {folder}")


def _initialize(module: ObjectiveModule, engine: EngineConfig, optimizer: OptimizerConfig) -> Any:  # noqa: ANN401
    deepspeed = _import_deepspeed()
    wrapped, *_ = deepspeed.initialize(
        model=module, optimizer=make_optimizer(module, optimizer), config=_deepspeed_config(engine, optimizer)
    )
    return wrapped


def _deepspeed_config(engine: EngineConfig, optimizer: OptimizerConfig) -> dict[str, object]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip_norm,
        "zero_optimization": {"stage": engine.zero_stage},
        "bf16": {"enabled": engine.dtype == "bf16"},
        "steps_per_print": sys.maxsize,
    }


def _import_deepspeed() -> Any:  # noqa: ANN401 - an untyped library
    """DeepSpeed without what it would start or compile and we don't use: seconds on every rank.

    That is its autotuner's MLflow, its optimizer Muon (imported to find out that our AdamW is none, and compiled when
    imported), and a C++ extension for gloo.
    """
    with _absent("mlflow"):
        import deepspeed
    with _uncompiled():
        import deepspeed.runtime.zero.muon.muon_optimizer
    if not torch.cuda.is_available():
        # `import deepspeed.comm.torch as x` would bind torch itself
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    return deepspeed


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Inside, `torch.compile` gives back what it is given."""
    compile_ = torch.compile
    torch.compile = lambda model=None, **_options: model or (lambda function: function)
    try:
        yield
    finally:
        torch.compile = compile_


@contextmanager
def _absent(module_name: str) -> Iterator[None]:
    """Inside, importing a module that has not been imported yet fails."""
    if module_name in sys.modules:
        yield
        return
    sys.modules[module_name] = None  # pyright: ignore[reportArgumentType] - Python's way to say so
    try:
        yield
    finally:
        del sys.modules[module_name]
