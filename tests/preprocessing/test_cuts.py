import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.config import TransitionsConfig
from preprocessing.cuts import cut_score
from preprocessing.lettering import is_lettering
from preprocessing.rendering.decoys import light, sensor_noise
from preprocessing.rendering.footage import Place, footage, random_place, seconds
from preprocessing.rendering.leaves import palette
from preprocessing.rendering.scenes import Frames
from preprocessing.residue import MotionResidue, small_gray

AT = 7


def place(seed: int, speed: float = 0.05) -> Place:
    rng = np.random.default_rng(seed)
    return random_place(rng, palette(rng), speed=speed, num_walkers=2)


def score(frames: Frames, at: int = AT) -> float | None:
    return cut_score([small_gray(frame) for frame in frames], at, TransitionsConfig(), MotionResidue())


def cut(seed: int, speed: float = 0.05) -> Frames:
    return np.concatenate([footage(place(seed, speed), seconds(AT)), footage(place(seed + 100, speed), seconds(AT))])


@pytest.mark.parametrize("speed", [0.0, 0.1, 0.4])
def test_another_place_is_a_cut(speed: float) -> None:
    found = score(cut(1, speed))
    assert found is not None
    assert found > 0.5


def test_a_cut_at_night_is_a_cut() -> None:
    night = light(cut(2), np.full(2 * AT, 0.18))
    assert score(sensor_noise(night, 3.0, np.random.default_rng(0))) is not None


def test_a_jump_in_time_under_the_same_camera_is_a_cut() -> None:
    here = place(3, speed=0.0)
    frames = np.concatenate([footage(here, seconds(AT)), footage(here, seconds(AT, 3.0))])
    assert score(frames) is not None


def test_the_next_moment_is_none() -> None:
    frames = footage(place(4, speed=0.3), seconds(2 * AT))
    assert all(score(frames, at) is None for at in range(1, 2 * AT))


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_a_flash_is_none_at_either_end(num_frames: int) -> None:
    gain, offset = np.ones(2 * AT), np.zeros(2 * AT)
    gain[AT : AT + num_frames], offset[AT : AT + num_frames] = 0.3, 190
    frames = light(footage(place(5), seconds(2 * AT)), gain, offset)
    assert score(frames) is None
    assert score(frames, AT + num_frames) is None


@pytest.mark.parametrize("gain", [0.4, 0.7, 1.4])
def test_a_lamp_that_is_switched_is_none(gain: float) -> None:
    gains = np.where(np.arange(2 * AT) < AT, 1.0, gain)
    assert score(light(footage(place(6), seconds(2 * AT)), gains)) is None


def lettered(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    letters = picture.copy()
    for line in range(3):
        cv2.putText(letters, "LETTERING", (12, 40 + 42 * line), cv2.FONT_HERSHEY_DUPLEX, 1.4, (250,) * 3, 3)
    return letters


def test_lettering_that_appears_or_goes_is_none() -> None:
    frames = footage(place(7, speed=0.0), seconds(2 * AT))
    appears = np.stack([lettered(frame) if k >= AT else frame for k, frame in enumerate(frames)])
    assert score(appears) is None
    assert score(appears[::-1]) is None


def test_a_cut_is_no_lettering() -> None:
    before, after = (small_gray(frame) for frame in cut(8)[AT - 1 : AT + 1])
    assert not is_lettering(before, after)
    assert is_lettering(before, small_gray(lettered(cut(8)[AT - 1])))


def test_a_film_with_doubled_frames_has_none() -> None:
    frames = footage(place(9, speed=0.3), seconds(AT)).repeat(2, axis=0)
    assert all(score(frames, at) is None for at in range(1, 2 * AT))
