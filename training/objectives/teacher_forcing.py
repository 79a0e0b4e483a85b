"""Teacher forcing (paper, 4.1, stage 1): the past is the ground truth."""

from training.flow_matching import flow_matching_loss
from training.model.memory_pack import MemoryPackTransformer3DModel, first_context, next_context
from training.objectives.base import SegmentTask, noised_segment, segment_of, velocity_at
from training.types import SegmentBatch, SegmentContext, StepOutput


def teacher_forcing(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
    """The flow-matching loss of segment n after n true segments (paper, eq. 5).

    psi_0 .. psi_n are recomputed inside the graph, so that the memory learns what to keep over many segments; a psi
    that was detached between segments would never learn it.
    """
    context = true_context(model, task.batch, task.segment_index)
    sample = noised_segment(task)
    velocity = velocity_at(model, sample, context, task)
    return StepOutput(loss=flow_matching_loss(velocity, sample.target_velocity), next_context=None, metrics={})


def true_context(model: MemoryPackTransformer3DModel, batch: SegmentBatch, segment_index: int) -> SegmentContext:
    """What is known before a segment, if all earlier ones were the ground truth; with gradient through psi."""
    context = first_context(batch.start_latent_BCTHW)
    for i in range(segment_index):
        context = next_context(model, context, batch.condition, segment_of(batch.latents_BCTHW, i))
    return context
