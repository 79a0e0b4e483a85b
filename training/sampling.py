"""From noise to latents: the denoising steps of one segment, and the roll-out, segment by segment.

The roll-out is FramePack-F1's: every segment is made from the start image, the 19 latent frames before it and psi, and
then joins both. Memory and compute of a segment do not depend on how many came before.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from training.flow_matching import VelocityField, integrate, sigma_to_time
from training.model.memory_pack import (
    MemoryPackTransformer3DModel,
    first_context,
    next_context,
    predict_velocity,
    warn_if_too_long,
)
from training.model.rope import RopeMode
from training.types import Condition, SegmentContext


def schedule(num_steps: int, shift: float) -> Tensor:
    """Times of the denoising steps from 0 (noise) to 1 (data), (num_steps + 1,), in double: 1 - t must stay exact.

    Args:
        num_steps: Denoising steps.
        shift: More of them near the noise for values above 1; FramePack at 480p uses 7.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_steps + 1)[:-1].tolist())
    return sigma_to_time(torch.as_tensor(scheduler.sigmas).double())


def denoise(velocity_field: VelocityField, noise: Tensor, times: Tensor) -> Tensor:
    """The clean latents at the end of the path that starts at `noise`, in fp32 (paper, eq. 6)."""
    return integrate(velocity_field, noise, times)


@torch.no_grad()
def sample_segment(
    model: MemoryPackTransformer3DModel,
    context: SegmentContext,
    condition: Condition,
    *,
    noise: Tensor,
    times: Tensor,
    guidance_scale: float,
    rope_mode: RopeMode,
) -> Tensor:
    """The next segment's latents, (B, C, 9, H, W), fp32.

    Args:
        model: Backbone and memory.
        context: What is known before the segment.
        condition: Prompt and image.
        noise: Where the path starts, (B, C, 9, H, W).
        times: From `schedule`.
        guidance_scale: Guidance embedding.
        rope_mode: Where the start image sits on the time axis.
    """

    def velocity_field(x_t: Tensor, t: Tensor) -> Tensor:
        return predict_velocity(model, x_t, t, context, condition, guidance_scale=guidance_scale, rope_mode=rope_mode)

    return denoise(velocity_field, noise, times)


@torch.no_grad()
def advance(
    model: MemoryPackTransformer3DModel, context: SegmentContext, condition: Condition, segment_BCTHW: Tensor
) -> SegmentContext:
    """The context after a segment, outside of any graph."""
    return next_context(model, context, condition, segment_BCTHW)


def roll_out(
    model: MemoryPackTransformer3DModel,
    start_latent_BCTHW: Tensor,
    condition: Condition,
    *,
    num_segments: int,
    noise_of: Callable[[int], Tensor],
    times: Tensor,
    guidance_scale: float,
    rope_mode: RopeMode,
) -> Iterator[Tensor]:
    """Segments after a start image, one by one, each made from the model's own output before it.

    Args:
        model: Backbone and memory.
        start_latent_BCTHW: The start image, T = 1.
        condition: Prompt and image.
        num_segments: How many.
        noise_of: The noise of a segment, (B, C, 9, H, W), given its index.
        times: From `schedule`.
        guidance_scale: Guidance embedding.
        rope_mode: Where the start image sits on the time axis.

    Yields:
        Latents of a segment, (B, C, 9, H, W), fp32.
    """
    warn_if_too_long(model, num_segments, rope_mode)
    context = first_context(start_latent_BCTHW.float())
    for index in range(num_segments):
        segment = sample_segment(
            model,
            context,
            condition,
            noise=noise_of(index).to(start_latent_BCTHW.device),
            times=times,
            guidance_scale=guidance_scale,
            rope_mode=rope_mode,
        )
        yield segment
        if index + 1 < num_segments:
            context = advance(model, context, condition, segment)
