"""Colourful periodic textures. All but the mosaic are smooth: large shapes that a low-frequency codec keeps.

Shapes: H and W rows and columns of the tile, 3 colours in RGB order.
"""

from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (167, 68, 68),
    "orange": (209, 153, 91),
    "yellow": (231, 212, 125),
    "green": (74, 142, 86),
    "teal": (56, 126, 132),
    "blue": (60, 82, 147),
    "purple": (112, 73, 137),
    "pink": (211, 145, 175),
    "white": (240, 240, 237),
    "navy": (25, 31, 61),
    "brown": (96, 70, 51),
}
"""Colours by the names that captions use; muted, because the `dct` codec keeps no detail of chroma."""

TILE_PX = 320
"""Side of a tile; it repeats without a seam, so that a camera may move for ever."""

CELLS = 6
"""Blobs along a side of a tile: about 50 pixels each, well over a third of the picture."""

MOSAIC_PX = 10
"""Side of a cell of a mosaic."""

SHADING = 0.25
"""Share of brightness that blobs add to a regular pattern, so that motion along its stripes can be seen."""


class Pattern(StrEnum):
    """What a texture looks like."""

    CLOUDS = "clouds"
    STRIPES = "stripes"
    CHECKS = "checks"
    PATCHES = "patches"
    MOSAIC = "mosaic"


def texture(rng: np.random.Generator, pattern: Pattern, dark: str, light: str) -> NDArray[np.uint8]:
    """A periodic tile, (320, 320, 3), from one colour to another."""
    field_HW = np.clip((1 - SHADING) * _field(rng, pattern) + SHADING * _blobs(rng), 0, 1)
    ramp_HW1 = field_HW[:, :, None]
    tile_HW3 = (1 - ramp_HW1) * np.array(COLOURS[dark]) + ramp_HW1 * np.array(COLOURS[light])
    return tile_HW3.round().astype(np.uint8)


def _field(rng: np.random.Generator, pattern: Pattern) -> NDArray[np.float64]:
    """The pattern in [0, 1], (H, W)."""
    match pattern:
        case Pattern.CLOUDS:
            return _stretch(_blobs(rng))
        case Pattern.PATCHES:
            return _soft_steps(_blobs(rng))
        case Pattern.STRIPES:
            return _waves(rng, [(3, 2)])
        case Pattern.CHECKS:
            return _waves(rng, [(4, 0), (0, 4)])
        case Pattern.MOSAIC:
            return _mosaic(rng)


def _blobs(rng: np.random.Generator) -> NDArray[np.float64]:
    """Random values on a coarse periodic grid, smoothly interpolated and stretched to [0, 1]."""
    grid = rng.random((CELLS, CELLS))
    scale = TILE_PX // CELLS + 1
    wide = cv2.resize(np.pad(grid, 2, mode="wrap"), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    inner = wide[2 * scale : -2 * scale, 2 * scale : -2 * scale]
    tile = cv2.resize(inner, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
    return np.clip((tile - tile.min()) / (tile.max() - tile.min()), 0, 1)


def _mosaic(rng: np.random.Generator) -> NDArray[np.float64]:
    """Small cells with sharp edges: detail, as a photograph has it, that tells rest from motion."""
    cells = rng.random((TILE_PX // MOSAIC_PX, TILE_PX // MOSAIC_PX))
    return cells.repeat(MOSAIC_PX, axis=0).repeat(MOSAIC_PX, axis=1)


def _stretch(field_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """More contrast in the middle."""
    return 0.5 + 0.5 * np.tanh(5 * (field_HW - np.median(field_HW)))


def _soft_steps(field_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Three plateaus with soft edges."""
    return sum((0.5 / (1 + np.exp(-(field_HW - edge) * 40)) for edge in (0.35, 0.65)), np.zeros_like(field_HW))


def _waves(rng: np.random.Generator, cycles: list[tuple[int, int]]) -> NDArray[np.float64]:
    """The product of plane waves with whole numbers of cycles (x, y) on the tile."""
    turn = np.arange(TILE_PX) * 2 * np.pi / TILE_PX
    product = np.ones((TILE_PX, TILE_PX))
    for across, down in cycles:
        product = product * np.sin(across * turn[None, :] + down * turn[:, None] + rng.uniform(0, 2 * np.pi))
    return 0.5 + 0.5 * np.tanh(2.5 * product)
