import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.config import MotionConfig
from preprocessing.motion import MotionMeter

HEIGHT, WIDTH = 144, 256
DIAGONAL = float(np.hypot(HEIGHT, WIDTH))
RNG = np.random.default_rng(3)
WORLD = cv2.GaussianBlur(np.kron(RNG.uniform(0, 255, (60, 120)), np.ones((6, 6))), (0, 0), 1.5)
"""A picture larger than the frame, to pan over."""


def view(x: float, y: float) -> NDArray[np.uint8]:
    shift = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
    return np.asarray(cv2.warpAffine(WORLD, shift, (WIDTH, HEIGHT)), np.uint8)


def measured(frames: list[NDArray[np.uint8]], fps: float) -> dict[str, float]:
    meter = MotionMeter(MotionConfig())
    for k, frame in enumerate(frames):
        meter.add(k / fps, frame)
    times_s, series = meter.result()
    assert all(values.shape == times_s.shape for values in series.values())
    return {name: float(np.median(values)) for name, values in series.items()}


def dynamism(frames: list[NDArray[np.uint8]], fps: float) -> float:
    found = measured(frames, fps)
    return min(found["short_p95"], found["long_p95"])


@pytest.mark.parametrize("fps", [12.0, 24.0, 60.0])
@pytest.mark.parametrize("speed", [2.0, 8.0])
def test_a_pan_has_its_true_speed_at_any_rate(fps: float, speed: float) -> None:
    step_px = speed / 100 * DIAGONAL / fps
    pan = [view(40 + step_px * k, 30) for k in range(int(3 * fps))]
    found = measured(pan, fps)
    assert found["long_median"] == pytest.approx(speed, rel=0.1)
    assert found["short_median"] == pytest.approx(speed, rel=0.35)


def test_what_stands_still_is_still_whatever_it_looks_like() -> None:
    picture = view(40, 30)
    noise = [np.clip(picture + RNG.normal(0, 8, picture.shape), 0, 255).astype(np.uint8) for _ in range(48)]
    flicker = [np.clip(picture * (1 + 0.15 * np.sin(k)), 0, 255).astype(np.uint8) for k in range(48)]
    slides = [view(40 + 50 * (k // 60), 30) for k in range(240)]
    for frames in ([picture] * 48, noise, flicker, slides):
        assert dynamism(frames, 24.0) < 0.6


def test_a_small_object_is_seen() -> None:
    frames = []
    for k in range(60):
        frame = view(40, 30)
        frame[40:100, 10 + k : 70 + k] = WORLD[100:160, 100:160].astype(np.uint8)
        frames.append(frame)
    assert dynamism(frames, 24.0) > 3
    assert measured(frames, 24.0)["long_median"] < 0.5


def test_a_shaking_camera_runs_and_arrives_nowhere() -> None:
    shaken = [view(40 + x, 30 + y) for x, y in RNG.normal(0, 3, (72, 2))]
    found = measured(shaken, 24.0)
    assert found["short_median"] > 3
    assert found["long_median"] < 0.25 * found["short_median"]


def test_doubled_frames_of_a_converted_film_still_move() -> None:
    pan = [view(40 + 2 * (k // 2), 30) for k in range(72)]
    assert dynamism(pan, 24.0) > 3


def test_a_film_shorter_than_the_long_gap_has_no_measurement() -> None:
    meter = MotionMeter(MotionConfig())
    for k in range(5):
        meter.add(k / 24, view(40, 30))
    assert meter.result()[0].shape == (0,)
