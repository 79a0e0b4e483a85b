"""Footage of a place at any moments: a camera that sways and drifts, and things that go to and fro before it.

Time is an argument, so that a jump cut is a jump in it. Shapes: N frames, H and W rows and columns, 3 colours in RGB order.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.rendering.leaves import LEAVES_PX, leaves
from preprocessing.rendering.scenes import Frames

FOOTAGE_WIDTH_PX, FOOTAGE_HEIGHT_PX = 256, 144
FOOTAGE_FPS = 24.0
_SHUTTER = 0.5
"""Part of a frame's time for which light is gathered: fast motion is blurred over that part of its way."""


@dataclass(frozen=True, kw_only=True)
class Path:
    """A way in picture widths: a drift and a sway.

    Attributes:
        start: (x, y) at time 0.
        drift: A second, (x, y).
        reach: Of the sway, (x, y).
        period_s: Of the sway.
        phase: Of the sway, in turns.
    """

    start: tuple[float, float]
    drift: tuple[float, float] = (0.0, 0.0)
    reach: tuple[float, float] = (0.0, 0.0)
    period_s: float = 3.0
    phase: float = 0.0

    def at(self, times_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places, (N, 2)."""
        turn_N = 2 * np.pi * (times_N / self.period_s + self.phase)
        sway_N2 = np.stack([np.sin(turn_N), np.sin(1.37 * turn_N + 1)], axis=-1) * self.reach
        return np.asarray(self.start) + times_N[:, None] * np.asarray(self.drift) + sway_N2


@dataclass(frozen=True, kw_only=True)
class Walker:
    """A round thing with a texture of its own; radius in picture widths."""

    tile_HW3: NDArray[np.uint8]
    radius: float
    path: Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """What there is to film, and the camera's way over it."""

    tile_HW3: NDArray[np.uint8]
    camera: Path
    walkers: tuple[Walker, ...] = ()
    zoom: float = 1.0

    def reframed(self, shift: tuple[float, float], zoom: float) -> "Place":
        """The same place and people from another camera, shifted by so many picture widths."""
        x, y = self.camera.start
        camera = replace(self.camera, start=(x + shift[0], y + shift[1]))
        return replace(self, camera=camera, zoom=self.zoom * zoom)


@dataclass(frozen=True, kw_only=True)
class CameraMove:
    """What a hand does to the camera beside its steady way: picture widths, (N, 2), and magnification, (N,)."""

    shift_N2: NDArray[np.float64]
    zoom_N: NDArray[np.float64]


def seconds(num_frames: int, start_s: float = 0.0) -> NDArray[np.float64]:
    """Moments of consecutive frames."""
    return start_s + np.arange(num_frames) / FOOTAGE_FPS


def still_hand(num_frames: int) -> CameraMove:
    """No move beside the steady way."""
    return CameraMove(shift_N2=np.zeros((num_frames, 2)), zoom_N=np.ones(num_frames))


def footage(place: Place, times_N: NDArray[np.float64], move: CameraMove | None = None) -> Frames:
    """Frames of a place at these moments, (N, 144, 256, 3), with the blur of the camera's own motion."""
    move = move or still_hand(len(times_N))
    eye_N2 = place.camera.at(times_N) + move.shift_N2
    zoom_N = place.zoom * move.zoom_N
    way_N2 = np.gradient(eye_N2, axis=0) * zoom_N[:, None] if len(times_N) > 1 else np.zeros((1, 2))
    walks = [(walker, walker.path.at(times_N)) for walker in place.walkers]
    frames = []
    for index, (eye_2, zoom) in enumerate(zip(eye_N2, zoom_N, strict=True)):
        image_HW3 = _view(place.tile_HW3, eye_2, float(zoom))
        for walker, walk_N2 in walks:
            _stand(image_HW3, walker, walk_N2[index], eye_2 - place.camera.start, float(zoom))
        frames.append(_blurred(image_HW3, way_N2[index]))
    return np.stack(frames)


def random_place(
    rng: np.random.Generator, palette_K3: NDArray[np.float64], *, speed: float, num_walkers: int, radius: float = 0.14
) -> Place:
    """A place under a camera that drifts by `speed` picture widths a second and trembles a little if it drifts at all."""
    angle = rng.uniform(0, 2 * np.pi)
    camera = Path(
        start=(float(rng.uniform(0, 2)), float(rng.uniform(0, 2))),
        drift=(float(speed * np.cos(angle)), float(speed * np.sin(angle) / 2)),
        reach=(0.004, 0.003) if speed else (0.0, 0.0),
        period_s=float(rng.uniform(0.7, 2)),
    )
    walkers = tuple(_random_walker(rng, palette_K3, radius) for _ in range(num_walkers))
    return Place(tile_HW3=leaves(rng, palette_K3), camera=camera, walkers=walkers)


def _random_walker(rng: np.random.Generator, palette_K3: NDArray[np.float64], radius: float) -> Walker:
    path = Path(
        start=(float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.15, 0.4))),
        reach=(float(rng.uniform(0.1, 0.25)), float(rng.uniform(0.02, 0.08))),
        period_s=float(rng.uniform(3, 6)),
        phase=float(rng.uniform()),
    )
    tile_HW3 = leaves(rng, np.clip(palette_K3[::-1] + rng.normal(0, 40, 3), 0, 255))
    return Walker(tile_HW3=tile_HW3, radius=float(radius * rng.uniform(0.8, 1.2)), path=path)


def _view(tile_HW3: NDArray[np.uint8], eye_2: NDArray[np.float64], zoom: float) -> NDArray[np.uint8]:
    step = 1 / zoom
    centre = np.array([FOOTAGE_WIDTH_PX, FOOTAGE_HEIGHT_PX]) / 2
    corner = np.mod(eye_2 * FOOTAGE_WIDTH_PX, LEAVES_PX) + centre * (1 - step)
    view = np.array([[step, 0, corner[0]], [0, step, corner[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (FOOTAGE_WIDTH_PX, FOOTAGE_HEIGHT_PX)
    return np.asarray(cv2.warpAffine(tile_HW3, view, size, flags=flags, borderMode=cv2.BORDER_WRAP), np.uint8)


def _stand(
    image_HW3: NDArray[np.uint8], walker: Walker, at_2: NDArray[np.float64], eye_2: NDArray[np.float64], zoom: float
) -> None:
    """Draws a walker where the camera sees it."""
    centre = np.array([FOOTAGE_WIDTH_PX, FOOTAGE_HEIGHT_PX]) / 2
    x, y = ((at_2 - eye_2) * FOOTAGE_WIDTH_PX - centre) * zoom + centre
    mask_HW = np.zeros(image_HW3.shape[:2], np.uint8)
    reach = (round(walker.radius * FOOTAGE_WIDTH_PX * zoom * 16), round(walker.radius * FOOTAGE_WIDTH_PX * zoom * 20))
    cv2.ellipse(mask_HW, (round(x * 16), round(y * 16)), reach, 0, 0, 360, 255, -1, cv2.LINE_AA, 4)
    step = 1 / zoom
    view = np.array([[step, 0, LEAVES_PX / 2 - x * step], [0, step, LEAVES_PX / 2 - y * step]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (FOOTAGE_WIDTH_PX, FOOTAGE_HEIGHT_PX)
    skin_HW3 = cv2.warpAffine(walker.tile_HW3, view, size, flags=flags, borderMode=cv2.BORDER_WRAP)
    share_HW1 = mask_HW[..., None].astype(np.float32) / 255
    image_HW3[:] = (image_HW3 + share_HW1 * (skin_HW3.astype(np.float32) - image_HW3)).round().astype(np.uint8)


def _blurred(image_HW3: NDArray[np.uint8], way_2: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The picture drawn out along the camera's way."""
    x_px, y_px = (max(1, round(abs(part) * FOOTAGE_WIDTH_PX * _SHUTTER)) for part in way_2)
    return image_HW3 if x_px == y_px == 1 else np.asarray(cv2.blur(image_HW3, (x_px, y_px)), np.uint8)
