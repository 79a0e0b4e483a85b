"""Long takes: films of one shot that must be kept whole; most of what the demo trains on."""

from functools import partial

from preprocessing.rendering.films import Film, one_shot, shot_num_frames
from preprocessing.rendering.shots import Format, Shot, caption, shot_frames, things_of
from preprocessing.rendering.textures import Pattern

SQUARE = Format(width_px=128, height_px=128, fps=24.0)
LANDSCAPE = Format(width_px=160, height_px=128, fps=24.0)
WIDE = Format(width_px=192, height_px=144, fps=24.0)
PORTRAIT = Format(width_px=128, height_px=160, fps=24.0)
WIDE_30 = Format(width_px=176, height_px=128, fps=30.0)
SQUARE_25 = Format(width_px=128, height_px=128, fps=25.0)

CLOUDS, STRIPES, CHECKS, PATCHES = Pattern.CLOUDS, Pattern.STRIPES, Pattern.CHECKS, Pattern.PATCHES


def _take(name: str, num_segments: int, form: Format, shot: Shot, codec: str = "libx264") -> Film:
    num_frames = shot_num_frames(num_segments, form.fps)
    return Film(
        name=name,
        codec=codec,
        form=form,
        caption=caption(shot),
        make=partial(shot_frames, shot, num_frames=num_frames, form=form),
        transitions=(),
        shots=one_shot(num_frames, None),
    )


def takes() -> tuple[Film, ...]:
    """All long takes: four or eight segments, every camera move, four textures, three rates, three codecs."""
    return (
        _take("clouds_pan_right", 4, LANDSCAPE, Shot(pattern=CLOUDS, dark="teal", light="yellow", camera="pans right", things=things_of("purple diamond down"))),
        _take("clouds_pan_left", 8, SQUARE, Shot(pattern=CLOUDS, dark="navy", light="pink", camera="pans left", things=things_of("yellow disc right"))),
        _take("clouds_tilt_up", 8, PORTRAIT, Shot(pattern=CLOUDS, dark="purple", light="yellow", camera="tilts up", things=things_of("navy square left"))),
        _take("clouds_closer", 4, SQUARE, Shot(pattern=CLOUDS, dark="blue", light="white", camera="comes closer", things=things_of("red square up"))),
        _take("clouds_two_discs", 8, SQUARE, Shot(pattern=CLOUDS, dark="green", light="white", camera="stands still", things=things_of("red disc right", "blue disc diagonally"))),
        _take("clouds_turn", 4, WIDE, Shot(pattern=CLOUDS, dark="brown", light="orange", camera="turns", things=things_of("white diamond left"))),
        _take("stripes_pan_right", 4, SQUARE, Shot(pattern=STRIPES, dark="blue", light="yellow", camera="pans right", things=things_of("red disc down"))),
        _take("stripes_tilt_down", 8, LANDSCAPE, Shot(pattern=STRIPES, dark="red", light="white", camera="tilts down", things=things_of("teal disc diagonally"))),
        _take("stripes_back", 4, SQUARE_25, Shot(pattern=STRIPES, dark="purple", light="white", camera="draws back", things=things_of("orange square right"))),
        _take("stripes_still", 4, SQUARE, Shot(pattern=STRIPES, dark="navy", light="white", camera="stands still", things=things_of("orange square right", "teal disc up"))),
        _take("checks_pan_left", 4, WIDE_30, Shot(pattern=CHECKS, dark="green", light="white", camera="pans left", things=things_of("red diamond diagonally")), "libvpx-vp9"),
        _take("checks_drift", 4, SQUARE, Shot(pattern=CHECKS, dark="navy", light="orange", camera="drifts down and right", things=things_of("white disc up"))),
        _take("checks_closer", 4, SQUARE, Shot(pattern=CHECKS, dark="red", light="yellow", camera="comes closer", things=things_of("navy disc left")), "libx265"),
        _take("patches_drift", 4, SQUARE, Shot(pattern=PATCHES, dark="navy", light="orange", camera="drifts down and right", things=things_of("green square left"))),
        _take("patches_pan_right", 8, LANDSCAPE, Shot(pattern=PATCHES, dark="brown", light="white", camera="pans right", things=things_of("blue disc left"))),
        _take("patches_turn", 4, SQUARE, Shot(pattern=PATCHES, dark="teal", light="yellow", camera="turns", things=things_of("purple disc up"))),
    )  # fmt: skip
