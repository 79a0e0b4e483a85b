import cv2
import numpy as np
import pytest

from preprocessing.flow import NO_MAP, LowResolutionFlow, grid


def test_flow_says_where_pixels_went() -> None:
    world = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (200, 300)), (0, 0), 2.0).astype(np.uint8)
    earlier, later = world[20:164, 20:276], world[17:161, 15:271]
    flow_HW2 = LowResolutionFlow()(earlier, later)
    assert flow_HW2.shape == (144, 256, 2)
    np.testing.assert_allclose(np.median(flow_HW2, axis=(0, 1)), [5, 3], atol=0.3)


def test_a_picture_taken_from_the_grid_itself_is_the_same() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (9, 16), np.uint8)
    np.testing.assert_array_equal(cv2.remap(picture, grid(9, 16), NO_MAP, cv2.INTER_LINEAR), picture)


@pytest.mark.parametrize("shape", [(1, 1), (16, 256), (256, 16), (27, 48), (40, 640)])
def test_small_and_narrow_pictures_do_not_kill_the_process(shape: tuple[int, int]) -> None:
    rng, flow = np.random.default_rng(0), LowResolutionFlow()
    for _ in range(5):
        pair = rng.integers(0, 255, (2, *shape), np.uint8)
        assert flow(pair[0], pair[1]).shape == (*shape, 2)
