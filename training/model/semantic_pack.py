"""SemanticPack, the long-term memory: psi_{n+1} = Squeeze(psi_n, Memorize(x^n)) (paper, 3.1, eq. 1, and A.1).

Shapes: B batch, C latent channels, T, H, W latent frames, rows and columns (of tokens: the grid after the convolution),
N tokens, D memory width, M attention heads.

psi_0 is the prompt's and the start image's tokens. What it grows to, however long the video is, depends on the
structure (`FUSIONS`): one token for every `kernel` of latents in a segment (A), psi_0's own number (B), or both (C).
Two things the paper leaves open and this file decides: tokens get a fixed sinusoidal position inside their segment,
because nothing downstream knows where they came from; and Squeeze adds to the queries instead of replacing them:
without that residual psi_{n+1} of structure A lies in the span of psi_n's values, and no picture could ever be stored.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import MemoryConfig, Structure
from training.types import Condition, Memory

Grid = tuple[int, int, int]
"""Tokens along t, h, w."""

Fusion = Callable[[Memory, Memory], tuple[Memory, Memory]]
"""(psi_n, visual tokens of x^n) to Squeeze's queries, which become psi_{n+1}, and the tokens that they read."""


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys (as Wan's cross-attention)."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Projections of `width` features for each of queries, keys, values and output."""
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.to_out = nn.Linear(width, width)

    def forward(self, query_BND: Tensor, source_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Queries read from the source's tokens where its mask is true; no mask reads all."""
        q, k, v = self.norm_q(self.to_q(query_BND)), self.norm_k(self.to_k(source_BND)), self.to_v(source_BND)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = None if mask_BN is None else mask_BN[:, None, None, :].bool()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(-2))


class FeedForward(nn.Sequential):
    """Two linear layers with four times the width between them."""

    def __init__(self, width: int) -> None:
        """Keeps the width."""
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


class WindowBlock(nn.Module):
    """Self-attention inside windows that don't overlap, then a feed-forward layer; both residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Pre-normalised."""
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.feed = FeedForward(width)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """One block over windows laid out along the batch dimension."""
        normed = self.norm_attention(x_BND)
        x_BND = x_BND + self.attention(normed, normed, mask_BN)
        return x_BND + self.feed(self.norm_feed(x_BND))


class SqueezeBlock(nn.Module):
    """Queries read from other tokens, and keep what they are (residual); then a feed-forward layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        """Pre-normalised."""
        super().__init__()
        self.norm_query, self.norm_source, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.attention = Attention(width, num_heads)
        self.feed = FeedForward(width)

    def forward(self, x_BND: Tensor, source: Memory) -> Tensor:
        """The queries, enriched by what they find in the source; its padded tokens are never read."""
        x_BND = x_BND + self.attention(self.norm_query(x_BND), self.norm_source(source.tokens_BND), source.mask_BN)
        return x_BND + self.feed(self.norm_feed(x_BND))


def segment_queries_psi(psi: Memory, visual: Memory) -> tuple[Memory, Memory]:
    """Structure A: the last segment as it was, enriched by what came before."""
    return visual, psi


def psi_queries_segment(psi: Memory, visual: Memory) -> tuple[Memory, Memory]:
    """Structure B: the prompt's and the image's tokens, which collect what they find in every segment."""
    return psi, visual


def enriched_psi_queries_segment(psi: Memory, visual: Memory) -> tuple[Memory, Memory]:
    """Structure C: as B, with the first segment's tokens beside the prompt's and the image's."""
    return (join_tokens(psi, visual) if psi.num_segments == 0 else psi), visual


FUSIONS: Mapping[Structure, Fusion] = {
    "A": segment_queries_psi,
    "B": psi_queries_segment,
    "C": enriched_psi_queries_segment,
}
"""Who queries whom (paper, A.1, Fig. 6); another way to update the memory is a line here."""


def join_tokens(first: Memory, second: Memory) -> Memory:
    """The tokens of both, as many segments old as the first."""
    return Memory(
        tokens_BND=torch.cat([first.tokens_BND, second.tokens_BND], dim=1),
        mask_BN=torch.cat([first.mask_BN, second.mask_BN], dim=1),
        num_segments=first.num_segments,
    )


def pad_to_multiple(x_BCTHW: Tensor, kernel: Grid) -> Tensor:
    """Repeat the last frame, row and column until the kernel fits (as FramePack pads its history)."""
    t, h, w = (-size % step for size, step in zip(x_BCTHW.shape[2:], kernel, strict=True))
    return F.pad(x_BCTHW, (0, w, 0, h, 0, t), mode="replicate") if t or h or w else x_BCTHW


def split_windows(x_BTHWD: Tensor, window: Grid) -> Tensor:
    """Cut a padded grid of tokens into windows: (B * windows, tokens of a window, D)."""
    t, h, w = window
    x = x_BTHWD.unflatten(3, (-1, w)).unflatten(2, (-1, h)).unflatten(1, (-1, t))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)


def join_windows(x: Tensor, window: Grid, grid: Grid) -> Tensor:
    """The inverse of `split_windows` for a padded grid: (B, T, H, W, D)."""
    t, h, w = (size // step for size, step in zip(grid, window, strict=True))
    x = x.reshape(-1, t, h, w, *window, x.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, *grid, x.shape[-1])


def position_embedding(grid: Grid, width: int, *, device: torch.device) -> Tensor:
    """Fixed sines and cosines of a token's place in its segment, (tokens, width), fp32; rows and columns as shares."""
    num_frequencies = math.ceil(width / 6)
    frequencies = 0.5 * math.pi * 2.0 ** torch.linspace(0, 5, num_frequencies, device=device)
    axes = [(torch.arange(size, device=device) + 0.5) / size for size in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    angles = (places[:, :, None] * frequencies).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class Memorize(nn.Module):
    """A segment as compact tokens: convolution, then attention inside windows (paper, 3.1)."""

    def __init__(self, in_channels: int, config: MemoryConfig) -> None:
        """Kernel, window, width and depth from the settings."""
        super().__init__()
        self.kernel, self.window = config.kernel, config.window
        self.patchify = nn.Conv3d(in_channels, config.width, kernel_size=config.kernel, stride=config.kernel)
        self.blocks = nn.ModuleList(WindowBlock(config.width, config.num_heads) for _ in range(config.depth))

    def forward(self, segment_BCTHW: Tensor) -> Tensor:
        """Tokens of a segment in the order t, h, w: (B, N, D).

        A segment that the kernel does not divide repeats its last frame, row or column. Where the window does not
        divide the grid of tokens, tokens that nobody attends to fill it up, and are dropped again.
        """
        features = self.patchify(pad_to_multiple(segment_BCTHW, self.kernel))
        grid: Grid = (features.shape[2], features.shape[3], features.shape[4])
        tokens_BND = features.flatten(2).transpose(1, 2)
        positions = position_embedding(grid, tokens_BND.shape[-1], device=tokens_BND.device)
        return self._attend((tokens_BND + positions.to(tokens_BND.dtype)).unflatten(1, grid))

    def _attend(self, x_BTHWD: Tensor) -> Tensor:
        B, T, H, W, D = x_BTHWD.shape
        pad_t, pad_h, pad_w = (-size % step for size, step in zip((T, H, W), self.window, strict=True))
        padding = (0, 0, 0, pad_w, 0, pad_h, 0, pad_t)
        real = F.pad(x_BTHWD.new_ones(B, T, H, W, 1), padding)
        x_BTHWD = F.pad(x_BTHWD, padding)
        windows = split_windows(x_BTHWD, self.window)
        mask = split_windows(real, self.window)[..., 0] if any(padding) else None
        for block in self.blocks:
            windows = block(windows, mask)
        whole = join_windows(windows, self.window, (T + pad_t, H + pad_h, W + pad_w))
        return whole[:, :T, :H, :W].reshape(B, T * H * W, D)


class SemanticPack(nn.Module):
    """psi: made from prompt and image, updated by every segment, read by the backbone as context tokens."""

    def __init__(
        self, config: MemoryConfig, *, in_channels: int, text_dim: int, image_dim: int, out_features: int
    ) -> None:
        """Layers of the memory.

        Args:
            config: Settings of the memory.
            in_channels: Latent channels.
            text_dim: Features of a text token.
            image_dim: Features of an image token.
            out_features: Features of the backbone's context tokens.
        """
        super().__init__()
        self.init, self.fuse = config.init, FUSIONS[config.structure]
        self.text_in = nn.Linear(text_dim, config.width)
        self.image_in = nn.Linear(image_dim, config.width)
        self.memorize = Memorize(in_channels, config)
        self.squeeze = nn.ModuleList(SqueezeBlock(config.width, config.num_heads) for _ in range(config.depth))
        self.norm_out = nn.LayerNorm(config.width)
        self.to_context = nn.Linear(config.width, out_features)

    def initial_memory(self, condition: Condition) -> Memory:
        """psi_0: the prompt's and the start image's tokens; of `zero` init, zeros of the same shape."""
        dtype = self.text_in.weight.dtype
        text, image = self.text_in(condition.text_BLD.to(dtype)), self.image_in(condition.image_BND.to(dtype))
        tokens = torch.cat([text, image], dim=1)
        ones = condition.text_mask_BL.new_ones(condition.image_BND.shape[:2])
        mask = torch.cat([condition.text_mask_BL, ones], dim=1)
        psi_0 = torch.zeros_like(tokens) if self.init == "zero" else tokens
        return Memory(tokens_BND=psi_0, mask_BN=mask, num_segments=0)

    def update(self, psi: Memory, segment_BCTHW: Tensor) -> Memory:
        """psi_{n+1} = Squeeze(psi_n, Memorize(x^n)) (paper, eq. 1).

        Args:
            psi: psi_n.
            segment_BCTHW: x^n, clean latents; at inference the model's own output.
        """
        tokens = self.memorize(segment_BCTHW.to(self.text_in.weight.dtype))
        visual = Memory(tokens_BND=tokens, mask_BN=psi.mask_BN.new_ones(tokens.shape[:2]), num_segments=1)
        query, source = self.fuse(psi, visual)
        tokens = query.tokens_BND
        for block in self.squeeze:
            tokens = block(tokens, source)
        return Memory(tokens_BND=tokens, mask_BN=query.mask_BN, num_segments=psi.num_segments + 1)

    def as_context(self, psi: Memory) -> Memory:
        """The memory as tokens of the backbone's context stream, which has features of its own."""
        return replace(psi, tokens_BND=self.to_context(self.norm_out(psi.tokens_BND)))
