import numpy as np
import pytest

from preprocessing.dips import DipDetector
from preprocessing.fades import Fade
from preprocessing.likeness import small_picture


def still(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (27, 48, 3))


def found(frames: list[np.ndarray]) -> tuple[Fade, ...]:
    detector = DipDetector()
    for frame in frames:
        detector.add(small_picture(frame.round().astype(np.uint8)))
    return detector.result()


def dip(first: int, second: int, ramp: int, level: float) -> list[np.ndarray]:
    gains = 1 - (np.arange(ramp) + 1) / (ramp + 1)
    out = [level + gain * (still(first) - level) for gain in gains]
    into = [level + gain * (still(second) - level) for gain in gains[::-1]]
    return [*[still(first)] * 30, *out, *into, *[still(second)] * 30]


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("ramp", [3, 4, 6, 9])
def test_a_quick_fade_from_shot_to_shot_is_found_with_its_ends(ramp: int, level: float) -> None:
    (only,) = found(dip(1, 2, ramp, level))
    assert (only.start_frame, only.end_frame) == (30, 30 + 2 * ramp)


def test_the_same_shot_that_comes_back_is_none() -> None:
    assert found(dip(1, 1, 4, 0)) == ()


def test_a_dissolve_and_a_cut_are_none() -> None:
    shares = (np.arange(12) + 1) / 13
    mixed = [(1 - share) * still(1) + share * still(2) for share in shares]
    assert found([*[still(1)] * 30, *mixed, *[still(2)] * 30]) == ()
    assert found([*[still(1)] * 30, *[still(2)] * 30]) == ()
