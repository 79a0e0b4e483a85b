"""What Direct Forcing and student forcing share: a clip's segments in order, after a past that the model made itself."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.model.memory_pack import MemoryPackTransformer3DModel, first_context, next_context
from training.objectives.base import SegmentTask, noised_segment, trained_output, velocity_at
from training.types import FlowSample, SegmentContext, StepOutput


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The one forward pass of a segment that the loss needs.

    Attributes:
        context: What the model was told about the past.
        sample: Where on the path it was asked.
        velocity: What it answered, with gradient.
    """

    context: SegmentContext
    sample: FlowSample
    velocity: Tensor


def predict(model: MemoryPackTransformer3DModel, task: SegmentTask) -> Prediction:
    """The model's velocity at a point of the segment's path, after the past that the last segment left."""
    context = _context(task)
    sample = noised_segment(task)
    return Prediction(context=context, sample=sample, velocity=velocity_at(model, sample, context, task))


def conclude(
    model: MemoryPackTransformer3DModel, task: SegmentTask, prediction: Prediction, made_BCTHW: Tensor
) -> StepOutput:
    """The segment's loss (paper, eq. 5), and the past that the segment leaves to the next one.

    What the model made joins history and psi in place of the ground truth. It is detached: memory does not grow with
    the number of segments, and no gradient reaches back over a segment.

    Args:
        model: Owner of the memory.
        task: The segment.
        prediction: What the loss is about.
        made_BCTHW: The segment as the model made it, T = 9.
    """
    with torch.no_grad():
        following = next_context(model, prediction.context, task.batch.condition, made_BCTHW.detach())
    return trained_output(prediction.velocity, prediction.sample, task.flow, _detached(following))


def _context(task: SegmentTask) -> SegmentContext:
    if task.context is None:
        assert task.segment_index == 0, "the context of every segment but the first comes from the one before"
        return first_context(task.batch.start_latent_BCTHW)
    assert task.context.segment_index == task.segment_index, "segments must be chronological"
    return task.context


def _detached(context: SegmentContext) -> SegmentContext:
    memory = None if context.memory is None else context.memory.detach()
    return replace(context, history_BCTHW=context.history_BCTHW.detach(), memory=memory)
