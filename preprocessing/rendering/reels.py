"""Reels: short films that hold transitions of one kind, at known frames, between takes that look like photographs.

A gradual change of n frames mixes n frames, none of them pure. Shapes: N frames, H and W rows and columns, 3 colours in RGB order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from preprocessing.rendering.decoys import DECOY_FRAMES, RUSHED, SPOILED, light
from preprocessing.rendering.edits import dissolve
from preprocessing.rendering.films import CERTAIN
from preprocessing.rendering.reel_shots import (
    NUM_SHOTS,
    Shoot,
    any_speed,
    bright,
    dark,
    jumps,
    moving,
    one_take_with_gaps,
    part_of,
    rapid,
    same_background,
    shot_length,
    similar,
    still,
    takes_in_turn,
)
from preprocessing.rendering.scenes import Frames
from preprocessing.samples import Transition, TransitionKind

DISSOLVE_FRAMES = (6, 8, 12, 16, 24, 36, 48)


@dataclass(frozen=True, kw_only=True)
class Reel:
    """Frames, (N, H, W, 3), and what is in them: transitions of one kind, or one decoy."""

    kind: str
    frames_NHW3: Frames
    transitions: tuple[Transition, ...]
    is_decoy: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the reels of a kind are made, and how many transitions or decoys each holds."""

    kind: str
    make: Callable[[np.random.Generator], Reel]
    events: int


def recipes() -> tuple[Recipe, ...]:
    """Every kind over rendered footage: cuts, dissolves, fades, decoys."""
    return (
        *(_cuts(f"cut, {name}", make) for name, make in _CUTS.items()),
        *_gradual_recipes("static", still),
        *_gradual_recipes("moving", moving),
        *_fade_recipes("", any_speed),
        *_spoiled_recipes("", any_speed),
        *(_rushed(name, make) for name, make in RUSHED.items()),
    )


def recipes_over(takes: Sequence[Frames]) -> tuple[Recipe, ...]:
    """The kinds that can be made of takes that others filmed, each of at least 120 frames and all of one size."""
    return (
        _cuts("cut, real", partial(takes_in_turn, takes)),
        _cuts("jump, real", partial(one_take_with_gaps, takes)),
        _cuts("shots of 8 frames, real", partial(takes_in_turn, takes, num_frames=8)),
        _cuts("dark and noisy, real", partial(dark, partial(part_of, takes))),
        *_gradual_recipes("real", partial(part_of, takes)),
        *_fade_recipes(", real", partial(part_of, takes)),
        *_spoiled_recipes(", real", partial(part_of, takes)),
        Recipe(kind="nothing, real", make=partial(_quiet_reel, "nothing, real", partial(part_of, takes)), events=1),
    )


def _gradual_recipes(over: str, shoot: Shoot) -> Iterator[Recipe]:
    for mixed in DISSOLVE_FRAMES:
        kind = f"dissolve of {mixed}, {over}"
        yield Recipe(kind=kind, make=partial(_dissolve_reel, kind, mixed, shoot), events=NUM_SHOTS - 1)


def _fade_recipes(over: str, shoot: Shoot) -> Iterator[Recipe]:
    for name, level in (("black", 0.0), ("white", 255.0)):
        for ramp, held in ((4, 0), (10, 0), (24, 0), (6, 6), (16, 20)):
            kind = f"fade through {name}, {ramp} + {held} + {ramp}{over}"
            yield Recipe(kind=kind, make=partial(_fade_reel, kind, ramp, held, level, shoot), events=NUM_SHOTS - 1)
    for ramp in (8, 24, 48):
        kind = f"fade in and out, {ramp}{over}"
        yield Recipe(kind=kind, make=partial(_ends_reel, kind, ramp, shoot), events=2)


def _spoiled_recipes(over: str, shoot: Shoot) -> Iterator[Recipe]:
    for name, spoil in SPOILED.items():
        yield Recipe(kind=f"{name}{over}", make=partial(_spoiled_reel, f"{name}{over}", spoil, shoot), events=1)


def _cuts(kind: str, make: Callable[[np.random.Generator], list[Frames]]) -> Recipe:
    return Recipe(kind=kind, make=partial(_cut_reel, kind, make), events=NUM_SHOTS - 1)


def _rushed(kind: str, make: Callable[[np.random.Generator], Frames]) -> Recipe:
    return Recipe(kind=kind, make=partial(_decoy_reel, kind, make), events=1)


def _decoy_reel(kind: str, make: Callable[[np.random.Generator], Frames], rng: np.random.Generator) -> Reel:
    return Reel(kind=kind, frames_NHW3=make(rng), transitions=(), is_decoy=True)


def _spoiled_reel(
    kind: str, spoil: Callable[[Frames, np.random.Generator], Frames], shoot: Shoot, rng: np.random.Generator
) -> Reel:
    frames_NHW3 = spoil(shoot(rng, DECOY_FRAMES), rng)
    return Reel(kind=kind, frames_NHW3=frames_NHW3, transitions=(), is_decoy=True)


def _quiet_reel(kind: str, shoot: Shoot, rng: np.random.Generator) -> Reel:
    return Reel(kind=kind, frames_NHW3=shoot(rng, DECOY_FRAMES), transitions=(), is_decoy=True)


def _cut_reel(kind: str, make: Callable[[np.random.Generator], list[Frames]], rng: np.random.Generator) -> Reel:
    shots = make(rng)
    cuts = np.cumsum([len(shot) for shot in shots])[:-1].tolist()
    return Reel(kind=kind, frames_NHW3=np.concatenate(shots), transitions=tuple(_transition(cut, cut) for cut in cuts))


def _dissolve_reel(kind: str, mixed: int, shoot: Shoot, rng: np.random.Generator) -> Reel:
    """Shots of any length that keep moving while they are mixed."""
    pure = [shot_length(rng) for _ in range(NUM_SHOTS)]
    extra = [mixed, *[2 * mixed] * (NUM_SHOTS - 2), mixed]
    frames_NHW3 = shoot(rng, pure[0] + extra[0])
    found = []
    for length, more in zip(pure[1:], extra[1:], strict=True):
        start = len(frames_NHW3) - mixed
        frames_NHW3 = dissolve(frames_NHW3, shoot(rng, length + more), mixed)
        found.append(_transition(start, start + mixed))
    return Reel(kind=kind, frames_NHW3=frames_NHW3, transitions=tuple(found))


def _fade_reel(kind: str, ramp: int, held: int, level: float, shoot: Shoot, rng: np.random.Generator) -> Reel:
    """Every shot but the first comes out of one colour, and all but the last go to it."""
    parts, found, length = [], [], 0
    for index in range(NUM_SHOTS):
        shot_NHW3 = shoot(rng, shot_length(rng) + 2 * ramp)
        first, last = index == 0, index == NUM_SHOTS - 1
        parts.append(_faded(shot_NHW3, 0 if first else ramp, 0 if last else ramp, level))
        length += len(shot_NHW3)
        if not last:
            found.append(_transition(length - ramp, length + held + ramp))
            parts.append(np.full((held, *shot_NHW3.shape[1:]), level, np.uint8))
            length += held
    return Reel(kind=kind, frames_NHW3=np.concatenate(parts), transitions=tuple(found))


def _ends_reel(kind: str, ramp: int, shoot: Shoot, rng: np.random.Generator) -> Reel:
    """One shot that comes out of black and goes back to it."""
    shot_NHW3 = shoot(rng, 60 + 2 * ramp)
    ends = (_transition(0, ramp), _transition(len(shot_NHW3) - ramp, len(shot_NHW3)))
    return Reel(kind=kind, frames_NHW3=_faded(shot_NHW3, ramp, ramp, 0.0), transitions=ends)


def _faded(frames_NHW3: Frames, into: int, out: int, level: float) -> Frames:
    """Comes out of a level and goes back to it; no frame is quite of one colour."""
    gain_N = np.ones(len(frames_NHW3))
    gain_N[:into] = (np.arange(into) + 1) / (into + 1)
    gain_N[len(gain_N) - out :] = 1 - (np.arange(out) + 1) / (out + 1)
    return light(frames_NHW3, gain_N, (1 - gain_N) * level)


_CUTS: dict[str, Callable[[np.random.Generator], list[Frames]]] = {
    "bright": bright,
    "dark and noisy": partial(dark, any_speed),
    "same background": same_background,
    "jump within a scene": jumps,
    "shots of 8 frames": rapid,
    "similar colours": similar,
}


def _transition(start_frame: int, end_frame: int) -> Transition:
    kind = TransitionKind.CUT if start_frame == end_frame else TransitionKind.GRADUAL
    return Transition(kind=kind, start_frame=start_frame, end_frame=end_frame, score=CERTAIN)
