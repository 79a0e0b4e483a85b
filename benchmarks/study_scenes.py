"""The study's clips: rendered shots whose captions say what no start image shows, encoded as a shard holds them.

A caption names the colours, which the first frame shows too, and where the thing and the camera go, which it does not.
Nothing zooms or turns: over 20 segments such a camera would end at a single blob.

Shapes: N frames, H and W rows and columns of pixels, 3 colours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.codecs.dct import DctCodec
from preprocessing.members import StoredSample, to_bfloat16
from preprocessing.rendering.scenes import Frames, Shape
from preprocessing.rendering.shots import DIRECTIONS, Format, Shot, Thing, caption, shot_frames
from preprocessing.rendering.textures import COLOURS, Pattern
from preprocessing.samples import clip_num_frames
from training.batches import SampleReader
from training.order import keyed_rng
from training.types import ClipRow

FORM = Format(width_px=64, height_px=64, fps=24.0)
SIZES_PX = ((FORM.height_px, FORM.width_px),)
CODEC = DctCodec()

TRAIN_CLIPS = 256
TRAIN_SEGMENTS = 4
"""Of a training clip: the last one's history does not reach back to the first one's beginning."""

PATTERNS = (Pattern.CLOUDS, Pattern.STRIPES, Pattern.CHECKS, Pattern.PATCHES)
CAMERA = ("stands still", "pans right", "pans left", "tilts down", "tilts up", "drifts down and right")


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """Clips of one length, in memory.

    Attributes:
        rows: As the order of training takes them.
        samples: As a shard would hold them, by clip id.
    """

    rows: tuple[ClipRow, ...]
    samples: dict[str, StoredSample]

    @property
    def read(self) -> SampleReader:
        """Stands where shards are read."""
        return lambda row: self.samples[row.clip_id]


def random_shot(rng: np.random.Generator) -> Shot:
    """One thing of a colour of its own that goes somewhere over a two-coloured texture."""
    dark, light, colour = (str(name) for name in rng.choice(sorted(COLOURS), 3, replace=False))
    thing = Thing(colour=colour, shape=Shape(rng.choice(list(Shape))), direction=str(rng.choice(sorted(DIRECTIONS))))
    pattern = Pattern(rng.choice(list(PATTERNS)))
    return Shot(pattern=pattern, dark=dark, light=light, camera=str(rng.choice(CAMERA)), things=(thing,))


def encode(clip_id: str, frames_NHW3: Frames, words: str) -> StoredSample:
    """A clip as a shard holds it."""
    text = CODEC.encode_text(words)
    return StoredSample(
        key=clip_id,
        latents_CTHW=to_bfloat16(CODEC.encode_video(frames_NHW3)),
        start_latent_CTHW=to_bfloat16(CODEC.encode_image(frames_NHW3[0])),
        llama_LD=to_bfloat16(text.llama_LD),
        mask_L=text.mask_L,
        clip_pooled_D=to_bfloat16(text.clip_pooled_D),
        siglip_ND=to_bfloat16(CODEC.image_features(frames_NHW3[0])),
        metadata={"caption": words},
    )


def clip_set(name: str, seed: int, *, num_clips: int, num_segments: int) -> ClipSet:
    """Clips that depend on the name, the seed and their number alone."""
    samples = {sample.key: sample for sample in _samples(name, seed, num_clips, num_segments)}
    rows = tuple(
        ClipRow(
            clip_id=clip_id,
            dataset="rendered",
            shard="none",
            num_segments=num_segments,
            height_px=FORM.height_px,
            width_px=FORM.width_px,
        )
        for clip_id in samples
    )
    return ClipSet(rows=rows, samples=samples)


def _samples(name: str, seed: int, num_clips: int, num_segments: int) -> Iterator[StoredSample]:
    for i in range(num_clips):
        rng = keyed_rng("study", name, seed, i)
        shot = random_shot(rng)
        frames_NHW3 = shot_frames(shot, rng, clip_num_frames(num_segments), FORM)
        yield encode(f"{name}-{i:04d}", frames_NHW3, caption(shot))
