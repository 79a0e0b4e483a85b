import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.rendering.leaves import leaves, palette
from preprocessing.residue import MotionResidue, small_gray


def place(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return leaves(rng, palette(rng))


def gray(picture: NDArray[np.uint8], x: int = 0, y: int = 0) -> NDArray[np.uint8]:
    return small_gray(picture[y : y + 144, x : x + 256])


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 0), (9, 4), (0, 7)])
def test_motion_leaves_little_and_its_shift_is_known(x: int, y: int) -> None:
    left = MotionResidue()(gray(place(1), 100, 100), gray(place(1), 100 - x, 100 - y))
    assert left.failed <= 0.05
    assert left.mean < 0.12 * left.contrast
    np.testing.assert_allclose(left.shift, (x / 256, y / 256), atol=0.006)


@pytest.mark.parametrize("gain", [0.4, 0.7, 1.5])
def test_exposure_leaves_little_though_it_clips(gain: float) -> None:
    lit = np.clip(place(2).astype(np.float32) * gain, 0, 255).astype(np.uint8)
    left = MotionResidue()(gray(place(2)), gray(lit))
    assert left.failed == 0
    assert left.mean < 0.13 * left.contrast


def test_two_places_leave_half_of_the_contrast_and_fail_almost_everywhere() -> None:
    left = MotionResidue()(gray(place(1)), gray(place(2)))
    assert left.failed > 0.7
    assert left.mean > 0.5 * left.contrast


def test_any_size_is_small_and_at_least_32_pixels() -> None:
    assert small_gray(np.zeros((720, 1280, 3), np.uint8)).shape == (72, 128)
    assert small_gray(np.zeros((16, 256, 3), np.uint8)).shape == (32, 128)
    assert small_gray(np.zeros((144, 256), np.uint8)).shape == (72, 128)
