"""What looks like a transition and is none: light that jumps, cameras that rush, things that pass close by.

Each decoy is one take of a place; nothing in it is a transition. Shapes: N frames, H and W rows and columns, 3 colours in RGB order.
"""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.rendering.footage import (
    CameraMove,
    Path,
    Walker,
    footage,
    random_place,
    seconds,
    still_hand,
)
from preprocessing.rendering.leaves import LEAVES_PX, leaves, palette
from preprocessing.rendering.scenes import Frames

DECOY_FRAMES = 72
"""Frames of a decoy; what it is about happens around the middle."""


def light(frames_NHW3: Frames, gain_N: NDArray[np.float64], offset_N: NDArray[np.float64] | None = None) -> Frames:
    """The same under another exposure in each frame, clipped as a sensor clips."""
    offset_N = np.zeros(len(frames_NHW3)) if offset_N is None else offset_N
    lit_NHW3 = frames_NHW3 * gain_N[:, None, None, None] + offset_N[:, None, None, None]
    return np.clip(lit_NHW3, 0, 255).round().astype(np.uint8)


def sensor_noise(frames_NHW3: Frames, sigma: float, rng: np.random.Generator) -> Frames:
    """Grain of its own in every frame, as `edits.grain` draws it, in three colours."""
    return np.clip(frames_NHW3 + rng.normal(0, sigma, frames_NHW3.shape), 0, 255).round().astype(np.uint8)


def _flash(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    gain_N, offset_N = np.ones(DECOY_FRAMES), np.zeros(DECOY_FRAMES)
    length, at = int(rng.integers(1, 6)), int(rng.integers(20, 45))
    gain_N[at : at + length] = rng.uniform(0.1, 1.6)
    offset_N[at : at + length] = rng.uniform(90, 230)
    return light(take_NHW3, gain_N, offset_N)


def _flash_train(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    gain_N, offset_N = np.ones(DECOY_FRAMES), np.zeros(DECOY_FRAMES)
    at = 12
    while at < 60:
        length = int(rng.integers(1, 3))
        gain_N[at : at + length], offset_N[at : at + length] = rng.uniform(0.6, 1.5), rng.uniform(60, 160)
        at += length + int(rng.integers(1, 9))
    return light(take_NHW3, gain_N, offset_N)


def _strobe(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    period, dark = int(rng.integers(2, 7)), float(rng.uniform(0.05, 0.4))
    on_N = (np.arange(DECOY_FRAMES) // max(1, period // 2)) % 2 == 0
    return light(take_NHW3, np.where(on_N, 1.0, dark))


def _flicker(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    return light(take_NHW3, 1 - float(rng.uniform(0.2, 0.5)) * rng.random(DECOY_FRAMES))


def _pumping(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    turn_N = seconds(DECOY_FRAMES) * 2 * np.pi / rng.uniform(0.5, 2.5)
    return light(take_NHW3, 1 + float(rng.uniform(0.3, 0.6)) * np.sin(turn_N))


def _exposure_step(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    """A lamp is switched, or the camera opens up: within one frame or a few."""
    ramp_N = np.clip((np.arange(DECOY_FRAMES) - 30) / float(rng.choice([1, 3, 8])), 0, 1)
    gain = float(rng.choice([0.4, 0.6, 1.5, 1.9]))
    return light(take_NHW3, 1 + (gain - 1) * ramp_N)


def _whip_pan(rng: np.random.Generator) -> Frames:
    """A quarter to half a second in which the camera turns by one to three pictures."""
    place = random_place(rng, palette(rng), speed=0.02, num_walkers=1)
    half = float(rng.integers(5, 13)) / 2
    way_N = (1 + np.tanh((np.arange(DECOY_FRAMES) - 36) / half * 2)) / 2 * rng.uniform(1, 1.9) * rng.choice([-1, 1])
    move = still_hand(DECOY_FRAMES)
    return footage(place, seconds(DECOY_FRAMES), replace(move, shift_N2=np.stack([way_N, way_N * 0.1], axis=-1)))


def _shake(rng: np.random.Generator) -> Frames:
    """A hand or a car that trembles by up to a twentieth of the picture."""
    jolts_N2 = rng.normal(0, rng.uniform(0.006, 0.025), (DECOY_FRAMES, 2))
    place = random_place(rng, palette(rng), speed=0.02, num_walkers=2)
    return footage(place, seconds(DECOY_FRAMES), replace(still_hand(DECOY_FRAMES), shift_N2=jolts_N2))


def _zoom(rng: np.random.Generator) -> Frames:
    """A zoom by two to three within half a second to two."""
    half = float(rng.integers(6, 24))
    ramp_N = (1 + np.tanh((np.arange(DECOY_FRAMES) - 36) / half * 2)) / 2
    zoom_N = rng.uniform(1.8, 3.0) ** (ramp_N * rng.choice([-1, 1]))
    place = random_place(rng, palette(rng), speed=0.02, num_walkers=1)
    return footage(place, seconds(DECOY_FRAMES), CameraMove(shift_N2=np.zeros((DECOY_FRAMES, 2)), zoom_N=zoom_N))


def _near_pass(rng: np.random.Generator) -> Frames:
    """Something as large as most of the picture passes before the camera within a third of a second to one."""
    place = random_place(rng, palette(rng), speed=float(rng.choice([0.0, 0.04])), num_walkers=1)
    speed = float(rng.uniform(2, 5)) * float(rng.choice([-1, 1]))
    path = Path(start=(0.5 - speed * 36 / 24, 0.3), drift=(speed, 0.0))
    tile_HW3 = leaves(rng, palette(rng) * 0.6)
    passer = Walker(tile_HW3=tile_HW3, radius=float(rng.uniform(0.3, 0.5)), path=path)
    return footage(replace(place, walkers=(*place.walkers, passer)), seconds(DECOY_FRAMES))


def _lettering(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    """A title that appears at once or fades in, and stays or goes."""
    mask_HW = np.zeros(take_NHW3.shape[1:3], np.uint8)
    for line in range(int(rng.integers(1, 4))):
        words = "".join(rng.choice(list("ABCDEFGHKLMNOPRSTUVW"), 9))
        cv2.putText(mask_HW, words, (12, 40 + 42 * line), cv2.FONT_HERSHEY_DUPLEX, 1.4, 255, 3, cv2.LINE_AA)
    share_N = np.clip((np.arange(DECOY_FRAMES) - 24) / float(rng.choice([1, 8, 20])), 0, 1)
    share_N[60:] *= rng.choice([0, 1])
    share_NHW1 = share_N[:, None, None, None] * (mask_HW / 255)[None, ..., None]
    return ((1 - share_NHW1) * take_NHW3 + share_NHW1 * 250).round().astype(np.uint8)


def _grain(take_NHW3: Frames, rng: np.random.Generator) -> Frames:
    dark = light(take_NHW3, np.full(DECOY_FRAMES, rng.uniform(0.15, 1)))
    return sensor_noise(dark, float(rng.uniform(8, 20)), rng)


def _periodic_pan(rng: np.random.Generator) -> Frames:
    """A fast pan along a fence, over which flow may lock to the wrong bar."""
    bars = int(rng.choice([8, 16, 32]))
    x_W = np.arange(LEAVES_PX) * 2 * np.pi * bars / LEAVES_PX
    bars_HW = np.broadcast_to(0.5 + 0.5 * np.tanh(4 * np.sin(x_W)), (LEAVES_PX, LEAVES_PX))[..., None]
    place = random_place(rng, palette(rng), speed=float(rng.uniform(0.1, 1.2)), num_walkers=1)
    tile_HW3 = (0.8 * bars_HW * place.tile_HW3 + 0.2 * place.tile_HW3).astype(np.uint8)
    return footage(replace(place, tile_HW3=tile_HW3), seconds(DECOY_FRAMES))


SPOILED: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "flash of 1 to 5 frames": _flash,
    "flash train": _flash_train,
    "strobe": _strobe,
    "flicker": _flicker,
    "exposure pumping": _pumping,
    "exposure step": _exposure_step,
    "lettering": _lettering,
    "grain": _grain,
}
"""What may happen to any take of `DECOY_FRAMES` frames, (N, H, W, 3)."""

RUSHED: dict[str, Callable[[np.random.Generator], Frames]] = {
    "whip pan": _whip_pan,
    "shake": _shake,
    "zoom": _zoom,
    "near pass": _near_pass,
    "pan over a fence": _periodic_pan,
}
"""What a camera may do, and what may pass before it: takes of `DECOY_FRAMES` frames, (N, 144, 256, 3)."""
