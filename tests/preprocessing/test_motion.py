import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.camera import WAY
from preprocessing.config import MotionConfig
from preprocessing.letterbox import BarFinder
from preprocessing.motion import MotionMeter, percentile
from preprocessing.scores import constancy

HEIGHT, WIDTH = 144, 256
DIAGONAL = float(np.hypot(HEIGHT, WIDTH))
RNG = np.random.default_rng(3)
WORLD = cv2.GaussianBlur(np.kron(RNG.uniform(0, 255, (60, 160)), np.ones((6, 6))), (0, 0), 1.5)
"""A picture larger than the frame, to pan over."""


def view(x: float, y: float) -> NDArray[np.uint8]:
    shift = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
    return np.asarray(cv2.warpAffine(WORLD, shift, (WIDTH, HEIGHT)), np.uint8)


def series_of(frames: list[NDArray[np.uint8]], fps: float) -> dict[str, NDArray[np.float32]]:
    bars = BarFinder()
    meter = MotionMeter(MotionConfig(), bars)
    for k, frame in enumerate(frames):
        bars.add(k / fps, frame)
        meter.add(k / fps, frame)
    times_s, series = meter.result()
    assert all(values.shape == times_s.shape for values in series.values())
    return series


def camera(frames: list[NDArray[np.uint8]], fps: float) -> float:
    """Speed of the camera, the smallest over the gaps."""
    series = series_of(frames, fps)
    gaps = np.stack([series[name] for name in ("camera_short", "camera_long", "camera_far")])
    return float(np.median(np.nanmin(gaps, axis=0)))


def dynamism(frames: list[NDArray[np.uint8]], fps: float) -> float:
    return max(camera(frames, fps), float(np.median(series_of(frames, fps)["own"])))


def pan(speed: float, fps: float, seconds: float = 3.0) -> list[NDArray[np.uint8]]:
    step_px = speed / 100 * DIAGONAL / fps
    return [view(40 + step_px * k, 30) for k in range(int(seconds * fps))]


@pytest.mark.parametrize("fps", [12.0, 24.0, 60.0])
@pytest.mark.parametrize("speed", [0.8, 2.0, 8.0])
def test_a_pan_has_its_true_speed_at_any_rate(fps: float, speed: float) -> None:
    assert dynamism(pan(speed, fps), fps) == pytest.approx(speed, rel=0.1)


def test_what_stands_still_is_still_whatever_it_looks_like() -> None:
    picture = view(40, 30)
    noise = [np.clip(picture + RNG.normal(0, 8, picture.shape), 0, 255).astype(np.uint8) for _ in range(48)]
    flicker = [np.clip(picture * (1 + 0.15 * np.sin(k)), 0, 255).astype(np.uint8) for k in range(48)]
    slides = [view(40 + 50 * (k // 60), 30) for k in range(240)]
    for frames in ([picture] * 48, noise, flicker, slides):
        assert dynamism(frames, 24.0) < 0.3


def test_made_up_flow_is_no_motion_of_things() -> None:
    picture = view(40, 30)
    noise = [np.clip(picture + RNG.normal(0, 40, picture.shape), 0, 255).astype(np.uint8) for _ in range(48)]
    series = series_of(noise, 24.0)
    assert np.median(series["rest"]) > 0.1
    assert series["own"].max() == 0


@pytest.mark.parametrize(("side_px", "step_px"), [(48, 0.5), (48, 1.0), (36, 2.0), (24, 2.0)])
def test_a_small_object_is_seen(side_px: int, step_px: float) -> None:
    frames = []
    for k in range(60):
        frame, x = view(40, 30), round(10 + step_px * k)
        frame[40 : 40 + side_px, x : x + side_px] = WORLD[100 : 100 + side_px, 100 : 100 + side_px].astype(np.uint8)
        frames.append(frame)
    assert dynamism(frames, 24.0) > 2
    assert camera(frames, 24.0) < 0.3


def test_a_shaking_camera_runs_and_arrives_nowhere() -> None:
    shaken = [view(40 + x, 30 + y) for x, y in RNG.normal(0, 3, (72, 2))]
    series = series_of(shaken, 24.0)
    assert np.median(series["camera_short"]) > 3
    assert np.nanmedian(series["camera_far"]) < 0.15 * np.median(series["camera_short"])
    assert np.median(series["own"]) < 0.6


def test_a_pan_keeps_its_way_though_the_longer_gaps_lose_it_and_a_shake_does_not() -> None:
    ways = {name: series_of(pan(60.0, 24.0, seconds=2.0), 24.0)[name] for name in WAY}
    assert np.median(ways["way_right"]) == pytest.approx(60.0, rel=0.1)
    assert constancy(np.stack(list(ways.values()))) > 0.95
    shaken = series_of([view(40 + x, 30 + y) for x, y in RNG.normal(0, 3, (72, 2))], 24.0)
    assert constancy(np.stack([shaken[name] for name in WAY])) < 0.7


def test_a_pan_beside_a_moving_thing_tells_both_apart() -> None:
    frames = pan(4.0, 24.0)
    for k, frame in enumerate(frames):
        frame[40:100, 60 + k : 120 + k] = WORLD[100:160, 100:160].astype(np.uint8)
    series = series_of(frames, 24.0)
    assert camera(frames, 24.0) == pytest.approx(4.0, rel=0.1)
    assert np.median(series["own"]) == pytest.approx(4.0 + 100 * 24 / DIAGONAL, rel=0.2)


def test_a_still_under_a_pan_has_nothing_beside_the_camera_and_parallax_has() -> None:
    still, deep = pan(4.0, 24.0), pan(4.0, 24.0)
    for frame, nearer in zip(deep, pan(6.0, 24.0), strict=True):
        frame[90:] = nearer[90:]
    assert np.median(series_of(still, 24.0)["rest"]) < 0.2
    assert np.median(series_of(deep, 24.0)["rest"]) > 1.0


def test_doubled_frames_of_a_converted_film_still_move() -> None:
    assert dynamism([view(40 + 2 * (k // 2), 30) for k in range(72)], 24.0) > 3


def test_a_pan_too_fast_for_the_longer_gaps_keeps_its_speed() -> None:
    series = series_of(pan(60.0, 24.0, seconds=2.0), 24.0)
    assert np.median(series["camera_short"]) == pytest.approx(60.0, rel=0.1)
    assert np.isnan(series["camera_far"]).all()


def test_chaos_is_not_followed_and_motion_is() -> None:
    chaos = [cv2.resize(RNG.integers(0, 255, (18, 32)).astype(np.uint8), (WIDTH, HEIGHT)) for _ in range(48)]
    assert np.nanmedian(series_of([np.asarray(frame) for frame in chaos], 24.0)["followed"]) < 0.5
    assert np.nanmedian(series_of(pan(20.0, 24.0), 24.0)["followed"]) > 0.8


def test_bars_neither_slow_a_pan_down_nor_count() -> None:
    boxed = [np.pad(frame[20:-20], ((20, 20), (0, 0))) for frame in pan(4.0, 24.0)]
    smaller_diagonal = float(np.hypot(HEIGHT - 40, WIDTH))
    assert camera(boxed, 24.0) == pytest.approx(4.0 * DIAGONAL / smaller_diagonal, rel=0.05)


def test_a_film_shorter_than_the_long_gap_has_no_measurement() -> None:
    assert series_of([view(40, 30)] * 5, 24.0)["own"].shape == (0,)


@pytest.mark.parametrize("size", [1, 2, 3, 21, 60, 2205])
def test_a_percentile_is_that_of_numpy_to_the_last_bit(size: int) -> None:
    for scale in (0.001, 1, 50):
        values = RNG.uniform(0, scale, (1, size)).astype(np.float32)
        for percent in (0, 50, 95, 99, 100):
            assert percentile(values, percent) == float(np.percentile(values, percent))
