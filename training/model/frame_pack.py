"""FramePack's short-term context: which history the model sees, and how strongly it is compressed.

The last 19 latent frames, oldest first: 16 compressed 4x per axis, 2 compressed 2x, 1 at full detail; and the start
image at full detail (FramePack-F1). Before the first segment the history is zeros and, as its last frame, the start
image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY_SIZES = (16, 2, 1)
"""Latent frames at 4x, 2x and 1x, oldest first (FramePack-F1)."""

NUM_HISTORY = sum(HISTORY_SIZES)


@dataclass(frozen=True, kw_only=True)
class PackedHistory:
    """The history as the backbone takes it; the compression itself is a convolution in the backbone.

    Attributes:
        clean_BCTHW: Start image and last frame, T = 2.
        history_2x_BCTHW: T = 2.
        history_4x_BCTHW: T = 16.
    """

    clean_BCTHW: Tensor
    history_2x_BCTHW: Tensor
    history_4x_BCTHW: Tensor


def empty_history(start_latent_BCTHW: Tensor) -> Tensor:
    """The history before the first segment: 18 frames of zeros and the start image (FramePack-F1)."""
    B, C, T, H, W = start_latent_BCTHW.shape
    if T != 1:
        raise ValueError(f"start latent of {T} frames; expected the one frame of the start image")
    zeros = start_latent_BCTHW.new_zeros(B, C, NUM_HISTORY - 1, H, W)
    return torch.cat([zeros, start_latent_BCTHW], dim=2)


def append_history(history_BCTHW: Tensor, segment_BCTHW: Tensor) -> Tensor:
    """The last 19 latent frames after a segment."""
    return torch.cat([history_BCTHW, segment_BCTHW.to(history_BCTHW.dtype)], dim=2)[:, :, -NUM_HISTORY:]


def pack_history(history_BCTHW: Tensor, start_latent_BCTHW: Tensor) -> PackedHistory:
    """Split 19 frames of history into what is compressed 4x, 2x, and not at all."""
    if history_BCTHW.shape[2] != NUM_HISTORY:
        raise ValueError(f"history of {history_BCTHW.shape[2]} latent frames; expected {NUM_HISTORY}")
    quarter, half, last = history_BCTHW.split(list(HISTORY_SIZES), dim=2)
    clean = torch.cat([start_latent_BCTHW, last], dim=2)
    return PackedHistory(clean_BCTHW=clean, history_2x_BCTHW=half, history_4x_BCTHW=quarter)
