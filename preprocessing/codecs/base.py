"""What a codec can do: pixels and captions to latents and features, and latents back to pixels.

Shapes: C latent channels, T latent frames, H and W latent rows and columns; N image tokens, L text tokens, D features.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from preprocessing.samples import FRAMES_PER_LATENT, CodecRecord, TextFeatures

Frame = NDArray[np.uint8]
"""One RGB picture, (height_px, width_px, 3)."""

Latents = NDArray[np.float32]
"""Scaled latents, (C, T, H, W)."""


class Codec(Protocol):
    """Encodes clips for training and decodes what the model made; memory never grows with pixels.

    The contract about frame counts, which the tests hold every codec to: 1 + 4k frames become 1 + k latent frames;
    a stream of chunks whose first is the start latent (T = 1) becomes one frame for it and 4 T frames for every
    later chunk.
    """

    @property
    def record(self) -> CodecRecord:
        """Which codec this is and the sizes that a model must have to read its latents and features."""
        ...

    def encode_video(self, frames: Iterable[Frame]) -> Latents:
        """Encode one clip of 1 + 4k frames, consumed as they come, to (C, 1 + k, H, W).

        Raises:
            ValueError: If the number of frames is not 1 + 4k, or their size is not a multiple of the stride.
        """
        ...

    def encode_image(self, frame: Frame) -> Latents:
        """Encode one picture alone, (C, 1, H, W); for a VAE this is not the first latent of its clip."""
        ...

    def encode_text(self, caption: str) -> TextFeatures:
        """Features of a caption, which may be empty: at least one token is real."""
        ...

    def image_features(self, frame: Frame) -> NDArray[np.float32]:
        """Semantic features of a picture, (N, D)."""
        ...

    def decode_stream(self, chunks: Iterable[Latents]) -> Iterator[Frame]:
        """Turn the start latent and the segments after it into frames, in constant memory.

        Frames may come later than their chunk, but all come.

        Raises:
            ValueError: If the first chunk is not one latent frame.
        """
        ...


def first_and_groups(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """The first frame by itself, then the frames behind every further latent, four at a time.

    Raises:
        ValueError: If the number of frames is not 1 + 4k.
    """
    source = iter(frames)
    group = list(islice(source, 1))
    if not group:
        raise ValueError("a clip without frames; a codec takes 1 + 4k of them")
    while group:
        yield group
        group = list(islice(source, FRAMES_PER_LATENT))
        if group and len(group) < FRAMES_PER_LATENT:
            raise ValueError(f"{len(group)} frames are left over: a codec takes 1 + 4k frames")


def start_and_segments(chunks: Iterable[Latents]) -> tuple[Latents, Iterator[Latents]]:
    """Separate the start latent from the segments that follow it.

    Raises:
        ValueError: If there is no chunk, or the first holds more than one latent frame.
    """
    source = iter(chunks)
    start = next(source, None)
    if start is None or start.ndim != 4 or start.shape[1] != 1:
        got = "no chunk at all" if start is None else f"shape {start.shape}"
        raise ValueError(f"decoding starts with one start latent (C, 1, H, W), got {got}")
    return start, source


def check_size(frame: Frame, stride: int) -> None:
    """Refuse pictures that do not divide into latent cells.

    Raises:
        ValueError: If the frame is not RGB bytes whose height and width are multiples of `stride`.
    """
    shape = frame.shape
    if frame.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or shape[0] % stride or shape[1] % stride:
        raise ValueError(
            f"a frame of shape {shape} and type {frame.dtype}; expected uint8 RGB, height and width in multiples of {stride}"
        )
