import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.letterbox import BarFinder, displayed_area
from preprocessing.samples import PictureArea

HEIGHT, WIDTH = 144, 256
RNG = np.random.default_rng(2)


def picture(height_px: int = HEIGHT, width_px: int = WIDTH, low: int = 20, high: int = 255) -> NDArray[np.uint8]:
    return RNG.integers(low, high, (height_px, width_px)).astype(np.uint8)


def boxed(top: int, bottom: int, left: int, right: int, level: int = 0) -> NDArray[np.uint8]:
    inside = picture(HEIGHT - top - bottom, WIDTH - left - right)
    return np.pad(inside, ((top, bottom), (left, right)), constant_values=level)


def area_of(pictures: list[NDArray[np.uint8]]) -> tuple[int, int, int, int]:
    bars = BarFinder()
    for k, gray_HW in enumerate(pictures):
        bars.add(k / 4, gray_HW)
    rows, columns = bars.area()
    return rows.start, HEIGHT - rows.stop, columns.start, WIDTH - columns.stop


@pytest.mark.parametrize("bars", [(18, 18, 0, 0), (0, 0, 29, 28), (10, 0, 0, 0), (12, 12, 30, 30)])
@pytest.mark.parametrize("level", [0, 18])
def test_bars_are_found_on_any_side(bars: tuple[int, int, int, int], level: int) -> None:
    assert area_of([boxed(*bars, level=level) for _ in range(8)]) == bars


def test_a_whole_picture_has_no_bars() -> None:
    assert area_of([picture() for _ in range(8)]) == (0, 0, 0, 0)


def test_a_black_film_has_no_bars() -> None:
    assert area_of([np.full((HEIGHT, WIDTH), 3, np.uint8)] * 8) == (0, 0, 0, 0)


def test_a_lamp_in_the_dark_is_no_picture_between_bars() -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    lamp = np.where(np.hypot(y - 70, x - 120) < 50, 200, 4).astype(np.uint8)
    assert area_of([lamp] * 8) == (0, 0, 0, 0)


def test_a_night_scene_before_a_bright_one_keeps_its_edges() -> None:
    night = np.pad(picture(HEIGHT - 60), ((60, 0), (0, 0)))
    assert area_of([night] * 8 + [picture()] * 4) == (0, 0, 0, 0)


def test_a_fade_in_does_not_hide_bars() -> None:
    black = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert area_of([black] * 4 + [boxed(18, 18, 0, 0) for _ in range(8)]) == (18, 18, 0, 0)


def test_bars_with_lettering_stay() -> None:
    lettered = boxed(18, 18, 0, 0)
    lettered[HEIGHT - 12 : HEIGHT - 4, 60:200] = 230
    assert area_of([lettered] * 8) == (18, 0, 0, 0)


def test_half_a_line_of_bar_is_cut_off_too() -> None:
    frames = [boxed(18, 18, 0, 0) for _ in range(8)]
    for frame in frames:
        frame[18] = 36 * (np.arange(WIDTH) % 3 == 0)
    assert area_of(frames) == (19, 18, 0, 0)


def test_the_area_in_displayed_pixels_lies_inside() -> None:
    rows, columns = slice(0, 144), slice(29, 228)
    found = displayed_area((rows, columns), (144, 256), height_px=360, width_px=640)
    assert found == PictureArea(top_px=0, left_px=73, height_px=360, width_px=497)
    whole = displayed_area((rows, slice(0, 256)), (144, 256), height_px=360, width_px=640)
    assert whole is None
