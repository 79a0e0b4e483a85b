"""What is left of the difference between two pictures when motion and exposure are taken out of it: near nothing within a take.

Shapes: H and W rows and columns; B blocks of a picture.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.flow import NO_MAP, LowResolutionFlow, grid

GRAY_PX = 128
"""Longer side of the pictures that are compared."""
_MIN_SIDE_PX = 32
_ROWS, _COLUMNS = 6, 8
"""Blocks of a picture."""
_TONES = 32
"""Steps of brightness that may each become another: an exposure that clips is still explained."""
_SAME_BLOCK = 0.6
"""Correlation under which two blocks show different things."""
_FLAT_BLOCK = 4.0
"""Standard deviation and mean difference, of 255, under which a block shows nothing."""
_MIN_SEEN = 0.25
"""Part of the picture that must come from inside the other one; with less, flow is no use."""


class Residue(NamedTuple):
    """How a picture differs from an earlier one that was moved along the flow and lit as it is.

    Attributes:
        mean: Mean absolute difference, of 255.
        failed: Share of blocks that show something else.
        contrast: Standard deviation of the picture, of 255.
        shift: Median (x, y) motion, in picture widths.
    """

    mean: float
    failed: float
    contrast: float
    shift: tuple[float, float]


class MotionResidue:
    """Compares pictures; holds the work space of the flow."""

    def __init__(self) -> None:
        """Set up the flow."""
        self._flow = LowResolutionFlow()

    def __call__(self, earlier_HW: NDArray[np.uint8], later_HW: NDArray[np.uint8]) -> Residue:
        """Compare two pictures of one size."""
        flow_HW2 = self._flow(later_HW, earlier_HW)
        places_HW2 = grid(*later_HW.shape) + flow_HW2
        moved_HW = cv2.remap(earlier_HW, places_HW2, NO_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen_HW = _inside(places_HW2)
        lit_HW = _lit(np.asarray(moved_HW, np.uint8), later_HW, seen_HW)
        difference_HW = np.abs(lit_HW - later_HW) * seen_HW
        x, y = (-float(np.median(flow_HW2[..., axis])) / later_HW.shape[1] for axis in (0, 1))
        return Residue(
            mean=float(difference_HW.sum() / seen_HW.sum()),
            failed=_failed(lit_HW, later_HW, difference_HW, seen_HW),
            contrast=float(later_HW.std()),
            shift=(x, y),
        )


def small_gray(rgb_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as `MotionResidue` takes it: gray, 128 pixels wide or high, never under 32."""
    height, width = rgb_HWC.shape[:2]
    scale = GRAY_PX / max(height, width)
    size = (max(_MIN_SIDE_PX, round(width * scale)), max(_MIN_SIDE_PX, round(height * scale)))
    gray_HW = rgb_HWC if rgb_HWC.ndim == 2 else cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray_HW, size, interpolation=cv2.INTER_AREA), np.uint8)


def _inside(places_HW2: NDArray[np.float32]) -> NDArray[np.bool_]:
    height, width = places_HW2.shape[:2]
    x_HW, y_HW = places_HW2[..., 0], places_HW2[..., 1]
    seen_HW = (x_HW >= 0) & (x_HW <= width - 1) & (y_HW >= 0) & (y_HW <= height - 1)
    return seen_HW if seen_HW.mean() >= _MIN_SEEN else np.ones_like(seen_HW)


def _lit(moved_HW: NDArray[np.uint8], later_HW: NDArray[np.uint8], seen_HW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each tone of the moved picture replaced by the mean of what is there in the later one."""
    tones_HW = moved_HW // (256 // _TONES)
    counts = np.bincount(tones_HW[seen_HW], minlength=_TONES)
    sums = np.bincount(tones_HW[seen_HW], weights=later_HW[seen_HW], minlength=_TONES)
    return (sums / np.maximum(counts, 1)).astype(np.float32)[tones_HW]


def _failed(
    lit_HW: NDArray[np.float32],
    later_HW: NDArray[np.uint8],
    difference_HW: NDArray[np.float32],
    seen_HW: NDArray[np.bool_],
) -> float:
    """Share of all blocks that are seen, show something, and show something else."""
    first_BP, second_BP = (blocks - blocks.mean(1, keepdims=True) for blocks in (_blocks(lit_HW), _blocks(later_HW)))
    first_B, second_B = first_BP.std(1), second_BP.std(1)
    alike_B = (first_BP * second_BP).mean(1) / (first_B * second_B + 1e-3)
    shows_B = np.maximum(first_B, second_B) > _FLAT_BLOCK
    differs_B = _blocks(difference_HW).mean(1) > _FLAT_BLOCK
    seen_B = _blocks(seen_HW).mean(1) > 0.5
    return float((seen_B & shows_B & differs_B & (alike_B < _SAME_BLOCK)).mean())


def _blocks(picture_HW: NDArray[np.generic]) -> NDArray[np.float32]:
    """Pixels of each block, (B, P); what does not fill a block is left out."""
    height, width = picture_HW.shape[0] // _ROWS, picture_HW.shape[1] // _COLUMNS
    whole = picture_HW[: height * _ROWS, : width * _COLUMNS].astype(np.float32)
    return whole.reshape(_ROWS, height, _COLUMNS, width).swapaxes(1, 2).reshape(_ROWS * _COLUMNS, -1)
