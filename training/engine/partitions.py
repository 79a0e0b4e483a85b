"""Where DeepSpeed's ZeRO optimizers keep the weights and moments that a rank updates, and how a gradient is dropped.

All of this reads attributes of DeepSpeed that are not documented (0.19.8); the tests hold it to a process of plain torch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.engine.base import begin_moments
from training.engine.fragments import MOMENTS, WEIGHT, Fragment

ZeroOptimizer = Any
"""DeepSpeed's optimizer of ZeRO-1 and 2, or of ZeRO-3; untyped."""


def begin_partitioned_moments(zero: ZeroOptimizer, zero_stage: int) -> None:
    """Give AdamW its zero moments now: DeepSpeed would at the first step, and a checkpoint may be loaded before."""
    partitions = zero.fp32_partitioned_groups_flat if zero_stage == 3 else zero.single_partition_of_fp32_groups
    begin_moments(zero.optimizer, partitions)


def partitioned_fragments(module: nn.Module, zero: ZeroOptimizer, zero_stage: int, rank: int) -> tuple[Fragment, ...]:
    """This rank's pieces of the trained parameters; every element lies on exactly one rank."""
    pieces = _whole_partitions(module, zero, rank) if zero_stage == 3 else _flat_partitions(module, zero)
    return tuple(pieces)


def _flat_partitions(module: nn.Module, zero: ZeroOptimizer) -> Iterator[Fragment]:
    """ZeRO-1 and 2 lay all parameters of a group end to end and cut the line into equal parts."""
    for name, parameter in _trained(module):
        mapping = parameter._hp_mapping
        if mapping is not None:
            flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
            here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
            yield _fragment(zero, name, flat, start=there.start, offset=here.start, length=here.numel)


def _whole_partitions(module: nn.Module, zero: ZeroOptimizer, rank: int) -> Iterator[Fragment]:
    """ZeRO-3 cuts each parameter into equal parts; the last ones may be padding."""
    for name, parameter in _trained(module):
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        length = min(size, parameter.ds_numel - rank * size)
        if length > 0:
            flat = zero.fp32_partitioned_groups_flat[group]
            yield _fragment(zero, name, flat, start=rank * size, offset=offset, length=length)


def _trained(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _fragment(zero: ZeroOptimizer, name: str, flat: Tensor, *, start: int, offset: int, length: int) -> Fragment:
    kept = {WEIGHT: flat.detach()} | {moment: zero.optimizer.state[flat][moment] for moment in MOMENTS}
    views = {kind: tensor.narrow(0, offset, length) for kind, tensor in kept.items()}
    return Fragment(name=name, start=start, tensors=views)


@torch.no_grad()
def publish_partitions(zero: ZeroOptimizer, zero_stage: int) -> None:
    """Bring the parameters that the module computes with to the fp32 partitions of all ranks."""
    if zero_stage < 3:
        zero.update_lp_params()
        return
    zero.checkpoint_event_prologue()
    for group in range(len(zero.fp16_groups)):
        zero._reassign_or_swap_out_partitioned_parameters(group)
    zero.checkpoint_event_epilogue()


def forget_last_gradient(zero: ZeroOptimizer, zero_stage: int) -> None:
    """Clear what the last step left: a parameter that this step does not touch would otherwise keep its gradient.

    Measured: teacher forcing with a step whose memory is unused is off by 1 % of the largest gradient without it.
    """
    if zero_stage == 3:
        zero.grad_partitions_flat_buffer.zero_()
    for partition in _offloaded_partitions(zero, zero_stage):
        assert partition.grad is not None, "offloaded partitions keep a buffer for their gradient"
        partition.grad.zero_()


def _offloaded_partitions(zero: ZeroOptimizer, zero_stage: int) -> Sequence[Tensor]:
    if zero_stage == 3:
        return zero.fp32_partitioned_groups_flat if zero.offload_optimizer else ()
    return zero.single_partition_of_fp32_groups if zero.cpu_offload else ()


def drop_gradient(zero: ZeroOptimizer, zero_stage: int) -> None:
    """Forget all gradients of this step, as DeepSpeed does when it finds that one has overflowed."""
    if zero_stage == 3:
        zero._pre_step()
        zero._overflow_clean_up(None)
        return
    zero.micro_step_id = -1
    zero.zero_grad(set_to_none=True)
    zero._release_preflattened_grad_buffers()
    for gradients in (zero.averaged_gradients, zero.all_grad_tensors):
        gradients.update(dict.fromkeys(gradients))
    if zero.cpu_offload:
        zero.reset_cpu_buffers()
