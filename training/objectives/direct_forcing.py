"""Direct Forcing (paper, 3.2, stage 2): the past is what the model itself would have made of it, in one step."""

from dataclasses import replace

import torch

from training.flow_matching import flow_matching_loss, velocity_to_data
from training.model.memory_pack import MemoryPackTransformer3DModel, first_context, next_context
from training.objectives.base import SegmentTask, noised_segment, velocity_at
from training.types import SegmentContext, StepOutput


def direct_forcing(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
    """The loss of a segment (paper, eq. 5), and the context that its one-step approximation leaves (eq. 7).

    The approximation x~ joins history and memory in place of the ground truth. It is computed in fp32 and detached:
    memory does not grow with the number of segments, and no gradient reaches back over a segment.
    """
    context = _context(task)
    sample = noised_segment(task)
    velocity = velocity_at(model, sample, context, task)
    loss = flow_matching_loss(velocity, sample.target_velocity)
    with torch.no_grad():
        approximation = velocity_to_data(sample.x_t, velocity.detach(), sample.t)
        following = next_context(model, context, task.batch.condition, approximation)
    return StepOutput(loss=loss, next_context=_detached(following), metrics={})


def _context(task: SegmentTask) -> SegmentContext:
    if task.context is None:
        assert task.segment_index == 0, "the context of every segment but the first comes from the one before"
        return first_context(task.batch.start_latent_BCTHW)
    assert task.context.segment_index == task.segment_index, "segments must be chronological"
    return task.context


def _detached(context: SegmentContext) -> SegmentContext:
    memory = None if context.memory is None else context.memory.detach()
    return replace(context, history_BCTHW=context.history_BCTHW.detach(), memory=memory)
