"""Flow matching (paper, 3.2, eq. 3 to 7), and the only file that knows the backbone's convention.

The paper's time t runs from 0 (noise) to 1 (data) and its velocity is d x_t / d t = data - noise. HunyuanVideo's sigma
is 1 - t, its timestep is 1000 sigma, and its output is noise - data: the paper's velocity with the other sign.

Shapes: B batch, then any dimensions, usually C, T, H, W.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from training.config import TimesConfig
from training.types import FlowSample

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t (B,)) to the velocity at x_t."""

TRAIN_TIMESTEPS = 1000.0
"""The backbone's timestep at pure noise."""


def append_dims(t: Tensor, ndim: int) -> Tensor:
    """Times (B,) as (B, 1, 1, ...) with `ndim` dimensions."""
    return t.reshape(-1, *(1,) * (ndim - 1))


def _check_times(t: Tensor, x: Tensor) -> None:
    if t.shape != x.shape[:1]:
        raise ValueError(f"t of shape {tuple(t.shape)} beside a batch of {x.shape[0]}; expected one time per sample")


def flow_sample(data: Tensor, noise: Tensor, t: Tensor) -> FlowSample:
    """The point at time t on the straight path from noise to data, and the velocity there (paper, eq. 3 and 4).

    Args:
        data: Clean latents, (B, ...).
        noise: Standard normal noise, same shape.
        t: Time in [0, 1], (B,); 0 is noise and 1 is data.

    Raises:
        ValueError: If t does not hold one time per sample, or the shapes differ.
    """
    _check_times(t, data)
    if noise.shape != data.shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} for data of shape {tuple(data.shape)}")
    data, noise = data.float(), noise.float()
    t_B = append_dims(t.float(), data.ndim)
    return FlowSample(x_t=t_B * data + (1 - t_B) * noise, target_velocity=data - noise, noise=noise, data=data, t=t)


def flow_matching_loss_per_sample(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the velocity for each sample, (B,), in fp32 (paper, eq. 5 before the expectation)."""
    return (velocity.float() - target.float()).square().flatten(1).mean(dim=1)


def loss_weight(t: Tensor, weighting: Literal["none", "cosmap"]) -> Tensor:
    """How much a time counts in the loss, (B,): the same at all times, or SD3's CosMap, whose mean over t is 1 as well."""
    return torch.ones_like(t) if weighting == "none" else 2 / (math.pi * (1 - 2 * t + 2 * t.square()))


def velocity_to_data(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The clean latents that a straight path would reach from here, in fp32 (paper, eq. 7).

    Args:
        x_t: Noised latents, (B, ...).
        velocity: Predicted d x_t / d t, same shape.
        t: Time in [0, 1], (B,).

    Raises:
        ValueError: If t does not hold one time per sample.
    """
    _check_times(t, x_t)
    return x_t.float() + append_dims(1 - t.float(), x_t.ndim) * velocity.float()


def integrate(velocity_field: VelocityField, x_0: Tensor, times: Tensor) -> Tensor:
    """The end of the path that starts at x_0, by Euler steps in fp32 (paper, eq. 6).

    Args:
        velocity_field: Called once a step with (x_t, t (B,)).
        x_0: Where the path starts, (B, ...); noise for times that start at 0.
        times: Increasing times in [0, 1], one more than there are steps; double keeps 1 - t exact.
    """
    x_t = x_0.float()
    for i in range(len(times) - 1):
        velocity = velocity_field(x_t, times[i].to(x_t.device).expand(len(x_t)))
        x_t = x_t + (times[i + 1] - times[i]).float().to(x_t.device) * velocity.float()
    return x_t


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Sigma moved towards noise: s sigma / (1 + (s - 1) sigma) (FramePack; s = 1 changes nothing)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sample_times(normals: Tensor, config: TimesConfig) -> Tensor:
    """Training times t, one for each standard normal number given: logit-normal sigma, shifted.

    Args:
        normals: Standard normal numbers, (B,); drawn by the caller, so that they can be keyed by sample and step.
        config: Mean and deviation of the normal under the sigmoid, and the shift.
    """
    sigma = torch.sigmoid(config.logit_mean + config.logit_std * normals.float())
    return 1 - shift_sigma(sigma, config.shift)


def sigma_to_time(sigma: Tensor) -> Tensor:
    """The paper's t of the backbone's sigma."""
    return 1 - sigma


def timestep_of(t: Tensor) -> Tensor:
    """The backbone's timestep, 1000 (1 - t), in fp32: bf16 turns 999 into 1000."""
    return ((1 - t) * TRAIN_TIMESTEPS).float()


def velocity_of_backbone(output: Tensor) -> Tensor:
    """The paper's velocity from the backbone's output, in fp32."""
    return -output.float()
