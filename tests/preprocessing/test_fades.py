import numpy as np
import pytest

from preprocessing.fades import Fade, find_fades

CONTRAST, LUMA = 50.0, 120.0


def film(*parts: tuple[float, float, int], end_luma: float = 0.0) -> tuple[Fade, ...]:
    """The fades of a film whose pictures are there to these shares: (from, to, frames) each, linear, the first left out."""
    shares = np.concatenate([np.linspace(a, b, n + 1)[1:] for a, b, n in parts])
    return find_fades(CONTRAST * shares, LUMA * shares + end_luma * (1 - shares))


@pytest.mark.parametrize("end_luma", [0.0, 255.0])
@pytest.mark.parametrize("num_frames", [4, 12, 40])
def test_a_fade_through_black_or_white_is_one_change(num_frames: int, end_luma: float) -> None:
    (only,) = film((1, 1, 60), (1, 0, num_frames), (0, 0, 5), (0, 1, num_frames), (1, 1, 60), end_luma=end_luma)
    assert abs(only.start_frame - 60) <= 1
    assert abs(only.end_frame - (65 + 2 * num_frames)) <= 1


def test_a_fade_at_either_end_of_the_file_counts() -> None:
    first, last = film((0, 0, 5), (0, 1, 20), (1, 1, 60), (1, 0, 20))
    assert (first.start_frame, last.end_frame) == (0, 105)
    assert abs(first.end_frame - 25) <= 1
    assert abs(last.start_frame - 85) <= 1


def test_a_long_black_stretch_is_a_shot_between_two_fades() -> None:
    first, last = film((1, 1, 60), (1, 0, 20), (0, 0, 100), (0, 1, 20), (1, 1, 60))
    assert first.end_frame < 90
    assert last.start_frame > 170


def test_cuts_to_and_from_black_are_none() -> None:
    assert film((1, 1, 60), (0, 0, 20), (1, 1, 60)) == ()
    assert film((0, 0, 20), (1, 1, 60)) == ()


def test_a_fade_to_grey_and_a_dip_that_stays_visible_are_none() -> None:
    assert film((1, 1, 60), (1, 0, 20), (0, 0, 5), (0, 1, 20), (1, 1, 60), end_luma=120.0) == ()
    assert film((1, 1, 60), (1, 0.4, 20), (0.4, 1, 20), (1, 1, 60)) == ()


def test_a_fade_in_ends_where_the_shot_goes_on_growing_slowly() -> None:
    (only,) = film((0, 0, 5), (0, 1, 20), (1, 1.6, 100))
    assert abs(only.end_frame - 25) <= 2
