"""Pictures with the statistics of photographs: leaves of all sizes fallen over each other, with sharp edges and fine grain.

Shapes: H and W rows and columns of the tile, K colours of a palette, 3 colours in RGB order.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

LEAVES_PX = 512
"""Side of a tile; it repeats without a seam."""
_NUM_LEAVES = 900
_RADII_PX = (5.0, 110.0)
"""Of the leaves; their number falls with the cube of the radius, as with things seen at all distances."""
_NUM_COLOURS = 7
_GRAIN = 6.0
"""Standard deviation of the grain that a leaf carries with it, of 255."""


def palette(rng: np.random.Generator) -> NDArray[np.float64]:
    """Colours of one place, (K, 3): two hues in light and shade."""
    hues = rng.uniform(0, 180, 2)
    hue_K = rng.choice(hues, _NUM_COLOURS) + rng.normal(0, 8, _NUM_COLOURS)
    saturation_K, value_K = rng.uniform(15, 160, _NUM_COLOURS), np.linspace(40, 235, _NUM_COLOURS)
    hsv_1K3 = np.stack([hue_K % 180, saturation_K, value_K], axis=-1)[None].astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv_1K3, cv2.COLOR_HSV2RGB)[0], np.float64)


def leaves(rng: np.random.Generator, palette_K3: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A periodic tile, (512, 512, 3)."""
    tile_HW3 = np.full((LEAVES_PX, LEAVES_PX, 3), palette_K3.mean(axis=0), np.uint8)
    for _ in range(_NUM_LEAVES):
        _drop(tile_HW3, rng, palette_K3)
    grain_HW1 = cv2.GaussianBlur(rng.normal(0, 2 * _GRAIN, (LEAVES_PX, LEAVES_PX)), (0, 0), 0.8)[..., None]
    return np.clip(cv2.GaussianBlur(tile_HW3, (0, 0), 0.6) + grain_HW1, 0, 255).round().astype(np.uint8)


def _drop(tile_HW3: NDArray[np.uint8], rng: np.random.Generator, palette_K3: NDArray[np.float64]) -> None:
    """One leaf more, at any place, seen again at the opposite edge where it hangs over."""
    small, large = (bound**-2.0 for bound in _RADII_PX)
    radius = float(rng.uniform(large, small) ** -0.5)
    axes = (round(radius), max(1, round(radius * rng.uniform(0.4, 1))))
    colour = np.clip(palette_K3[rng.integers(len(palette_K3))] + rng.normal(0, 10, 3), 0, 255)
    x, y = (int(place) for place in rng.integers(0, LEAVES_PX, 2))
    turn = float(rng.uniform(0, 180))
    for dx in (-LEAVES_PX, 0, LEAVES_PX):
        for dy in (-LEAVES_PX, 0, LEAVES_PX):
            centre = (x + dx, y + dy)
            if all(-axes[0] < place < LEAVES_PX + axes[0] for place in centre):
                cv2.ellipse(tile_HW3, centre, axes, turn, 0, 360, colour.tolist(), -1, cv2.LINE_AA)
