"""Temporal indices of the rotary position embedding (paper, 3.1, RoPE consistency, eq. 2).

Index 20 + k is frame k of the segment being made in `f1` and `relative_start`; the 19 frames before it are its history.
What differs is where the start image sits. Counted in the whole video the start image is frame 0 and segment n begins
at frame 1 + 9 n; `absolute` uses these numbers as they are, which is the paper's sentence ("we assign the image the
initial index of the entire video"). `relative_start` moves all of them by 19 - 9 n: the same distances between any two
latents, hence the same rotations between them (eq. 2), but the segment stays where FramePack-F1 learned to have it.
That matters because text and image tokens carry no rotation: attention to them sees the bare indices.
"""

import logging
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from preprocessing.samples import LATENTS_PER_SEGMENT
from training.model.frame_pack import HISTORY_SIZES, NUM_HISTORY

RopeMode = Literal["f1", "relative_start", "absolute"]

FIRST_NOISE_INDEX = 1 + NUM_HISTORY
"""Index of a segment's first frame in FramePack-F1: after the start image and the history."""

ROPE_THETA = 256.0
"""Base of the rotations' wavelengths, in HunyuanVideo and all that came of it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TemporalIndices:
    """Indices on the time axis, fp32, shared by the whole batch.

    Attributes:
        clean: Of the start image and the last history frame, (2,).
        history_2x: (2,).
        history_4x: (16,).
        segment: Of the frames being made, (9,).
    """

    clean: Tensor
    history_2x: Tensor
    history_4x: Tensor
    segment: Tensor

    def flat(self) -> Tensor:
        """All 30 positions in time order: start image, history from the oldest, segment."""
        return torch.cat([self.clean[:1], self.history_4x, self.history_2x, self.clean[1:], self.segment])


def start_index(segment_index: int, mode: RopeMode) -> int:
    """Index of the start image when segment `segment_index` is made."""
    relative = FIRST_NOISE_INDEX - (1 + LATENTS_PER_SEGMENT * segment_index)
    return relative if mode == "relative_start" else 0


def temporal_indices(segment_index: int, mode: RopeMode, *, device: torch.device | str) -> TemporalIndices:
    """Where every latent frame sits on the time axis when segment `segment_index`, from 0, is made."""
    first = 1 + LATENTS_PER_SEGMENT * segment_index if mode == "absolute" else FIRST_NOISE_INDEX
    window = torch.arange(first - NUM_HISTORY, first + LATENTS_PER_SEGMENT, device=device, dtype=torch.float32)
    quarter, half, last, segment = window.split([*HISTORY_SIZES, LATENTS_PER_SEGMENT])
    start = torch.tensor([start_index(segment_index, mode)], device=device, dtype=torch.float32)
    return TemporalIndices(clean=torch.cat([start, last]), history_2x=half, history_4x=quarter, segment=segment)


def longest_wavelength(temporal_dim: int, theta: float) -> float:
    """Latent frames after which the slowest temporal rotation repeats: 804 for FramePack (16 dimensions, theta 256)."""
    return 2 * math.pi * theta ** ((temporal_dim - 2) / temporal_dim)


def repeated_positions(num_segments: int, mode: RopeMode, *, temporal_dim: int, theta: float) -> str | None:
    """Says so where the start image is further away than the rotary embedding can tell; None where it is not."""
    distance = LATENTS_PER_SEGMENT * num_segments
    wavelength = longest_wavelength(temporal_dim, theta)
    if mode == "f1" or distance <= wavelength:
        return None
    return (
        f"the last of {num_segments} segments lies {distance} latent frames after the start image, beyond the longest"
        f" wavelength of the position embedding ({wavelength:.0f}): distances become ambiguous there"
    )


def warn_if_positions_repeat(num_segments: int, mode: RopeMode, *, temporal_dim: int, theta: float) -> None:
    """Log it as a warning."""
    repeated = repeated_positions(num_segments, mode, temporal_dim=temporal_dim, theta=theta)
    if repeated:
        logger.warning("%s", repeated)
