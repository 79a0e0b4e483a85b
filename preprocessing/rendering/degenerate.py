"""Films that must be dropped: stills in disguise, a trembling camera, black, too short, too small, too few frames a second."""

from collections.abc import Callable
from functools import partial

import numpy as np

from preprocessing.reasons import Reason
from preprocessing.rendering.edits import flicker, grain, hold, shake
from preprocessing.rendering.films import CERTAIN, Film, one_shot
from preprocessing.rendering.scenes import Frames
from preprocessing.rendering.shots import Format, Shot, caption, shot_frames, shot_scene, things_of
from preprocessing.rendering.textures import Pattern
from preprocessing.rendering.truth import ShotTruth
from preprocessing.samples import Transition, TransitionKind

SQUARE = Format(width_px=128, height_px=128, fps=24.0)
TINY = Format(width_px=48, height_px=48, fps=24.0)
SLOW = Format(width_px=128, height_px=128, fps=6.0)

NUM_FRAMES = 100
"""Frames of a film that is dropped for what it shows: 4 s, two segments."""

SLIDE_FRAMES = 60
"""Frames that a slide stays: one segment."""

NUM_SLIDES = 4

STILL = Shot(pattern=Pattern.MOSAIC, dark="blue", light="orange", camera="stands still", things=())
MOVING = Shot(
    pattern=Pattern.PATCHES, dark="purple", light="white", camera="pans right", things=things_of("red disc left")
)


def still(rng: np.random.Generator) -> Frames:
    """One picture for four seconds."""
    return hold(shot_frames(STILL, rng, 1, SQUARE)[0], NUM_FRAMES)


def noisy_still(rng: np.random.Generator) -> Frames:
    """The same with sensor noise."""
    return grain(still(rng), sigma=5.0, rng=rng)


def flickering_still(rng: np.random.Generator) -> Frames:
    """The same with brightness that jumps."""
    return flicker(still(rng), depth=0.3, rng=rng)


def shaken_still(rng: np.random.Generator) -> Frames:
    """The same held by a trembling hand."""
    scene = shot_scene(STILL, rng)
    return shake(
        scene.tile_HW3,
        num_frames=NUM_FRAMES,
        width_px=SQUARE.width_px,
        height_px=SQUARE.height_px,
        sigma_px=2.5,
        rng=rng,
    )


def slideshow(rng: np.random.Generator) -> Frames:
    """Four pictures after each other."""
    colours = (("teal", "yellow"), ("navy", "pink"), ("green", "white"), ("brown", "orange"))
    slides = [
        Shot(pattern=Pattern.PATCHES, dark=dark, light=light, camera="stands still", things=())
        for dark, light in colours
    ]
    return np.concatenate([hold(shot_frames(slide, rng, 1, SQUARE)[0], SLIDE_FRAMES) for slide in slides])


def black(rng: np.random.Generator) -> Frames:
    """A lens cap with sensor noise."""
    return grain(np.full((NUM_FRAMES, SQUARE.height_px, SQUARE.width_px, 3), 6, np.uint8), sigma=2.0, rng=rng)


def degenerate_films() -> tuple[Film, ...]:
    """All films that must be dropped."""
    return (
        _dropped("bad_still", "A still.", still, NUM_FRAMES, Reason.STATIC),
        _dropped("bad_noise", "A still with noise.", noisy_still, NUM_FRAMES, Reason.STATIC),
        _dropped("bad_flicker", "A flickering still.", flickering_still, NUM_FRAMES, Reason.STATIC),
        _dropped("bad_shake", "A still and a trembling hand.", shaken_still, NUM_FRAMES, Reason.SHAKY),
        _dropped("bad_black", "Black.", black, NUM_FRAMES, Reason.BLACK),
        _moving("bad_too_short", 24, SQUARE, Reason.TOO_SHORT),
        _moving("bad_too_small", NUM_FRAMES, TINY, Reason.TOO_SMALL),
        _moving("bad_low_rate", NUM_FRAMES // 4, SLOW, Reason.LOW_FRAME_RATE),
        _slides(),
    )


def _dropped(
    name: str,
    words: str,
    make: Callable[[np.random.Generator], Frames],
    num_frames: int,
    reason: Reason,
    form: Format = SQUARE,
) -> Film:
    return Film(
        name=name,
        codec="libx264",
        form=form,
        caption=words,
        make=make,
        transitions=(),
        shots=one_shot(num_frames, reason),
    )


def _moving(name: str, num_frames: int, form: Format, reason: Reason) -> Film:
    make = partial(shot_frames, MOVING, num_frames=num_frames, form=form)
    return _dropped(name, caption(MOVING), make, num_frames, reason, form)


def _slides() -> Film:
    starts = [index * SLIDE_FRAMES for index in range(NUM_SLIDES)]
    cuts = tuple(
        Transition(kind=TransitionKind.CUT, start_frame=start, end_frame=start, score=CERTAIN) for start in starts[1:]
    )
    shots = tuple(
        ShotTruth(start_frame=start, end_frame=start + SLIDE_FRAMES, dropped_for=Reason.STATIC) for start in starts
    )
    return Film(
        name="bad_slideshow",
        codec="libx264",
        form=SQUARE,
        caption="A slideshow.",
        make=slideshow,
        transitions=cuts,
        shots=shots,
    )
