"""DeepSpeed ZeRO over a torch.distributed process group that somebody else has started. Home of DeepSpeed.

What is avoided here was measured on DeepSpeed 0.19.8: several backward passes before one `step` lose gradients
silently under ZeRO-1 and 2 unless `coalesce_grad_reduction` holds them together; unequal numbers of forward passes
hang ZeRO-3; an unset `gradient_clipping` clips at 1.0; the CPU backend compiles a C++ extension when it starts.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from training.config import EngineConfig, OptimizerConfig
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
from training.engine.partitions import (
    begin_partitioned_moments,
    drop_gradient,
    forget_last_gradient,
    partitioned_fragments,
    publish_partitions,
)
from training.engine.watchdog import Pulse
from training.objectives.base import Objective, ObjectiveModule, SegmentTask
from training.types import StepOutput


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

    def __init__(self, module: ObjectiveModule, engine: EngineConfig, optimizer: OptimizerConfig, pulse: Pulse) -> None:
        """Wraps the module, all ranks together; torch.distributed must have been initialised.

        Args:
            module: Model and objectives, on this rank's device.
            engine: ZeRO stage and dtype.
            optimizer: AdamW and clipping.
            pulse: Is told where this rank waits for the others, here already.
        """
        self._zero_stage: Literal[0, 1, 2, 3] = engine.zero_stage
        self._module = module
        self._pulse = pulse
        with pulse.meeting():
            self._engine = _initialize(module, engine, optimizer)
        self._backwards_left = 0
        self._begin_moments()

    def _begin_moments(self) -> None:
        zero = self._engine.optimizer
        if self._zero_stage == 0:
            begin_moments(zero, (p for p in self._module.parameters() if p.requires_grad))
            self._adam, self._fragments = zero, replicated_fragments(self._module, zero)
            return
        begin_partitioned_moments(zero, self._zero_stage)
        self._adam = zero.optimizer
        self._fragments = partitioned_fragments(self._module, zero, self._zero_stage, self.rank)

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
        with self._pulse.meeting() if self.forwards_must_match else nullcontext():
            return self._engine(objective, task)[1]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this loss; times the number of ranks, because DeepSpeed averages over them."""
        self._backwards_left -= 1
        is_last = self._backwards_left == 0
        if self._zero_stage == 0:
            self._engine.set_gradient_accumulation_boundary(is_last)
        with self._pulse.meeting() if is_last or self.forwards_must_match else nullcontext():
            self._engine.backward(loss * self.num_ranks, scale_wrt_gas=False)

    @contextmanager
    def accumulate(self, backwards_per_rank: Sequence[int]) -> Iterator[None]:
        """One reduction over the ranks for all backward passes inside."""
        refuse_unsafe(self._zero_stage, backwards_per_rank)
        if self._zero_stage > 0:
            forget_last_gradient(self._engine.optimizer, self._zero_stage)
        self._backwards_left = backwards_per_rank[self.rank]
        if self._zero_stage == 0 or max(backwards_per_rank) == 1:
            yield
        else:
            yield from self._coalesced()
        assert self._backwards_left == 0, f"{self._backwards_left} backward passes are missing"

    def _coalesced(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._engine.coalesce_grad_reduction())
            yield
            with self._pulse.meeting():
                stack.close()

    def step(self, rates: LearningRates) -> StepStats:
        """Clip and update, all ranks together."""
        set_learning_rates(self._engine.optimizer.param_groups, rates)
        with self._pulse.meeting():
            applied = self._take_step()
        norm = self._engine.get_global_grad_norm()
        return StepStats(grad_norm=None if norm is None else float(norm), applied=applied)

    def _take_step(self) -> bool:
        """False if the gradient was not finite: ZeRO's optimizers find that out, AdamW alone would not."""
        if self._zero_stage == 0 and not all(gradient.isfinite().all() for gradient in self._gradients()):
            return False
        self._engine.step()
        return self._engine.was_step_applied()

    def _gradients(self) -> Iterator[Tensor]:
        return (p.grad for p in self._module.parameters() if p.grad is not None)

    def discard(self) -> None:
        """Forget the gradient."""
        if self._zero_stage == 0:
            self._engine.zero_grad()
        else:
            drop_gradient(self._engine.optimizer, self._zero_stage)

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """One all-reduce, in double precision."""
        total = torch.tensor(values, device=self.device, dtype=torch.float64)
        with self._pulse.meeting():
            dist.all_reduce(total)
            return total.tolist()

    def has_read(self) -> None:
        """The pulse is told."""
        self._pulse.has_read()

    @property
    def fragments(self) -> tuple[Fragment, ...]:
        """All parameters, or this rank's partition of them."""
        return self._fragments

    @property
    def replicated(self) -> bool:
        """ZeRO-0 partitions nothing."""
        return self._zero_stage == 0

    @property
    def num_updates(self) -> int:
        """Of AdamW."""
        return count_updates(self._adam)

    def restore_num_updates(self, num_updates: int) -> None:
        """Of AdamW."""
        set_updates(self._adam, num_updates)

    def publish(self) -> None:
        """Gather the partitions."""
        if self._zero_stage > 0:
            with self._pulse.meeting():
                publish_partitions(self._engine.optimizer, self._zero_stage)


def _initialize(module: ObjectiveModule, engine: EngineConfig, optimizer: OptimizerConfig) -> Any:  # noqa: ANN401
    deepspeed = _import_deepspeed()
    wrapped, *_ = deepspeed.initialize(
        model=module, optimizer=make_optimizer(module, optimizer), config=_deepspeed_config(engine, optimizer)
    )
    if engine.zero_stage in (1, 2) and engine.dtype == "bf16":
        # else a gradient of NaN would reach the weights; in fp32 DeepSpeed asks the norm, which costs nothing more
        wrapped.optimizer.check_grad_overflow = True
    return wrapped


def _deepspeed_config(engine: EngineConfig, optimizer: OptimizerConfig) -> dict[str, object]:
    # the buffer that gradients are copied to keeps a GPU's memory in one piece; on a CPU it is a fifth of a step
    zero: dict[str, object] = {"stage": engine.zero_stage, "contiguous_gradients": engine.use_gpu}
    if engine.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = engine.persistence_threshold
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": engine.use_gpu}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # AdamW of torch, offloaded or not: the same numbers
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
