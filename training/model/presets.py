"""Sizes of the backbone, in one table, and how a model of a size is built."""

from dataclasses import dataclass

import torch

from preprocessing.samples import CodecRecord
from training.config import ModelConfig
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.rope import ROPE_THETA, repeated_positions


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the backbone that no codec decides.

    Attributes:
        num_heads: Attention heads.
        head_dim: Features of a head; even.
        num_dual_layers: Blocks with streams of their own for latents and context.
        num_single_layers: Blocks with one joint stream.
        num_refiner_layers: Blocks of the text token refiner.
        rope_axes_dim: Rotated features of a head along t, h, w; even, and together `head_dim`.
    """

    num_heads: int
    head_dim: int
    num_dual_layers: int
    num_single_layers: int
    num_refiner_layers: int
    rope_axes_dim: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Refuse rotations that don't fill a head."""
        if sum(self.rope_axes_dim) != self.head_dim or any(dim % 2 for dim in self.rope_axes_dim):
            raise ValueError(f"rope_axes_dim {self.rope_axes_dim} must be even and add up to head_dim {self.head_dim}")


PRESETS = {
    # Tests: the smallest in which every part exists; about 0.15 million parameters.
    "tiny": Preset(
        num_heads=2, head_dim=16, num_dual_layers=1, num_single_layers=1, num_refiner_layers=1, rope_axes_dim=(4, 6, 6)
    ),
    # The demo: as wide as `small`, since a narrower model cannot pass a patch of 2 x 2 x 16 numbers on, and half as deep.
    "demo": Preset(
        num_heads=4, head_dim=32, num_dual_layers=1, num_single_layers=2, num_refiner_layers=1, rope_axes_dim=(8, 12, 12)
    ),
    # A study on a laptop; about 3 million parameters.
    "small": Preset(
        num_heads=4, head_dim=32, num_dual_layers=2, num_single_layers=4, num_refiner_layers=1, rope_axes_dim=(8, 12, 12)
    ),
    # lllyasviel/FramePack_F1_I2V_HY_20250503: 12,874,314,816 parameters with the HunyuanVideo codec.
    "framepack_f1": Preset(
        num_heads=24, head_dim=128, num_dual_layers=20, num_single_layers=40, num_refiner_layers=2, rope_axes_dim=(16, 56, 56)
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """A row of the table.

    Raises:
        ValueError: If there is no such row.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; model.preset is one of {', '.join(PRESETS)}")
    return PRESETS[name]


def ambiguous_distances(config: ModelConfig, num_segments: int) -> str | None:
    """Says so where a video of so many segments is longer than the model's positions can tell; None where it is not."""
    temporal_dim = preset(config.preset).rope_axes_dim[0]
    return repeated_positions(num_segments, config.rope_mode, temporal_dim=temporal_dim, theta=ROPE_THETA)


def build_model(
    config: ModelConfig, codec: CodecRecord, *, device: torch.device | str, seed: int
) -> MemoryPackTransformer3DModel:
    """A model with fresh weights, drawn from `seed` and nothing else.

    Args:
        config: Size and memory.
        codec: Whose latents and features the model will read.
        device: Where; `meta` gives shapes without memory.
        seed: Of the weights.
    """
    size = preset(config.preset)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        return MemoryPackTransformer3DModel(
            in_channels=codec.latent_channels,
            out_channels=codec.latent_channels,
            num_attention_heads=size.num_heads,
            attention_head_dim=size.head_dim,
            num_layers=size.num_dual_layers,
            num_single_layers=size.num_single_layers,
            num_refiner_layers=size.num_refiner_layers,
            rope_axes_dim=size.rope_axes_dim,
            text_embed_dim=codec.text_dim,
            pooled_projection_dim=codec.pooled_dim,
            image_proj_dim=codec.image_dim,
            memory=config.memory.model_dump() if config.memory.enabled else None,
        )
