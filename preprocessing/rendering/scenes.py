"""A scene is a textured background under a moving camera, with things that move in front of it; it gives frames.

Shapes: N frames, H and W rows and columns, 3 colours in RGB order. Lengths are shares of the picture's width or height, so
that a scene looks the same at any size.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.rendering.textures import COLOURS, TILE_PX

Frames = NDArray[np.uint8]
"""Frames of one size, (N, H, W, 3)."""

SUBPIXEL_BITS = 4
"""Fractional bits of coordinates given to OpenCV: shapes move by sixteenths of a pixel."""


class Shape(StrEnum):
    """What a moving thing is."""

    DISC = "disc"
    SQUARE = "square"
    DIAMOND = "diamond"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A steady camera move over a background.

    Attributes:
        velocity: Widths and heights of the picture a second, (right, down).
        zoom_per_s: Growth of the picture a second: 0.05 comes 5 % closer every second.
        turn_deg_per_s: Clockwise degrees a second.
    """

    velocity: tuple[float, float] = (0.0, 0.0)
    zoom_per_s: float = 0.0
    turn_deg_per_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Mover:
    """A thing that moves in a straight line and bounces off the edges.

    Attributes:
        radius: Share of the picture's shorter side.
        start: Where its centre is at first, (x, y) in [0, 1].
        velocity: Widths and heights of the picture a second.
    """

    shape: Shape
    colour: str
    radius: float
    start: tuple[float, float]
    velocity: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything in one shot."""

    tile_HW3: NDArray[np.uint8]
    camera: Camera
    movers: tuple[Mover, ...]

    def __repr__(self) -> str:
        """The moves instead of the pixels."""
        return f"Scene({self.camera}, {self.movers})"


def render(scene: Scene, *, num_frames: int, fps: float, width_px: int, height_px: int) -> Frames:
    """The frames of a scene, (N, H, W, 3)."""
    frames_NHW3 = np.empty((num_frames, height_px, width_px, 3), np.uint8)
    for index in range(num_frames):
        frames_NHW3[index] = _frame(scene, index / fps, width_px, height_px)
    return frames_NHW3


def _frame(scene: Scene, time_s: float, width_px: int, height_px: int) -> NDArray[np.uint8]:
    view = _view(scene.camera, time_s, width_px, height_px)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(scene.tile_HW3, view, (width_px, height_px), flags=flags, borderMode=cv2.BORDER_WRAP)
    image_HW3 = warped.astype(np.uint8, copy=False)
    for mover in scene.movers:
        _draw(image_HW3, mover, time_s)
    return image_HW3


def _view(camera: Camera, time_s: float, width_px: int, height_px: int) -> NDArray[np.float64]:
    """The affine map from picture to tile pixels, (2, 3)."""
    step = np.exp(-camera.zoom_per_s * time_s)
    turn = np.deg2rad(camera.turn_deg_per_s * time_s)
    linear = step * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = np.array([width_px, height_px]) / 2
    travel = np.array(camera.velocity) * time_s * np.array([width_px, height_px])
    offset = TILE_PX / 2 + travel - linear @ centre
    return np.column_stack([linear, offset])


def _draw(image_HW3: NDArray[np.uint8], mover: Mover, time_s: float) -> None:
    """Draws one mover into the image."""
    height_px, width_px = image_HW3.shape[:2]
    radius_px = mover.radius * min(width_px, height_px)
    x_px = _bounce(mover.start[0], mover.velocity[0], time_s, radius_px / width_px) * width_px
    y_px = _bounce(mover.start[1], mover.velocity[1], time_s, radius_px / height_px) * height_px
    scale, colour = 1 << SUBPIXEL_BITS, COLOURS[mover.colour]
    if mover.shape is Shape.DISC:
        centre = (round(x_px * scale), round(y_px * scale))
        cv2.circle(image_HW3, centre, round(radius_px * scale), colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)
        return
    points = ((np.array([x_px, y_px]) + radius_px * _corners(mover.shape)) * scale).round().astype(np.int32)
    cv2.fillConvexPoly(image_HW3, points, colour, cv2.LINE_AA, SUBPIXEL_BITS)


def _corners(shape: Shape) -> NDArray[np.float64]:
    """Corners of a shape of radius 1 around the origin, (4, 2)."""
    square = np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])
    diamond = np.array([(0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0)])
    return square if shape is Shape.SQUARE else diamond


def _bounce(start: float, velocity: float, time_s: float, margin: float) -> float:
    """Position in [margin, 1 - margin] on a line that is reflected at both ends."""
    span = 1 - 2 * margin
    phase = (start - margin + velocity * time_s) % (2 * span)
    return margin + (phase if phase < span else 2 * span - phase)
