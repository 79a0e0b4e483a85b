"""Films of several shots: hard cuts, dissolves, fades through black, and fades at the ends of the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from preprocessing.reasons import Reason
from preprocessing.rendering.edits import dissolve, fade_in, fade_out
from preprocessing.rendering.films import CERTAIN, Film, shot_num_frames
from preprocessing.rendering.scenes import Frames
from preprocessing.rendering.shots import Format, Shot, caption, shot_frames, things_of
from preprocessing.rendering.textures import Pattern
from preprocessing.rendering.truth import ShotTruth
from preprocessing.samples import Transition, TransitionKind

SQUARE = Format(width_px=128, height_px=128, fps=24.0)
LANDSCAPE = Format(width_px=160, height_px=128, fps=24.0)
LANDSCAPE_30 = Format(width_px=160, height_px=128, fps=30.0)

TOO_SHORT_FRAMES = 22
"""Frames of a shot that holds no segment."""


class Joint(StrEnum):
    """How two shots are joined."""

    CUT = "cut"
    DISSOLVE = "dissolve"
    FADE = "fade through black"


@dataclass(frozen=True, kw_only=True)
class Splice:
    """A joint and its length: frames in which a dissolve mixes two shots, or frames on either side of a black middle."""

    joint: Joint
    num_mixed: int = 0

    @property
    def duration(self) -> int:
        """Frames of the finished film that belong to neither shot."""
        return 2 * self.num_mixed if self.joint is Joint.FADE else self.num_mixed


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A shot and how many pure frames of it the film shows."""

    shot: Shot
    num_pure: int


def transitions_of(pieces: Sequence[Piece], splices: Sequence[Splice]) -> tuple[Transition, ...]:
    """Where the transitions between pieces lie in the finished film."""
    found, frame = [], 0
    for piece, splice in zip(pieces, splices, strict=False):
        start = frame + piece.num_pure
        frame = start + splice.duration
        kind = TransitionKind.CUT if splice.joint is Joint.CUT else TransitionKind.GRADUAL
        found.append(Transition(kind=kind, start_frame=start, end_frame=frame, score=CERTAIN))
    return tuple(found)


def shots_of(pieces: Sequence[Piece], splices: Sequence[Splice]) -> tuple[ShotTruth, ...]:
    """Where the pure frames of each piece lie in the finished film, and what becomes of them."""
    gaps = [0, *(splice.duration for splice in splices)]
    shots, frame = [], 0
    for piece, gap in zip(pieces, gaps, strict=True):
        start = frame + gap
        frame = start + piece.num_pure
        reason = Reason.TOO_SHORT if piece.num_pure <= TOO_SHORT_FRAMES else None
        shots.append(ShotTruth(start_frame=start, end_frame=frame, dropped_for=reason))
    return tuple(shots)


def edited_frames(
    rng: np.random.Generator, *, pieces: Sequence[Piece], splices: Sequence[Splice], form: Format
) -> Frames:
    """The finished film; shots keep moving while they are mixed."""
    heads = [0, *(splice.num_mixed for splice in splices)]
    tails = [*(splice.num_mixed for splice in splices), 0]
    parts = [
        shot_frames(piece.shot, rng, head + piece.num_pure + tail, form)
        for piece, head, tail in zip(pieces, heads, tails, strict=True)
    ]
    film_NHW3 = parts[0]
    for part_NHW3, splice in zip(parts[1:], splices, strict=True):
        film_NHW3 = _join(film_NHW3, part_NHW3, splice)
    return film_NHW3


def _join(first_NHW3: Frames, second_NHW3: Frames, splice: Splice) -> Frames:
    match splice.joint:
        case Joint.CUT:
            return np.concatenate([first_NHW3, second_NHW3])
        case Joint.DISSOLVE:
            return dissolve(first_NHW3, second_NHW3, splice.num_mixed)
        case Joint.FADE:
            return np.concatenate([fade_out(first_NHW3, splice.num_mixed), fade_in(second_NHW3, splice.num_mixed)])


def faded_take(rng: np.random.Generator, *, piece: Piece, num_mixed: int, form: Format) -> Frames:
    """One shot that comes out of black and goes back to it."""
    frames_NHW3 = shot_frames(piece.shot, rng, piece.num_pure + 2 * num_mixed, form)
    return fade_out(fade_in(frames_NHW3, num_mixed), num_mixed)


def _edited(name: str, form: Format, pieces: Sequence[Piece], splices: Sequence[Splice]) -> Film:
    return Film(
        name=name,
        codec="libx264",
        form=form,
        caption=" ".join(caption(piece.shot) for piece in pieces),
        make=partial(edited_frames, pieces=pieces, splices=splices, form=form),
        transitions=transitions_of(pieces, splices),
        shots=shots_of(pieces, splices),
    )


def _faded(name: str, form: Format, piece: Piece, num_mixed: int) -> Film:
    end = num_mixed + piece.num_pure
    ranges = ((0, num_mixed), (end, end + num_mixed))
    return Film(
        name=name,
        codec="libx264",
        form=form,
        caption=caption(piece.shot),
        make=partial(faded_take, piece=piece, num_mixed=num_mixed, form=form),
        transitions=tuple(
            Transition(kind=TransitionKind.GRADUAL, start_frame=a, end_frame=b, score=CERTAIN) for a, b in ranges
        ),
        shots=(ShotTruth(start_frame=num_mixed, end_frame=end, dropped_for=None),),
    )


_TEAL = Shot(
    pattern=Pattern.CLOUDS, dark="teal", light="yellow", camera="pans left", things=things_of("red disc right")
)
_NAVY = Shot(
    pattern=Pattern.STRIPES, dark="navy", light="pink", camera="tilts up", things=things_of("green disc right")
)
_GREEN = Shot(
    pattern=Pattern.PATCHES, dark="green", light="white", camera="pans right", things=things_of("purple square down")
)
_BROWN = Shot(
    pattern=Pattern.CHECKS,
    dark="brown",
    light="orange",
    camera="drifts down and right",
    things=things_of("white square left"),
)
_BLUE = Shot(
    pattern=Pattern.CLOUDS, dark="blue", light="pink", camera="comes closer", things=things_of("yellow diamond left")
)
_RED = Shot(pattern=Pattern.STRIPES, dark="red", light="yellow", camera="pans left", things=things_of("navy disc down"))
_PURPLE = Shot(
    pattern=Pattern.CLOUDS,
    dark="purple",
    light="white",
    camera="tilts down",
    things=things_of("orange diamond diagonally"),
)
_DUSK = Shot(
    pattern=Pattern.PATCHES,
    dark="navy",
    light="teal",
    camera="stands still",
    things=things_of("orange disc right", "pink square diagonally"),
)
_SAND = Shot(
    pattern=Pattern.CLOUDS, dark="brown", light="yellow", camera="pans right", things=things_of("blue square up")
)
_ROSE = Shot(
    pattern=Pattern.CHECKS, dark="purple", light="pink", camera="tilts up", things=things_of("white disc left")
)
_NIGHT = Shot(
    pattern=Pattern.CLOUDS, dark="navy", light="white", camera="draws back", things=things_of("red disc left")
)
_MEADOW = Shot(
    pattern=Pattern.STRIPES, dark="green", light="yellow", camera="pans right", things=things_of("red square left")
)

_CUT = Splice(joint=Joint.CUT)


def edited_films() -> tuple[Film, ...]:
    """All films of several shots or with faded ends."""
    return (
        _edited("cuts_many_shots", SQUARE, _pieces(2, _TEAL, _NAVY, _GREEN, _RED, _PURPLE, _DUSK, _NIGHT, _ROSE, _SAND, _BROWN, _BLUE, _MEADOW), [_CUT] * 11),
        _edited("cuts_many_more", SQUARE, _pieces(2, _BROWN, _NIGHT, _RED, _SAND, _NAVY, _BLUE, _DUSK, _MEADOW, _TEAL, _ROSE, _GREEN, _PURPLE), [_CUT] * 11),
        _edited("cuts_at_30_fps", LANDSCAPE_30, _pieces(2, _BROWN, _BLUE, _NAVY, _GREEN, _ROSE, _MEADOW, _SAND, _NIGHT, fps=30.0), [_CUT] * 7),
        _edited("cuts_short_insert", SQUARE, [*_pieces(2, _GREEN), Piece(shot=_BLUE, num_pure=TOO_SHORT_FRAMES), *_pieces(2, _NAVY, _SAND, _ROSE)], [_CUT] * 4),
        _edited("dissolve_quick", SQUARE, _pieces(2, _NAVY, _TEAL, _PURPLE, _MEADOW), [Splice(joint=Joint.DISSOLVE, num_mixed=12)] * 3),
        _edited("dissolve_slow", LANDSCAPE, _pieces(2, _BLUE, _BROWN, _RED), [Splice(joint=Joint.DISSOLVE, num_mixed=24)] * 2),
        _edited("fade_through_black", SQUARE, _pieces(2, _BROWN, _TEAL, _DUSK, _NIGHT), [Splice(joint=Joint.FADE, num_mixed=12)] * 3),
        _faded("fade_at_both_ends", LANDSCAPE, *_pieces(4, _GREEN), num_mixed=18),
    )  # fmt: skip


def _pieces(num_segments: int, *shots: Shot, fps: float = 24.0) -> list[Piece]:
    """Shots that each give one clip of so many segments."""
    return [Piece(shot=shot, num_pure=shot_num_frames(num_segments, fps)) for shot in shots]
