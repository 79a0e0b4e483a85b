"""What a forward pass costs: tokens and floating-point operations, from the settings and the size of a picture alone.

Counted are the products of matrices, two operations for every multiplication and addition, as torch's
`FlopCounterMode` counts them; norms, activations, rotations and softmax are left out. For one clip without padded text.
A backward pass costs twice its forward pass, and once more where activations are recomputed.
"""

import math
from dataclasses import dataclass, replace
from math import prod

from preprocessing.samples import LATENTS_PER_SEGMENT, CodecRecord
from training.config import MemoryConfig, ModelConfig
from training.model.frame_pack import HISTORY_SIZES
from training.model.presets import preset
from training.model.semantic_pack import Grid

PATCH = 2
"""Latent rows and columns behind a token of the segment (FramePack)."""

TIME_FEATURES = 256
"""Sinusoidal features of a timestep or guidance scale (diffusers)."""


@dataclass(frozen=True, kw_only=True)
class SegmentTokens:
    """Tokens of the backbone's forward pass for one segment.

    Attributes:
        noise: Of the segment that is made.
        clean: Of the start image and the last history frame, at full detail.
        history_2x: Of the two frames before it.
        history_4x: Of the sixteen before those.
        image: Of the start image's features.
        memory: Of psi; 0 in segment 0.
        text: Of the prompt.
    """

    noise: int
    clean: int
    history_2x: int
    history_4x: int
    image: int
    memory: int
    text: int

    @property
    def latent(self) -> int:
        """Tokens with a position."""
        return self.noise + self.clean + self.history_2x + self.history_4x

    @property
    def context(self) -> int:
        """Tokens without a position."""
        return self.image + self.memory + self.text

    @property
    def total(self) -> int:
        """All that attend to each other."""
        return self.latent + self.context


@dataclass(frozen=True, kw_only=True)
class SegmentFlops:
    """Operations of one clip's forward passes.

    Attributes:
        first_segment: The backbone on segment 0, without memory.
        segment: The backbone on every later segment, with what brings psi into its context.
        initial_memory: psi_0.
        first_update: psi_1.
        update: Every later psi.
    """

    first_segment: int
    segment: int
    initial_memory: int
    first_update: int
    update: int

    def psi(self, segment_index: int) -> int:
        """psi_0 .. psi_n, which teacher forcing recomputes for segment n."""
        if segment_index == 0:
            return 0
        return self.initial_memory + self.first_update + (segment_index - 1) * self.update

    def backbone(self, segment_index: int) -> int:
        """The backbone on segment n."""
        return self.segment if segment_index else self.first_segment


def segment_tokens(config: ModelConfig, codec: CodecRecord, size_px: tuple[int, int]) -> SegmentTokens:
    """Tokens of a segment after the first.

    Args:
        config: Size and memory.
        codec: Whose latents, prompts and image features the model reads; prompts of full length.
        size_px: Height and width of a frame.
    """
    latent = _latent_size(codec, size_px)
    quarter, half, last = HISTORY_SIZES
    return SegmentTokens(
        noise=_num_tokens((LATENTS_PER_SEGMENT, *latent), (1, PATCH, PATCH)),
        clean=_num_tokens((1 + last, *latent), (1, PATCH, PATCH)),
        history_2x=_num_tokens((half, *latent), (2, 2 * PATCH, 2 * PATCH)),
        history_4x=_num_tokens((quarter, *latent), (4, 4 * PATCH, 4 * PATCH)),
        image=codec.image_tokens,
        memory=memory_tokens(config.memory, codec, size_px) if config.memory.enabled else 0,
        text=codec.text_tokens,
    )


def memory_tokens(config: MemoryConfig, codec: CodecRecord, size_px: tuple[int, int]) -> int:
    """Tokens of psi from psi_1 on (paper, A.1)."""
    guidance = codec.text_tokens + codec.image_tokens
    visual = visual_tokens(config, codec, size_px)
    return {"A": visual, "B": guidance, "C": guidance + visual}[config.structure]


def visual_tokens(config: MemoryConfig, codec: CodecRecord, size_px: tuple[int, int]) -> int:
    """Tokens that Memorize makes of a segment."""
    return prod(_memory_grid(config, codec, size_px))


def segment_flops(config: ModelConfig, codec: CodecRecord, size_px: tuple[int, int]) -> SegmentFlops:
    """Operations of one clip's forward passes; arguments as `segment_tokens`."""
    tokens = segment_tokens(config, codec, size_px)
    first, later = (backbone_flops(config, codec, t) for t in (replace(tokens, memory=0), tokens))
    if not config.memory.enabled:
        return SegmentFlops(first_segment=first, segment=first, initial_memory=0, first_update=0, update=0)
    memory = config.memory
    return SegmentFlops(
        first_segment=first,
        segment=later + linear(tokens.memory, memory.width, inner_dim(config)),
        initial_memory=initial_memory_flops(memory, codec),
        first_update=update_flops(memory, codec, size_px, psi=codec.text_tokens + codec.image_tokens),
        update=update_flops(memory, codec, size_px, psi=tokens.memory),
    )


def linear(tokens: int, features_in: int, features_out: int) -> int:
    """A linear layer, or a convolution whose windows don't overlap: one output token for each window."""
    return 2 * tokens * features_in * features_out


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted values, over all heads; projections apart."""
    return 2 * linear(queries, width, keys)


def inner_dim(config: ModelConfig) -> int:
    """Features of the backbone's tokens."""
    size = preset(config.preset)
    return size.num_heads * size.head_dim


def backbone_flops(config: ModelConfig, codec: CodecRecord, tokens: SegmentTokens) -> int:
    """One forward pass of diffusers' FramePack transformer."""
    size, D = preset(config.preset), inner_dim(config)
    patch = codec.latent_channels * PATCH**2
    dual = linear(tokens.total, D, 12 * D) + attention(tokens.total, tokens.total, D) + linear(1, D, 12 * D)
    single = linear(tokens.total, D, 12 * D) + attention(tokens.total, tokens.total, D) + linear(1, D, 3 * D)
    return (
        _embed_latents(tokens, patch, D)
        + _embed_text(tokens.text, codec, D, size.num_refiner_layers)
        + linear(tokens.image, codec.image_dim, 3 * D)
        + linear(tokens.image, 3 * D, D)
        + 2 * _embed_vector(TIME_FEATURES, D)  # time and guidance
        + _embed_vector(codec.pooled_dim, D)
        + size.num_dual_layers * dual
        + size.num_single_layers * single
        + linear(1, D, 2 * D)
        + linear(tokens.noise, D, patch)
    )


def _embed_latents(tokens: SegmentTokens, patch: int, D: int) -> int:
    return (
        linear(tokens.noise + tokens.clean, patch, D)
        + linear(tokens.history_2x, patch * 2**3, D)
        + linear(tokens.history_4x, patch * 4**3, D)
    )


def _embed_text(text: int, codec: CodecRecord, D: int, num_layers: int) -> int:
    layer = linear(text, D, 12 * D) + attention(text, text, D) + linear(1, D, 2 * D)
    vectors = _embed_vector(TIME_FEATURES, D) + _embed_vector(codec.text_dim, D)
    return linear(text, codec.text_dim, D) + vectors + num_layers * layer


def _embed_vector(features: int, D: int) -> int:
    return linear(1, features, D) + linear(1, D, D)


def initial_memory_flops(config: MemoryConfig, codec: CodecRecord) -> int:
    """psi_0: prompt and image in the memory's width."""
    return linear(codec.text_tokens, codec.text_dim, config.width) + linear(
        codec.image_tokens, codec.image_dim, config.width
    )


def update_flops(config: MemoryConfig, codec: CodecRecord, size_px: tuple[int, int], *, psi: int) -> int:
    """One update of psi (paper, eq. 1): Memorize, then Squeeze.

    Args:
        config: Settings of the memory.
        codec: Whose latents.
        size_px: Height and width of a frame.
        psi: Tokens of psi before the update.
    """
    visual = visual_tokens(config, codec, size_px)
    queries, source = {"A": (visual, psi), "B": (psi, visual), "C": (memory_tokens(config, codec, size_px), visual)}[
        config.structure
    ]
    return memorize_flops(config, codec, size_px) + config.depth * squeeze_flops(queries, source, config.width)


def memorize_flops(config: MemoryConfig, codec: CodecRecord, size_px: tuple[int, int]) -> int:
    """A segment to tokens; tokens that fill up a window are computed too."""
    grid, width = _memory_grid(config, codec, size_px), config.width
    filled = prod(_round_up(size, step) for size, step in zip(grid, config.window, strict=True))
    block = linear(filled, width, 12 * width) + attention(filled, prod(config.window), width)
    return linear(prod(grid), codec.latent_channels * prod(config.kernel), width) + config.depth * block


def squeeze_flops(queries: int, source: int, width: int) -> int:
    """One block of cross-attention and feed-forward layer."""
    return linear(queries, width, 10 * width) + linear(source, width, 2 * width) + attention(queries, source, width)


def _latent_size(codec: CodecRecord, size_px: tuple[int, int]) -> tuple[int, int]:
    height_px, width_px = size_px
    return height_px // codec.spatial_stride, width_px // codec.spatial_stride


def _memory_grid(config: MemoryConfig, codec: CodecRecord, size_px: tuple[int, int]) -> Grid:
    t, h, w = (LATENTS_PER_SEGMENT, *_latent_size(codec, size_px))
    kernel_t, kernel_h, kernel_w = config.kernel
    return math.ceil(t / kernel_t), math.ceil(h / kernel_h), math.ceil(w / kernel_w)


def _num_tokens(frames: Grid, kernel: Grid) -> int:
    """Windows that cover the frames, the last ones filled up."""
    return prod(math.ceil(size / step) for size, step in zip(frames, kernel, strict=True))


def _round_up(size: int, step: int) -> int:
    return math.ceil(size / step) * step
