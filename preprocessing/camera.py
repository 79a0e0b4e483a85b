"""What the camera does: the one shift, turn and zoom that most of a flow field follows.

Points where other things move are outweighed, so a walking person does not pull the camera along. Places and flow are complex
numbers, right + i down: a turn and zoom is then one factor. H, W rows and columns of the flow, in pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WAY = ("way_right", "way_down", "way_zoom", "way_turn")
"""Series that say where a camera goes: its shift, and its growth and turn at the corner."""

_STEP = 2
"""Every second point in both directions is fitted to."""
_ROUNDS = 4
"""Least squares, each time with less weight on what did not follow the last one."""
_FOLLOWS_PX = 0.1
"""A point this close to the fit has full weight."""
_MIN_POINTS = 60
_EDGE_PX = 3
"""Points that would end nearer to the edge, or beyond it, are left out: their flow is made up."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A similarity: its flow at a place z, in pixels from the centre, is shift + growth z."""

    shift: complex
    growth: complex

    def flow(self, places_HW: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Its flow, (H, W)."""
        return np.complex64(self.shift) + np.complex64(self.growth) * places_HW


@lru_cache(maxsize=4)
def places(height_px: int, width_px: int, margin_px: int, stride_px: int) -> NDArray[np.complex64]:
    """The places of a flow field that was cut by a margin and thinned out, in pixels from the centre, (H, W)."""
    x, y = (np.arange(margin_px, side - margin_px, stride_px) - (side - 1) / 2 for side in (width_px, height_px))
    return (x[None, :] + 1j * y[:, None]).astype(np.complex64)


def stays_inside(
    flow_HW: NDArray[np.complex64], places_HW: NDArray[np.complex64], height_px: int, width_px: int
) -> NDArray[np.bool_]:
    """Which places end inside the picture, (H, W)."""
    ends_HW = places_HW + flow_HW
    right, down = (width_px - 1) / 2 - _EDGE_PX, (height_px - 1) / 2 - _EDGE_PX
    return (np.abs(ends_HW.real) < right) & (np.abs(ends_HW.imag) < down)


def find_camera(
    flow_HW: NDArray[np.complex64], places_HW: NDArray[np.complex64], inside_HW: NDArray[np.bool_]
) -> Camera | None:
    """The similarity that most places inside follow; None if there are too few of them."""
    thin = (slice(None, None, _STEP), slice(None, None, _STEP))
    inside = inside_HW[thin]
    if inside.sum() < _MIN_POINTS:
        return None
    z, seen = places_HW[thin][inside].astype(np.complex128), flow_HW[thin][inside].astype(np.complex128)
    weights = np.ones(len(z))
    found = Camera(shift=0j, growth=0j)
    for _ in range(_ROUNDS):
        found = _fit(z, seen, weights)
        weights = 1 / np.maximum(np.abs(seen - found.shift - found.growth * z), _FOLLOWS_PX)
    return found


def _fit(z: NDArray[np.complex128], seen: NDArray[np.complex128], weights: NDArray[np.float64]) -> Camera:
    """Weighted least squares in complex numbers."""
    weights = weights / weights.sum()
    middle_z, middle_seen = weights @ z, weights @ seen
    z, seen = z - middle_z, seen - middle_seen
    growth = np.vdot(z, weights * seen) / max(np.vdot(z, weights * z).real, 1e-9)
    return Camera(shift=complex(middle_seen - growth * middle_z), growth=complex(growth))
