"""Clips in which something goes out of sight and comes back, made directly as latents: no video, no codec.

The world is a picture of 2 x 3 tiles, each of one random colour. The camera sees the right 2 x 2 of them; the left
column is what goes out of sight. In the scene `camera` the camera pans there, back, and much later there again. In the
scene `object` it stands still, and the upper tile alone slides into the picture, out of it, and much later in again.

    frame     0       1   2..7           8..28         29..36
              start       in sight       out of sight  in sight again
    segment           0............9     1, 2, 3 begins at 28

Segment 3 knows the start image and its history, frames 9..27; what it must show again is in neither, nor in the
prompt, which names the scene, nor in the image features, which are those of the start image.

Shapes: B clips, C latent channels, T latent frames, H and W latent rows and columns, N image tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from preprocessing.samples import LATENTS_PER_SEGMENT, CodecRecord
from training.order import keyed_seed
from training.types import Condition, SegmentBatch

Scene = Literal["object", "camera"]
SCENES: tuple[Scene, ...] = ("object", "camera")

NUM_SEGMENTS = 4
RETURN_SEGMENT = NUM_SEGMENTS - 1
"""Where what was out of sight comes back."""

CHANNELS, TILE, SIZE = 4, 4, 8
"""Latent channels; rows and columns of a tile; those of the picture."""

CODEC = CodecRecord(
    codec_id="tiles", latent_channels=CHANNELS, spatial_stride=8, text_dim=len(SCENES), text_tokens=1,
    pooled_dim=len(SCENES), image_dim=CHANNELS + 4, image_tokens=4, weights_sha256="0" * 64, options={},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SceneBatch:
    """Clips, and where they show again what was out of sight.

    Attributes:
        clips: As an objective takes them.
        returns_BTHW: True for what comes back in segment `RETURN_SEGMENT`, T = 9.
    """

    clips: SegmentBatch
    returns_BTHW: Tensor


def columns_in_sight() -> tuple[int, ...]:
    """By frame, how many of the hidden tiles' columns are in the picture, from its left edge."""
    out, sight = [0], [2, 4, 4, 4, 4, 2]
    early = [*out * 2, *sight]
    again = [*out, 2, *[4] * 7]
    return (*early, *out * (1 + LATENTS_PER_SEGMENT * RETURN_SEGMENT - len(early)), *again)


def world_latents(colours_BCRK: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
    """A clip of each world, (B, C, T, H, W), and where it shows a hidden tile, (T, H, W).

    Args:
        colours_BCRK: Of the world's tiles, 2 rows and 3 columns; the first column is hidden at the start.
        scene: What brings it into sight.
    """
    world = colours_BCRK.repeat_interleave(TILE, dim=2).repeat_interleave(TILE, dim=3)
    still = world[..., TILE:]
    moved = [world[..., TILE - columns :][..., :SIZE] for columns in columns_in_sight()]
    panned_BCTHW = torch.stack(moved, dim=2)
    hidden_THW = hidden_tiles(scene)
    if scene == "camera":
        return panned_BCTHW, hidden_THW
    return torch.where(hidden_THW, panned_BCTHW, still[:, :, None]), hidden_THW


def hidden_tiles(scene: Scene) -> Tensor:
    """Where the picture shows a hidden tile, (T, H, W): all rows of it after a pan, the object's alone else."""
    columns_T11 = torch.tensor(columns_in_sight())[:, None, None]
    rows = SIZE if scene == "camera" else TILE
    return (torch.arange(SIZE) < columns_T11) & (torch.arange(SIZE)[:, None] < rows)


def scene_batch(num_clips: int, *key: int | str) -> SceneBatch:
    """Clips of a key: the scenes take turns, and every colour is a normal number in each channel.

    Args:
        num_clips: How many; a multiple of the number of scenes.
        key: Names the random numbers.
    """
    generator = torch.Generator().manual_seed(keyed_seed(*key))
    colours = torch.randn(num_clips, CHANNELS, 2, 3, generator=generator)
    parts = [world_latents(colours[i :: len(SCENES)], scene) for i, scene in enumerate(SCENES)]
    latents = torch.stack([latents for latents, _ in parts], dim=1).flatten(0, 1)
    hidden = torch.stack([hidden for _, hidden in parts]).repeat(num_clips // len(SCENES), 1, 1, 1)
    start = latents[:, :, :1]
    clips = SegmentBatch(
        clip_ids=tuple(f"{SCENES[i % len(SCENES)]}-{i // len(SCENES)}" for i in range(num_clips)),
        latents_BCTHW=latents,
        start_latent_BCTHW=start,
        condition=_condition(start),
        positions=tuple(range(num_clips)),
    )
    return SceneBatch(clips=clips, returns_BTHW=hidden[:, -LATENTS_PER_SEGMENT:])


def _condition(start_BCTHW: Tensor) -> Condition:
    """The scene's name as the prompt, and the start image's tiles as its features: colour and place."""
    num_clips = len(start_BCTHW)
    names = torch.eye(len(SCENES)).repeat(num_clips // len(SCENES), 1)
    colours_BNC = F.avg_pool2d(start_BCTHW[:, :, 0], TILE).flatten(2).transpose(1, 2)
    places = torch.eye(colours_BNC.shape[1]).expand(num_clips, -1, -1)
    return Condition(
        text_BLD=names[:, None],
        text_mask_BL=torch.ones(num_clips, 1, dtype=torch.int64),
        pooled_BD=names,
        image_BND=torch.cat([colours_BNC, places], dim=2),
    )
