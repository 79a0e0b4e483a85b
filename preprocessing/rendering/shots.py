"""Shots in the words of a caption: what moves where, over what, and what the camera does."""

from dataclasses import dataclass

import numpy as np

from preprocessing.rendering.scenes import Camera, Frames, Mover, Scene, Shape, render
from preprocessing.rendering.textures import Pattern, texture

PAN_PER_S = 0.07
"""Pictures that a panning camera travels in a second: 14 s show one picture's width anew."""

CAMERA_MOVES: dict[str, Camera] = {
    "stands still": Camera(),
    "pans right": Camera(velocity=(PAN_PER_S, 0.0)),
    "pans left": Camera(velocity=(-PAN_PER_S, 0.0)),
    "tilts down": Camera(velocity=(0.0, PAN_PER_S)),
    "tilts up": Camera(velocity=(0.0, -PAN_PER_S)),
    "drifts down and right": Camera(velocity=(PAN_PER_S / 2, PAN_PER_S / 2)),
    "comes closer": Camera(zoom_per_s=0.06),
    "draws back": Camera(zoom_per_s=-0.05),
    "turns": Camera(turn_deg_per_s=6.0),
}
"""What a camera may do, by the words of a caption."""

DIRECTIONS: dict[str, tuple[float, float]] = {
    "right": (0.22, 0.0),
    "left": (-0.22, 0.0),
    "down": (0.0, 0.22),
    "up": (0.0, -0.22),
    "diagonally": (0.18, 0.15),
}
"""Where things set out to, in pictures a second, by the words of a caption."""

RADIUS = (0.17, 0.23)
"""Range of a moving thing's radius: two of 8 x 8 latent columns across at least, so that the codec keeps it."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A moving thing in words."""

    colour: str
    shape: Shape
    direction: str


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A shot in words: colours of `COLOURS`, a move of `CAMERA_MOVES`, directions of `DIRECTIONS`.

    Every moving shot has a thing with a sharp edge: smooth texture under a pan alone is close to a mixture of its first
    and last picture, as a dissolve is.
    """

    pattern: Pattern
    dark: str
    light: str
    camera: str
    things: tuple[Thing, ...]


@dataclass(frozen=True, kw_only=True)
class Format:
    """Size and rate of a video."""

    width_px: int
    height_px: int
    fps: float


def things_of(*words: str) -> tuple[Thing, ...]:
    """Things of phrases such as ``red disc right``."""
    split = [word.split() for word in words]
    return tuple(Thing(colour=colour, shape=Shape(shape), direction=where) for colour, shape, where in split)


def caption(shot: Shot) -> str:
    """One sentence about a shot."""
    place = f"{shot.dark} and {shot.light} {shot.pattern}"
    if not shot.things:
        return f"The camera {shot.camera} over {place}."
    things = " and ".join(f"a {thing.colour} {thing.shape} moves {thing.direction}" for thing in shot.things)
    return f"{things[0].upper()}{things[1:]} over {place} while the camera {shot.camera}."


def shot_scene(shot: Shot, rng: np.random.Generator) -> Scene:
    """The scene of a shot; what the words leave open is drawn."""
    tile_HW3 = texture(rng, shot.pattern, shot.dark, shot.light)
    movers = tuple(_mover(thing, rng) for thing in shot.things)
    return Scene(tile_HW3=tile_HW3, camera=CAMERA_MOVES[shot.camera], movers=movers)


def shot_frames(shot: Shot, rng: np.random.Generator, num_frames: int, form: Format) -> Frames:
    """The frames of a shot."""
    scene = shot_scene(shot, rng)
    return render(scene, num_frames=num_frames, fps=form.fps, width_px=form.width_px, height_px=form.height_px)


def _mover(thing: Thing, rng: np.random.Generator) -> Mover:
    x, y = rng.uniform(0.25, 0.75, 2)
    radius = rng.uniform(*RADIUS)
    return Mover(
        shape=thing.shape,
        colour=thing.colour,
        radius=radius,
        start=(x, y),
        velocity=DIRECTIONS[thing.direction],
    )
