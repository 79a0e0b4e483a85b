"""Teacher forcing (paper, 4.1, stage 1): the past is the ground truth."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from training.config import TeacherConfig
from training.flow_matching import flow_sample, sigma_to_time
from training.model.memory_pack import MemoryPackTransformer3DModel, first_context, next_context
from training.objectives.base import (
    Objective,
    SegmentTask,
    noised_segment,
    other_key,
    segment_of,
    trained_output,
    velocity_at,
)
from training.order import keyed_normals
from training.types import SegmentBatch, SegmentContext, StepOutput


def teacher_forcing(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
    """The flow-matching loss of segment n after n true segments (paper, eq. 5).

    psi_0 .. psi_n are recomputed inside the graph, so that the memory learns what to keep over many segments; a psi
    that was detached between segments would never learn it.
    """
    return _loss_after(model, task, true_context(model, task.batch, task.segment_index, grad_steps=None))


def teacher_forcing_with(config: TeacherConfig) -> Objective:
    """Teacher forcing as the settings of stage 1 have it."""

    def objective(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
        past = noisy_past(task, config.history_noise) if config.history_noise else task.batch
        context = true_context(model, past, task.segment_index, grad_steps=config.memory_grad_steps)
        return _loss_after(model, task, context)

    return objective


def true_context(
    model: MemoryPackTransformer3DModel, batch: SegmentBatch, segment_index: int, *, grad_steps: int | None
) -> SegmentContext:
    """What is known before a segment, if all earlier ones were the ground truth.

    Args:
        model: Owner of the memory.
        batch: The clips.
        segment_index: n; the segment that comes next.
        grad_steps: Last updates of psi with gradient; None is all of them.
    """
    frozen = 0 if grad_steps is None else max(0, segment_index - grad_steps)
    with torch.no_grad():
        context = _after(model, first_context(batch.start_latent_BCTHW), batch, range(frozen))
    return _after(model, context, batch, range(frozen, segment_index))


def _after(
    model: MemoryPackTransformer3DModel, context: SegmentContext, batch: SegmentBatch, segments: Iterable[int]
) -> SegmentContext:
    for i in segments:
        context = next_context(model, context, batch.condition, segment_of(batch.latents_BCTHW, i))
    return context


def noisy_past(task: SegmentTask, max_sigma: float) -> SegmentBatch:
    """The task's clips as history and psi see them through noise; the start image stays clean.

    Args:
        task: Names the random numbers.
        max_sigma: Each clip's sigma is uniform from 0 to this.
    """
    latents, positions = task.batch.latents_BCTHW, task.batch.positions
    shape = (1 + latents[0].numel(),)
    normals = keyed_normals(
        other_key(task.key, "history"), positions=positions, segment=task.segment_index, shape=shape
    )
    sigma = max_sigma * torch.special.ndtr(normals[:, 0])
    noise = normals[:, 1:].reshape(latents.shape)
    seen = flow_sample(latents, noise.to(latents.device), sigma_to_time(sigma).to(latents.device))
    return replace(task.batch, latents_BCTHW=seen.x_t)


def _loss_after(model: MemoryPackTransformer3DModel, task: SegmentTask, context: SegmentContext) -> StepOutput:
    sample = noised_segment(task)
    velocity = velocity_at(model, sample, context, task)
    return trained_output(velocity, sample, task.flow, None)
