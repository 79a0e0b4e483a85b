"""Clips whose sample cannot be read, where the recipe goes on without them (`train.skip_broken`).

The gradient of a step is then the mean over the segments of the clips that were read, on any number of ranks. Which
passes a rank runs does not change: where all clips of a batch are broken, zeros of a clip's shape stand in for it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from preprocessing.members import StoredSample
from preprocessing.samples import CodecRecord, clip_num_latents
from training.batches import BrokenSampleError, SampleReader, clip_batch
from training.engine.base import Engine
from training.order import stacks_of_rank
from training.types import ClipRow, Condition, GlobalStep, SegmentBatch

logger = logging.getLogger(__name__)

HealthyReader = Callable[[ClipRow], StoredSample | None]
"""Reads one clip of the manifest; None if it cannot be read."""


def healthy_reader(read: SampleReader) -> HealthyReader:
    """Takes a broken sample for none, and warns of it the first time."""
    warned: set[ClipRow] = set()

    def read_healthy(row: ClipRow) -> StoredSample | None:
        try:
            return read(row)
        except BrokenSampleError as error:
            if row not in warned:
                logger.warning("clip %s of %s is left out: %s", row.clip_id, row.dataset, error.__cause__ or error)
            warned.add(row)
            return None

    return read_healthy


def healthy_batches(
    step: GlobalStep, read: HealthyReader, codec: CodecRecord, *, rank: int, num_ranks: int, device: torch.device
) -> tuple[SegmentBatch, ...]:
    """A rank's share of a global step without the clips that cannot be read.

    Args:
        step: What all ranks do.
        read: Reads a clip.
        codec: Who wrote the latents.
        rank: This rank, from 0.
        num_ranks: All ranks.
        device: Where the batches go.

    Raises:
        ValueError: If a clip is not what the manifest says, or the ranks cannot share the clips.
    """
    return tuple(
        _healthy_batch(step, stack, read, codec, device)
        for stack in stacks_of_rank(step, rank=rank, num_ranks=num_ranks)
    )


def _healthy_batch(
    step: GlobalStep, stack: Sequence[int], read: HealthyReader, codec: CodecRecord, device: torch.device
) -> SegmentBatch:
    samples = {position: sample for position in stack if (sample := read(step.clips[position])) is not None}
    if not samples:
        return stand_in(step, stack[0], codec, device)
    num_segments = step.num_segments[stack[0]]
    return clip_batch(list(samples.values()), list(samples), num_segments=num_segments, device=device)


def stand_in(step: GlobalStep, position: int, codec: CodecRecord, device: torch.device) -> SegmentBatch:
    """Zeros of the shape of the clip at a position, without a name and hence without weight in the mean of the losses."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(1, *shape, device=device)

    height, width = (side // codec.spatial_stride for side in step.clips[position].size_px)
    num_latents = clip_num_latents(step.num_segments[position])
    return SegmentBatch(
        clip_ids=(),
        latents_BCTHW=zeros(codec.latent_channels, num_latents, height, width),
        start_latent_BCTHW=zeros(codec.latent_channels, 1, height, width),
        condition=Condition(
            text_BLD=zeros(codec.text_tokens, codec.text_dim),
            text_mask_BL=torch.ones(1, codec.text_tokens, dtype=torch.int64, device=device),
            pooled_BD=zeros(codec.pooled_dim),
            image_BND=zeros(codec.image_tokens, codec.image_dim),
        ),
        positions=(position,),
    )


def without_broken(engine: Engine, step: GlobalStep, batches: Sequence[SegmentBatch]) -> GlobalStep:
    """The step as it is trained, the same on all ranks, which must all call it.

    Args:
        engine: To ask the other ranks.
        step: As it was planned.
        batches: This rank's share of it, as `healthy_batches` gives it.
    """
    read = {position for batch in batches if not batch.is_stand_in for position in batch.positions}
    counts = engine.sum_over_ranks([float(position in read) for position in range(len(step.clips))])
    return replace(step, broken=frozenset(position for position, count in enumerate(counts) if not count))


def readable(engine: Engine, rows: Sequence[ClipRow], read: HealthyReader) -> tuple[int, ...]:
    """Which of some clips, by number, every rank can read; all ranks must call it."""
    counts = engine.sum_over_ranks([float(read(row) is not None) for row in rows])
    return tuple(number for number, count in enumerate(counts) if count == engine.num_ranks)
