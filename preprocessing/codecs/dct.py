"""The embedded codec: the geometry of the HunyuanVideo VAE (4 x 8 x 8, 16 channels, 1 + 4k frames) without weights.

Every block of 4 x 8 x 8 pixels goes through an orthonormal 3-D DCT of its Y'CbCr planes (full-range BT.601), and 16
coefficients are kept, so encoding is one linear map of 768 pixel values to 16 numbers. Decoding is the reverse map; it
adds slopes of the two chroma planes, which are not kept, as a block's neighbours suggest them. They are orthogonal to
what is kept: `encode(decode(z))` gives z back, up to the rounding and clipping of pixels.

The first frame of a clip stands for a block of four equal frames. Hence its latent is the same whether the frame is
encoded alone or as the beginning of a clip, and its temporal channels say "nothing moves".

Letters: B blocks, P pixel values of a block (4 x 8 x 8 x 3 = 768), C latent channels, T, H, W latent frames, rows, columns.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocessing.codecs.base import Frame, Latents, check_size, first_and_groups, start_and_segments
from preprocessing.codecs.hashed_features import (
    IMAGE_DIM,
    IMAGE_TOKENS,
    POOLED_DIM,
    TEXT_DIM,
    TEXT_TOKENS,
    hashed_text,
    pooled_thumbnail,
)
from preprocessing.samples import FRAMES_PER_LATENT, CodecRecord, TextFeatures

VERSION = 1
"""Bumped by hand when the same pixels would give other latents or features."""

STRIDE = 8
"""Pixels behind a latent row or column."""


class Channel(NamedTuple):
    """One kept coefficient and the constants that bring it to about zero mean and unit standard deviation."""

    plane: int
    t: int
    y: int
    x: int
    mean: float
    std: float


# Which 16: the largest by energy over 18 natural videos of the test collection (72 frames at 24 a second, centre crop, at
# 64, 128 and 256 px; chroma weighted by what its error costs in RGB), made symmetric in x and y. Ranked at 64 px: luma with
# x + y <= 3 and the two chroma means hold 12 of the first 18 places, temporal change of the mean and of the two slopes 10,
# 16 and 27; at 256 px 6, 16 and 19, and the second temporal order of the mean is 10. The best unsymmetric set is 0.08 dB better.
# Mean and deviation: the same videos, variances averaged over the three sizes; planes in units where white is 1, luma - 0.5.
CHANNELS = (
    Channel(plane=0, t=0, y=0, x=0, mean=-0.207, std=4.142),
    Channel(plane=0, t=0, y=0, x=1, mean=0.0, std=0.635),
    Channel(plane=0, t=0, y=1, x=0, mean=0.0, std=0.736),
    Channel(plane=0, t=0, y=0, x=2, mean=0.0, std=0.354),
    Channel(plane=0, t=0, y=1, x=1, mean=0.0, std=0.327),
    Channel(plane=0, t=0, y=2, x=0, mean=0.0, std=0.404),
    Channel(plane=0, t=0, y=0, x=3, mean=0.0, std=0.221),
    Channel(plane=0, t=0, y=1, x=2, mean=0.0, std=0.230),
    Channel(plane=0, t=0, y=2, x=1, mean=0.0, std=0.220),
    Channel(plane=0, t=0, y=3, x=0, mean=0.0, std=0.251),
    Channel(plane=0, t=1, y=0, x=0, mean=0.0, std=0.377),
    Channel(plane=0, t=1, y=0, x=1, mean=0.0, std=0.195),
    Channel(plane=0, t=1, y=1, x=0, mean=0.0, std=0.147),
    Channel(plane=0, t=2, y=0, x=0, mean=0.0, std=0.215),
    Channel(plane=1, t=0, y=0, x=0, mean=-0.365, std=0.885),
    Channel(plane=2, t=0, y=0, x=0, mean=0.190, std=0.759),
)

CHROMA = (14, 15)
"""The channels that hold the mean of a chroma plane."""

SLOPES = (
    Channel(plane=1, t=0, y=0, x=1, mean=0.0, std=1.0),
    Channel(plane=2, t=0, y=0, x=1, mean=0.0, std=1.0),
    Channel(plane=1, t=0, y=1, x=0, mean=0.0, std=1.0),
    Channel(plane=2, t=0, y=1, x=0, mean=0.0, std=1.0),
)
"""Chroma coefficients that decoding predicts."""

SLOPE_GAIN = -0.18
"""Slope for a difference of 1 between a block's two neighbours: least squares gives -0.170 to -0.193 over planes, directions
and sizes of the same videos. It buys 0.16 dB there, 2 dB on saturated rendered scenes, and removes the blocks of colour."""

RGB_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""Full-range BT.601, as in JPEG; rows Y', Cb, Cr."""

GREY = 127.5
"""The pixel value that gives zero coefficients everywhere."""


def dct_basis(size: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II: row k is the k-th cosine, (size, size)."""
    k, i = np.arange(size)[:, None], np.arange(size)[None, :]
    basis = np.cos(np.pi * (2 * i + 1) * k / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis


def patterns(channels: Sequence[Channel], color_33: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every coefficient's pattern over a block's pixels, (C, P), coloured by its plane's row of `color_33`."""
    time, space = dct_basis(FRAMES_PER_LATENT), dct_basis(STRIDE)
    rows = [np.einsum("t,y,x,c->tyxc", time[c.t], space[c.y], space[c.x], color_33[c.plane]).ravel() for c in channels]
    return np.stack(rows)


def predicted_slopes(means_2HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """The coefficients of `SLOPES`, (4, H, W), from the means of the two chroma planes (as JPEG decoders smooth blocks)."""
    padded = np.pad(means_2HW, ((0, 0), (1, 1), (1, 1)), mode="edge")
    along_x = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    along_y = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return np.float32(SLOPE_GAIN) * np.concatenate([along_x, along_y])


def _constants_sha256() -> str:
    return hashlib.sha256(repr((VERSION, CHANNELS, RGB_TO_YCBCR.tolist())).encode()).hexdigest()


def _to_blocks(frames_4HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut four frames into blocks, (B, P)."""
    _, height_px, width_px, _ = frames_4HWC.shape
    cut = frames_4HWC.reshape(FRAMES_PER_LATENT, height_px // STRIDE, STRIDE, width_px // STRIDE, STRIDE, 3)
    return cut.transpose(1, 3, 0, 2, 4, 5).reshape(-1, FRAMES_PER_LATENT * STRIDE * STRIDE * 3)


def _from_blocks(pixels_BP: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Put blocks together again, (4, height_px, width_px, 3)."""
    cut = pixels_BP.reshape(rows, columns, FRAMES_PER_LATENT, STRIDE, STRIDE, 3)
    return cut.transpose(2, 0, 3, 1, 4, 5).reshape(FRAMES_PER_LATENT, rows * STRIDE, columns * STRIDE, 3)


class DctCodec:
    """A `Codec` of fixed constants; one latent frame of pixels in memory at a time."""

    def __init__(self) -> None:
        """Compute the two linear maps."""
        self._mean_C, self._std_C = np.array([(c.mean, c.std) for c in CHANNELS]).T
        self._encode_PC = (patterns(CHANNELS, RGB_TO_YCBCR) / 255).T
        ycbcr_to_rgb = np.linalg.inv(RGB_TO_YCBCR).T
        self._decode_CP = (patterns((*CHANNELS, *SLOPES), ycbcr_to_rgb) * 255).astype(np.float32)

    @property
    def record(self) -> CodecRecord:
        """Sizes of this codec; its weights are its constants."""
        return CodecRecord(
            codec_id="dct",
            latent_channels=len(CHANNELS),
            spatial_stride=STRIDE,
            text_dim=TEXT_DIM,
            text_tokens=TEXT_TOKENS,
            pooled_dim=POOLED_DIM,
            image_dim=IMAGE_DIM,
            image_tokens=IMAGE_TOKENS,
            weights_sha256=_constants_sha256(),
            options={"version": VERSION},
        )

    def encode_video(self, frames: Iterable[Frame]) -> Latents:
        """Encode 1 + 4k frames to (C, 1 + k, H, W)."""
        return np.stack([self._encode_group(group) for group in first_and_groups(frames)], axis=1)

    def encode_image(self, frame: Frame) -> Latents:
        """Encode one picture to (C, 1, H, W): exactly the first latent of any clip that begins with it."""
        return self._encode_group([frame])[:, None]

    def encode_text(self, caption: str) -> TextFeatures:
        """Hashed n-grams of the caption."""
        return hashed_text(caption)

    def image_features(self, frame: Frame) -> NDArray[np.float32]:
        """The pooled thumbnail, (N, D)."""
        return pooled_thumbnail(frame)

    def decode_stream(self, chunks: Iterable[Latents]) -> Iterator[Frame]:
        """One frame for the start latent, then four for every latent."""
        start, segments = start_and_segments(chunks)
        yield self._decode_latent(start[:, 0])[0]
        for segment in segments:
            for k in range(segment.shape[1]):
                yield from self._decode_latent(segment[:, k])

    def _encode_group(self, group: list[Frame]) -> NDArray[np.float32]:
        """One frame (stands for four equal ones) or four frames to (C, H, W)."""
        for frame in group:
            check_size(frame, STRIDE)
        frames_4HWC = np.stack(group if len(group) == FRAMES_PER_LATENT else group * FRAMES_PER_LATENT)
        # fp64: the order in which BLAS sums changes bits that fp32 rounds away, so threads never show in the latents.
        latents_BC = ((_to_blocks(frames_4HWC) - GREY) @ self._encode_PC - self._mean_C) / self._std_C
        _, height_px, width_px, _ = frames_4HWC.shape
        cells = latents_BC.T.reshape(-1, height_px // STRIDE, width_px // STRIDE)
        return np.ascontiguousarray(cells, dtype=np.float32)

    def _decode_latent(self, latent_CHW: NDArray[np.float32]) -> NDArray[np.uint8]:
        """One latent frame to its four frames, (4, height_px, width_px, 3)."""
        _, rows, columns = latent_CHW.shape
        mean_C11, std_C11 = np.float32(self._mean_C[:, None, None]), np.float32(self._std_C[:, None, None])
        kept_CHW = latent_CHW * std_C11 + mean_C11
        all_CHW = np.concatenate([kept_CHW, predicted_slopes(kept_CHW[CHROMA, :, :])])
        pixels_BP = all_CHW.reshape(len(all_CHW), -1).T @ self._decode_CP + np.float32(GREY)
        return _from_blocks(np.clip(np.rint(pixels_BP), 0, 255).astype(np.uint8), rows, columns)
