"""The shots that reels are spliced from: rendered for each kind of cut, or cut out of takes that others filmed.

Shapes: N frames, H and W rows and columns, 3 colours in RGB order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from preprocessing.rendering.decoys import light, sensor_noise
from preprocessing.rendering.footage import footage, random_place, seconds
from preprocessing.rendering.leaves import palette
from preprocessing.rendering.scenes import Frames

NUM_SHOTS = 5
"""Shots of a reel."""
_SHOT_FRAMES = (30, 56)
"""Range of their pure frames."""

Shoot = Callable[[np.random.Generator, int], Frames]
"""Gives so many frames of one take."""


def _shot(rng: np.random.Generator, num_frames: int, speed: float) -> Frames:
    return footage(
        random_place(rng, palette(rng), speed=speed, num_walkers=int(rng.integers(1, 4))), seconds(num_frames)
    )


def still(rng: np.random.Generator, num_frames: int) -> Frames:
    """A rendered take of a camera that stands still."""
    return _shot(rng, num_frames, 0.0)


def moving(rng: np.random.Generator, num_frames: int) -> Frames:
    """A rendered take of a camera that moves, by up to an eighth of a picture a second."""
    return _shot(rng, num_frames, float(rng.uniform(0.03, 0.12)))


def any_speed(rng: np.random.Generator, num_frames: int) -> Frames:
    """A rendered take of a camera that stands still or moves, up to a fifth of a picture a second."""
    return _shot(rng, num_frames, float(rng.choice([0.0, 0.03, 0.12, 0.2])))


def part_of(takes: Sequence[Frames], rng: np.random.Generator, num_frames: int) -> Frames:
    """A part of any take that is long enough."""
    long_enough = [take for take in takes if len(take) >= num_frames]
    take_NHW3 = long_enough[int(rng.integers(len(long_enough)))]
    start = int(rng.integers(len(take_NHW3) - num_frames + 1))
    return take_NHW3[start : start + num_frames]


def takes_in_turn(takes: Sequence[Frames], rng: np.random.Generator, num_frames: int | None = None) -> list[Frames]:
    """Parts of takes, none of which follows itself."""
    order = rng.permutation(len(takes))[:NUM_SHOTS]
    return [part_of([takes[index]], rng, num_frames or shot_length(rng)) for index in order]


def one_take_with_gaps(takes: Sequence[Frames], rng: np.random.Generator) -> list[Frames]:
    """Parts of one take that an editor took a second or more from in between."""
    take_NHW3 = max((takes[index] for index in rng.permutation(len(takes))[:3]), key=len)
    shots, start = [], 0
    for _ in range(NUM_SHOTS):
        length, gap = shot_length(rng), int(rng.integers(24, 72))
        if start + length > len(take_NHW3):
            break
        shots.append(take_NHW3[start : start + length])
        start += length + gap
    return shots


def bright(rng: np.random.Generator) -> list[Frames]:
    """Rendered takes of other places by daylight."""
    return [any_speed(rng, shot_length(rng)) for _ in range(NUM_SHOTS)]


def dark(shoot: Shoot, rng: np.random.Generator) -> list[Frames]:
    """Night: a tenth to a quarter of the light, and the noise of a sensor that is turned up."""
    gains = rng.uniform(0.1, 0.25, NUM_SHOTS)
    shots = [shoot(rng, shot_length(rng)) for _ in gains]
    lit = [light(shot, np.full(len(shot), gain)) for shot, gain in zip(shots, gains, strict=True)]
    return [sensor_noise(shot, 3.0, rng) for shot in lit]


def same_background(rng: np.random.Generator) -> list[Frames]:
    """Two cameras, or one that was moved, in one place with the same people."""
    place = random_place(rng, palette(rng), speed=0.0, num_walkers=2)
    shots, start_s = [], 0.0
    for _ in range(NUM_SHOTS):
        length = shot_length(rng)
        shots.append(footage(place, seconds(length, start_s)))
        shift = rng.uniform(0.1, 0.4) * rng.choice([-1, 1])
        place, start_s = (
            place.reframed((float(shift), 0.05), float(rng.choice([0.75, 1.0, 1.33]))),
            start_s + length / 24,
        )
        place = replace(place, zoom=float(np.clip(place.zoom, 0.75, 1.8)))
    return shots


def jumps(rng: np.random.Generator) -> list[Frames]:
    """One camera that goes on filming while an editor takes seconds out: the people are elsewhere, a hand has moved a little."""
    place = random_place(rng, palette(rng), speed=0.0, num_walkers=3, radius=0.17)
    shots, start_s = [], 0.0
    for _ in range(NUM_SHOTS):
        length = shot_length(rng)
        shots.append(footage(place, seconds(length, start_s)))
        start_s += length / 24 + float(rng.uniform(1, 4))
        place = place.reframed((float(rng.normal(0, 0.012)), float(rng.normal(0, 0.006))), 1.0)
    return shots


def rapid(rng: np.random.Generator) -> list[Frames]:
    """Rendered takes of 8 frames."""
    return [any_speed(rng, 8) for _ in range(NUM_SHOTS)]


def similar(rng: np.random.Generator) -> list[Frames]:
    """Different places in the same colours and light."""
    colours_K3: NDArray[np.float64] = palette(rng)
    places = [random_place(rng, colours_K3, speed=float(rng.uniform(0, 0.1)), num_walkers=2) for _ in range(NUM_SHOTS)]
    return [footage(place, seconds(shot_length(rng))) for place in places]


def shot_length(rng: np.random.Generator) -> int:
    """Frames of a shot without what is mixed."""
    return int(rng.integers(*_SHOT_FRAMES))
