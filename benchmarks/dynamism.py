"""What motion scores say of rendered videos of known speed, and of what only looks like motion.

``python benchmarks/dynamism.py [--json] [--only kinds|formats]``: renders each video with a fixed seed, encodes it, scans it as
``longtake scan`` does, and prints a line each: speeds in per cent of the diagonal a second, and what the embedded recipe
decides. Then the same pan in five codecs, three rates and three sizes, and how far their dynamism is from the first one's.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from av.codec import Codec
from numpy.typing import NDArray

from preprocessing.candidates import Footage, candidates_of
from preprocessing.config import ClipsConfig, DecideConfig, MotionConfig, ScanConfig, TransitionsConfig
from preprocessing.decide import decisions
from preprocessing.samples import ClipCandidate
from preprocessing.scan import ScanSettings, measure_file
from preprocessing.video_io.write import Mp4Writer

SEED = 7
SECONDS = 4.0
SETTINGS = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())
CODECS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "mjpeg")
RATES = (24, 30, 60)
HEIGHTS_PX = (360, 720, 1080)

Picture = NDArray[np.uint8]
Move = Callable[[float], tuple[float, float, float]]
"""Seconds to the camera's place, right and down, in picture diagonals, and its zoom."""
Effect = Callable[[Picture, int, np.random.Generator], Picture]
"""What is done to frame k."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video to render.

    Attributes:
        speed: Of the camera or of the thing that moves, in per cent of the diagonal a second; 0 for what stands still.
        move: The camera's.
        depth: How much faster the lower third moves than the rest: 1 is a flat still.
        effect: Changes every frame.
    """

    name: str
    speed: float
    move: Move = lambda _: (0.0, 0.0, 1.0)
    depth: float = 1.0
    effect: Effect = lambda picture, _k, _rng: picture
    codec: str = "libx264"
    fps: int = 24
    height_px: int = 360


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the first clip of a film got; scores that were not measured are None."""

    name: str
    speed: float
    dynamism: float | None
    dynamism_spread: float | None
    active_share: float | None
    own_motion: float | None
    rest_motion: float | None
    camera_speed: float | None
    steadiness: float | None
    effective_fps: float | None
    clips: int
    decision: str


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--only", choices=("kinds", "formats"), help="one of the two tables")
    options = parser.parse_args()
    kinds = [] if options.only == "formats" else [measure(film) for film in kind_films()]
    formats = [] if options.only == "kinds" else [measure(film) for film in format_films()]
    if options.json:
        print(json.dumps({"kinds": [asdict(row) for row in kinds], "formats": [asdict(row) for row in formats]}))
        return
    print("\n".join([*_table(kinds), "", *_table(formats), *_agreement(formats)]))


def kind_films() -> tuple[Film, ...]:
    """Motion and what only looks like it."""
    return (
        Film(name="static", speed=0),
        Film(name="flicker", speed=0, effect=_flicker),
        Film(name="slow light", speed=0, effect=_slow_light),
        Film(name="grain", speed=0, effect=_grain),
        Film(name="shake", speed=0, move=_shake(0.3)),
        Film(name="strong shake", speed=0, move=_shake(0.8)),
        Film(name="slow pan", speed=1.6, move=_pan(1.6), depth=1.3),
        Film(name="pan", speed=5, move=_pan(5), depth=1.3),
        Film(name="fast pan", speed=20, move=_pan(20), depth=1.3),
        Film(name="whip pan", speed=70, move=_pan(70), depth=1.3),
        Film(name="zoom", speed=2.4, move=lambda t: (0, 0, 1.05**t), depth=1.3),
        Film(name="small object", speed=5, effect=_object(5)),
        Film(name="small fast object", speed=20, effect=_object(20)),
        Film(name="slideshow", speed=0, move=lambda t: (0.31 * (t // 0.5), 0.17 * (t // 0.5 % 3), 1.0)),
        Film(name="pan and zoom over a still", speed=3, move=lambda t: (0.03 * t, 0, 1.03**t)),
        Film(name="chaos", speed=0, effect=_chaos),
        Film(name="pan, 12 frames in 24", speed=5, move=lambda t: _pan(5)(math.floor(t * 12) / 12), depth=1.3),
        Film(name="pan, 8 frames in 24", speed=5, move=lambda t: _pan(5)(math.floor(t * 8) / 8), depth=1.3),
        Film(name="pan, frozen in the middle", speed=5, move=lambda t: _pan(5)(t if t < 1.6 else max(1.6, t - 1.2))),
        Film(name="pan, letterboxed", speed=5, move=_pan(5), depth=1.3, effect=_boxed),
    )


def format_films() -> tuple[Film, ...]:
    """One pan in every codec there is, every rate and every size; the first is the one to compare with."""
    pan = Film(name="h264, 24 fps, 360p", speed=5, move=_pan(5), depth=1.3)
    there = [codec for codec in CODECS[1:] if _has_encoder(codec)]
    return (
        pan,
        *(replace(pan, name=f"{codec}, 24 fps, 360p", codec=codec) for codec in there),
        *(replace(pan, name=f"h264, {fps} fps, 360p", fps=fps) for fps in RATES[1:]),
        *(replace(pan, name=f"h264, 24 fps, {height}p", height_px=height) for height in HEIGHTS_PX[1:]),
    )


def measure(film: Film) -> Measured:
    """Render, encode, scan, cut and decide."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        _write(film, path)
        found = _clips(path)
    clips = [clip for clip in found if clip.num_segments] or list(found)
    (decided,) = decisions(clips[:1], DecideConfig())
    scores = {name: clips[0].scores.get(name) for name in Measured.__annotations__ if name in _SCORES}
    decision = ", ".join(decided.reasons) or "keep"
    return Measured(name=film.name, speed=film.speed, clips=len(found), decision=decision, **scores)


_SCORES = (
    "dynamism", "dynamism_spread", "active_share", "own_motion", "rest_motion", "camera_speed", "steadiness",
    "effective_fps",
)  # fmt: skip


def _clips(path: Path) -> Sequence[ClipCandidate]:
    *_, measured = measure_file(str(path), SETTINGS, with_decord=True)
    assert measured is not None
    shown = measured.picture or measured.probe
    return candidates_of(
        Footage(
            source_id="film",
            num_frames=len(measured.signals.timestamps_s),
            height_px=shown.height_px,
            width_px=shown.width_px,
            transitions=measured.transitions,
            signals=measured.signals,
        ),
        ClipsConfig(),
    )


def _write(film: Film, path: Path) -> None:
    height_px, width_px = film.height_px, film.height_px * 16 // 9
    world, rng = _world(height_px), np.random.default_rng(SEED)
    with Mp4Writer(path, fps=film.fps, width_px=width_px, height_px=height_px, codec=film.codec, crf=24) as writer:
        for k in range(round(SECONDS * film.fps)):
            writer.write(film.effect(_view(world, film, k / film.fps, height_px, width_px), k, rng))


@cache
def _world(height_px: int) -> Picture:
    """The same large picture at any height."""
    scale = height_px / 1080
    return np.asarray(cv2.resize(_large_world(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


@cache
def _mirrored(height_px: int) -> Picture:
    return np.ascontiguousarray(_world(height_px)[:, ::-1])


@cache
def _large_world() -> Picture:
    """A large picture with detail of all sizes and edges, as a photograph has."""
    rng, large = np.random.default_rng(SEED), np.zeros((1920, 3840, 3), np.float32)
    for cells in (6, 14, 40, 110):
        field = rng.normal(0, 1, (cells, 2 * cells, 3)).astype(np.float32)
        large += cv2.resize(field, (3840, 1920), interpolation=cv2.INTER_CUBIC) * np.float32(cells**-0.35)
    large = np.where(large[..., :1] > 0.35, large + 0.8, large)
    return np.clip(118 + 52 * large, 0, 255).astype(np.uint8)


def _view(world: Picture, film: Film, t: float, height_px: int, width_px: int) -> Picture:
    right, down, zoom = film.move(t)
    picture = _window(world, _place(world, right, down, zoom, height_px, width_px), height_px, width_px)
    if film.depth != 1.0:
        top_px = height_px * 2 // 3
        nearer = _place(world, film.depth * right, film.depth * down, zoom**film.depth, height_px, width_px)
        nearer[:, 2] += nearer[:, 1] * top_px
        picture[top_px:] = _window(_mirrored(height_px), nearer, height_px - top_px, width_px)
    return picture


def _place(
    world: Picture, right: float, down: float, zoom: float, height_px: int, width_px: int
) -> NDArray[np.float64]:
    """From the picture's pixels to the world's, (2, 3)."""
    diagonal = math.hypot(height_px, width_px)
    x, y = (side / 2 / zoom for side in (width_px, height_px))
    shift = (0.3 * world.shape[1] + right * diagonal - x, 0.4 * world.shape[0] + down * diagonal - y)
    return np.array([[1 / zoom, 0, shift[0]], [0, 1 / zoom, shift[1]]])


def _window(world: Picture, place: NDArray[np.float64], height_px: int, width_px: int) -> Picture:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    window = cv2.warpAffine(world, place, (width_px, height_px), flags=flags, borderMode=cv2.BORDER_WRAP)
    return np.asarray(window, np.uint8)


def _pan(speed: float) -> Move:
    return lambda t: (speed / 100 * t, 0.0, 1.0)


def _shake(rms: float) -> Move:
    """A camera that trembles by so many per cent of the diagonal and goes nowhere."""
    places = np.random.default_rng(SEED).normal(0, rms / 100, (1000, 2))
    return lambda t: (float(places[round(t * 24), 0]), float(places[round(t * 24), 1]), 1.0)


def _flicker(picture: Picture, k: int, rng: np.random.Generator) -> Picture:
    return (picture * (1 - 0.3 * rng.random())).astype(np.uint8)


def _slow_light(picture: Picture, k: int, rng: np.random.Generator) -> Picture:
    """A shadow's soft edge that gets darker, as when a cloud comes; nothing moves."""
    shade = 1 - 0.4 * np.linspace(0, 1, picture.shape[1])[None, :, None] * (0.5 + 0.5 * math.sin(k / 30))
    return (picture * shade).astype(np.uint8)


def _grain(picture: Picture, k: int, rng: np.random.Generator) -> Picture:
    return np.clip(picture + rng.normal(0, 14, picture.shape[:2])[..., None], 0, 255).astype(np.uint8)


def _object(speed: float) -> Effect:
    """A disc of 3 % of the picture that crosses it."""

    def draw(picture: Picture, k: int, rng: np.random.Generator) -> Picture:
        height_px, width_px = picture.shape[:2]
        x = width_px * 0.12 + speed / 100 * math.hypot(height_px, width_px) * k / 24
        drawn = picture.copy()
        cv2.circle(
            drawn,
            (round(x * 16), round(height_px * 0.45 * 16)),
            round(height_px * 0.13 * 16),
            (200, 40, 30),
            -1,
            cv2.LINE_AA,
            4,
        )
        cv2.circle(
            drawn,
            (round(x * 16), round(height_px * 0.42 * 16)),
            round(height_px * 0.05 * 16),
            (250, 240, 90),
            -1,
            cv2.LINE_AA,
            4,
        )
        return drawn

    return draw


def _chaos(picture: Picture, k: int, rng: np.random.Generator) -> Picture:
    cells = rng.integers(0, 255, (18, 32, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(cells, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def _boxed(picture: Picture, k: int, rng: np.random.Generator) -> Picture:
    bar = picture.shape[0] // 8
    boxed = picture.copy()
    boxed[:bar], boxed[-bar:] = 0, 0
    return boxed


def _has_encoder(name: str) -> bool:
    try:
        Codec(name, "w")
    except ValueError:
        return False
    return True


def _table(rows: list[Measured]) -> Iterator[str]:
    if rows:
        yield f"{'':28s}{'speed':>6s}" + "".join(f"{name.replace('_', ' '):>17s}" for name in _SCORES) + "  decision"
    for row in rows:
        values = [getattr(row, name) for name in _SCORES]
        shown = "".join(f"{'-' if value is None else f'{value:.2f}':>17s}" for value in values)
        yield f"{row.name:28s}{row.speed:6.1f}{shown}  {row.decision}"


def _agreement(rows: list[Measured]) -> Iterator[str]:
    """How far the farthest is from the first."""
    speeds = [row.dynamism for row in rows if row.dynamism is not None]
    if speeds:
        yield f"largest distance from the first: {max(abs(speed / speeds[0] - 1) for speed in speeds):.1%}"


if __name__ == "__main__":
    main()
