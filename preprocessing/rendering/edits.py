"""What an editor, a bad camera or a bad projector does to frames: transitions, and the ways in which footage is useless.

Shapes: N frames, H and W rows and columns, 3 colours in RGB order. A transition of n frames mixes n frames; none of them is
pure: a gradual change is the half-open range of mixed frames.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.rendering.scenes import Frames


def dissolve(first_NHW3: Frames, second_NHW3: Frames, num_mixed: int) -> Frames:
    """The last `num_mixed` frames of one shot mixed with the first of the next, which keep moving meanwhile."""
    weight_N111 = _ramp(num_mixed)
    mixed_NHW3 = _mix(first_NHW3[-num_mixed:], second_NHW3[:num_mixed], weight_N111)
    return np.concatenate([first_NHW3[:-num_mixed], mixed_NHW3, second_NHW3[num_mixed:]])


def fade_in(frames_NHW3: Frames, num_mixed: int) -> Frames:
    """The first `num_mixed` frames come out of black."""
    return fade_out(frames_NHW3[::-1], num_mixed)[::-1]


def fade_out(frames_NHW3: Frames, num_mixed: int) -> Frames:
    """The last `num_mixed` frames go to black; the very last is not quite black."""
    tail_NHW3 = frames_NHW3[-num_mixed:]
    black_NHW3 = np.zeros_like(tail_NHW3)
    return np.concatenate([frames_NHW3[:-num_mixed], _mix(tail_NHW3, black_NHW3, _ramp(num_mixed))])


def hold(frame_HW3: NDArray[np.uint8], num_frames: int) -> Frames:
    """A still."""
    return np.repeat(frame_HW3[None], num_frames, axis=0)


def flicker(frames_NHW3: Frames, *, depth: float, rng: np.random.Generator) -> Frames:
    """Brightness that jumps from frame to frame by up to `depth` of itself, as an old projector's."""
    gain_N111 = 1 - depth * rng.random((len(frames_NHW3), 1, 1, 1))
    return (frames_NHW3 * gain_N111).round().astype(np.uint8)


def grain(frames_NHW3: Frames, *, sigma: float, rng: np.random.Generator) -> Frames:
    """Sensor noise of a standard deviation of `sigma` levels, new in every frame."""
    noise_NHW1 = rng.normal(0, sigma, (*frames_NHW3.shape[:3], 1))
    return np.clip(frames_NHW3 + noise_NHW1, 0, 255).round().astype(np.uint8)


def shake(
    image_HW3: NDArray[np.uint8],
    *,
    num_frames: int,
    width_px: int,
    height_px: int,
    sigma_px: float,
    rng: np.random.Generator,
) -> Frames:
    """A still seen by a trembling camera: every frame is off by `sigma_px` in both directions, and nothing goes anywhere."""
    offsets_px = rng.normal(0, sigma_px, (num_frames, 2))
    views = [np.array([[1, 0, dx], [0, 1, dy]]) for dx, dy in offsets_px]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (width_px, height_px)
    return np.stack(
        [cv2.warpAffine(image_HW3, view, size, flags=flags, borderMode=cv2.BORDER_WRAP) for view in views]
    ).astype(np.uint8, copy=False)


def _ramp(num_mixed: int) -> NDArray[np.float64]:
    """Weights strictly between 0 and 1, (N, 1, 1, 1)."""
    return ((np.arange(num_mixed) + 1) / (num_mixed + 1))[:, None, None, None]


def _mix(first_NHW3: Frames, second_NHW3: Frames, weight_N111: NDArray[np.float64]) -> Frames:
    return ((1 - weight_N111) * first_NHW3 + weight_N111 * second_NHW3).round().astype(np.uint8)
