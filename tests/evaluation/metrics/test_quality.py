"""Metrics of single frames: each moves with the fault it is named after."""

import cv2
import numpy as np
import pytest

from evaluation.metrics.blockiness import BLOCKINESS, blockiness
from evaluation.metrics.colourfulness import colourfulness
from evaluation.metrics.exposure import exposure
from evaluation.metrics.noise import noise_deviation
from evaluation.metrics.sharpness import gradient_energy
from evaluation.types import Picture, VideoFacts


def grey(values_HW: np.ndarray) -> Picture:
    return np.repeat(np.clip(values_HW, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def scene() -> Picture:
    coarse = np.random.default_rng(0).integers(40, 200, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def test_sharpness_of_a_ramp_is_its_slope_and_blur_lowers_it() -> None:
    ramp = grey(np.tile(np.arange(0, 240, 2), (50, 1)))
    assert gradient_energy(ramp) == pytest.approx(2, rel=0.02)
    assert gradient_energy(cv2.GaussianBlur(scene(), (0, 0), 3).astype(np.uint8)) < gradient_energy(scene())


@pytest.mark.parametrize("deviation", [2.0, 5.0, 10.0])
def test_noise_of_known_deviation_is_found(deviation: float) -> None:
    noisy = 128 + np.random.default_rng(0).normal(0, deviation, (200, 300))
    assert noise_deviation(grey(np.rint(noisy))) == pytest.approx(deviation, rel=0.05)


def test_exposure_counts_what_is_lost() -> None:
    half_white = np.zeros((10, 20)) + 100
    half_white[:, :10] = 255
    brightness, contrast, clipped = exposure(grey(half_white))
    assert (brightness, contrast, clipped) == pytest.approx((177.5, 77.5, 0.5))


def test_grey_has_no_colour_and_two_colours_have_the_papers_number() -> None:
    assert colourfulness(grey(np.arange(100).reshape(10, 10))) == 0
    flag = np.zeros((10, 10, 3), np.uint8)
    flag[:5, :, 0], flag[5:, :, 1] = 200, 200  # red over green: rg = +-200, yb = 100
    assert colourfulness(flag) == pytest.approx(200 + 0.3 * 100)


def test_blocks_of_eight_stand_out_and_other_grids_do_not() -> None:
    blocks = np.random.default_rng(0).integers(80, 160, (16, 20))
    texture = np.random.default_rng(1).normal(0, 2, (128, 160))
    on_grid = np.kron(blocks, np.ones((8, 8))) + texture
    assert blockiness(grey(on_grid)) > 5
    assert blockiness(grey(np.roll(on_grid, 4, axis=(0, 1)))) < 0.5
    assert blockiness(grey(texture + 100)) == pytest.approx(1, abs=0.1)


def test_blockiness_of_scaled_frames_is_refused() -> None:
    facts = VideoFacts(fps=24, height_px=480, width_px=854, source_height_px=720, source_width_px=1280)
    assert "short_side_px" in BLOCKINESS.refuse(facts)
