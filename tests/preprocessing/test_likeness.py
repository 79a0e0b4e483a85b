import cv2
import numpy as np

from preprocessing.likeness import HEIGHT_PX, WIDTH_PX, small_picture


def test_a_small_picture_is_centred_to_the_last_bit_as_numpy_would() -> None:
    rng = np.random.default_rng(5)
    for level in (1, 60, 256):
        rgb_HWC = rng.integers(0, level, (72, 128, 3), np.uint8)
        small_HW3 = cv2.resize(rgb_HWC, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
        found = small_picture(rgb_HWC)
        np.testing.assert_array_equal(found.rgb_HW3, small_HW3)
        np.testing.assert_array_equal(found.centred_P, (small_HW3 - small_HW3.mean(axis=(0, 1))).ravel())
