"""What an objective is: one function that turns one segment of a batch into a loss and the next context.

Teacher forcing, Direct Forcing and student forcing differ only in what the model is told about the past.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from preprocessing.samples import LATENTS_PER_SEGMENT
from training.config import FlowConfig, TimesConfig
from training.flow_matching import flow_matching_loss_per_sample, flow_sample, loss_weight, sample_times
from training.model.memory_pack import MemoryPackTransformer3DModel, predict_velocity
from training.model.rope import RopeMode
from training.order import keyed_normals
from training.types import ClipLosses, FlowSample, RandomKey, SegmentBatch, SegmentContext, StepOutput


@dataclass(frozen=True, kw_only=True)
class SegmentTask:
    """One segment of a batch, and all that an objective needs to know about it.

    Attributes:
        segment_index: n, from 0.
        context: What the last segment left; None before the first, and for objectives that look it up themselves.
        use_memory: False withholds psi from the model.
        use_history: False withholds past latents, all but the start image.
        key: Names the random numbers; the clips' positions and n are added to it.
    """

    batch: SegmentBatch
    segment_index: int
    context: SegmentContext | None
    use_memory: bool
    use_history: bool
    key: RandomKey
    flow: FlowConfig
    rope_mode: RopeMode


MODEL_PREFIX = "model."
"""What `ObjectiveModule` puts before the names of the model's parameters."""

Objective = Callable[[MemoryPackTransformer3DModel, SegmentTask], StepOutput]
"""(model, segment) to its loss, and the context of the next segment if there is one."""


class ObjectiveModule(nn.Module):
    """The model with one forward pass for all objectives: the one that the engine wraps and DeepSpeed hooks into."""

    def __init__(self, model: MemoryPackTransformer3DModel) -> None:
        """Owns the model; parameter names gain the prefix ``model.``."""
        super().__init__()
        self.model = model

    def forward(self, objective: Objective, task: SegmentTask) -> tuple[Tensor, StepOutput]:
        """The loss by itself, because DeepSpeed looks for tensors in tuples only, and the whole output."""
        output = objective(self.model, task)
        return output.loss, output


def segment_of(latents_BCTHW: Tensor, segment_index: int) -> Tensor:
    """The 9 latent frames of a segment; the clip's frame 0 is its start image."""
    first = 1 + LATENTS_PER_SEGMENT * segment_index
    return latents_BCTHW[:, :, first : first + LATENTS_PER_SEGMENT]


def noised_segment(task: SegmentTask) -> FlowSample:
    """A point on the path from noise to the task's segment, with keyed time and noise (paper, eq. 3 and 4)."""
    return noised_at(task, task.key, task.flow)


def noised_at(task: SegmentTask, key: RandomKey, times: TimesConfig) -> FlowSample:
    """The same with random numbers of another key and times of another distribution."""
    data = segment_of(task.batch.latents_BCTHW, task.segment_index)
    positions, segment = task.batch.positions, task.segment_index
    # the first number of each clip is its time's, the others are its noise
    normals = keyed_normals(key, positions=positions, segment=segment, shape=(1 + data[0].numel(),))
    noise = normals[:, 1:].reshape(data.shape)
    t = sample_times(normals[:, 0], times)
    return flow_sample(data, noise.to(data.device), t.to(data.device))


def other_key(key: RandomKey, purpose: str) -> RandomKey:
    """A key of further random numbers of the same step."""
    return replace(key, stage=f"{key.stage} {purpose}")


def trained_output(
    velocity: Tensor, sample: FlowSample, flow: FlowConfig, next_context: SegmentContext | None
) -> StepOutput:
    """The loss of a segment (paper, eq. 5), weighted by time as the settings say.

    Args:
        velocity: What the model answered, with gradient.
        sample: Where on the path it was asked.
        flow: Weights of times.
        next_context: Context of the next segment, detached.
    """
    losses = loss_weight(sample.t, flow.weighting) * flow_matching_loss_per_sample(velocity, sample.target_velocity)
    return StepOutput(
        loss=losses.mean(),
        next_context=next_context,
        clip_losses=ClipLosses(t=sample.t, loss=losses.detach()),
        metrics={},
    )


def velocity_at(
    model: MemoryPackTransformer3DModel, sample: FlowSample, context: SegmentContext, task: SegmentTask
) -> Tensor:
    """The model's velocity at a point of the path, as the task wants it conditioned."""
    shown = _withhold(context, use_memory=task.use_memory, use_history=task.use_history)
    return predict_velocity(
        model,
        sample.x_t,
        sample.t,
        shown,
        task.batch.condition,
        guidance_scale=task.flow.guidance_scale,
        rope_mode=task.rope_mode,
    )


def _withhold(context: SegmentContext, *, use_memory: bool, use_history: bool) -> SegmentContext:
    return SegmentContext(
        history_BCTHW=context.history_BCTHW if use_history else torch.zeros_like(context.history_BCTHW),
        memory=context.memory if use_memory else None,
        start_latent_BCTHW=context.start_latent_BCTHW,
        segment_index=context.segment_index,
    )
