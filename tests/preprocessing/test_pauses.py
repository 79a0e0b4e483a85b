import numpy as np
import pytest

from preprocessing.pauses import black_stretches, effective_rate, frozen_stretches, largest_change, new_frames
from preprocessing.samples import Signals


def signals_of(change: np.ndarray, luma: np.ndarray | None = None, fps: float = 24.0) -> Signals:
    num_frames = len(change)
    return Signals(
        timestamps_s=np.arange(num_frames) / fps,
        luma=np.full(num_frames, 90.0, np.float32) if luma is None else luma.astype(np.float32),
        motion_times_s=np.zeros(0),
        motion={},
        change=change.astype(np.float32),
    )


def rate(change: np.ndarray, fps: float = 24.0) -> float | None:
    signals = signals_of(change, fps=fps)
    new_N, moving_N = new_frames(signals, step_s=1 / fps)
    counts = (np.array([np.count_nonzero(of_frames)]) for of_frames in (new_N & moving_N, moving_N, change == change))
    (found,) = effective_rate(*counts, np.array([signals.timestamps_s[-1]]))
    return None if np.isnan(found) else float(found)


def test_a_black_stretch_is_told_by_its_frames() -> None:
    luma = np.full(100, 80.0)
    luma[10:15], luma[40:60] = 3.0, 3.0
    found = black_stretches(signals_of(np.ones(100), luma), black_luma=10.0, at_least_s=0.5)
    assert found == [(40, 60)]


def test_a_frozen_stretch_begins_with_the_picture_that_stays() -> None:
    change = np.full(100, 7.0)
    change[31:60] = [0.0, 1.0] * 14 + [0.0]
    assert frozen_stretches(signals_of(change), at_least_s=1.0) == [(30, 60)]


def test_one_frame_that_is_shown_for_a_second_is_frozen_too() -> None:
    signals = signals_of(np.full(20, 9.0))
    signals.timestamps_s[10:] += 2.0
    assert frozen_stretches(signals, at_least_s=1.0) == [(9, 10)]


def test_a_slow_scene_is_not_frozen() -> None:
    assert frozen_stretches(signals_of(np.full(100, 2.0)), at_least_s=1.0) == []


@pytest.mark.parametrize(("shown", "new_fps"), [(1, 24.0), (2, 12.0), (3, 8.0)])
def test_a_false_frame_rate_is_seen_through(shown: int, new_fps: float) -> None:
    change = np.where(np.arange(96) % shown == 0, 20.0, 1.0)
    assert rate(change) == pytest.approx(new_fps, rel=0.05)


def test_thirty_per_cent_of_doubled_frames_are_counted() -> None:
    change = np.where(np.isin(np.arange(100) % 10, (2, 5, 9)), 0.0, 15.0)
    assert rate(change, fps=25.0) == pytest.approx(17.5, rel=0.05)


def test_motion_that_slows_down_is_no_lower_rate() -> None:
    assert rate(10 + 7 * np.sin(np.arange(96) / 4)) == pytest.approx(24.0, rel=0.05)


def test_a_film_without_motion_has_no_rate_of_its_own() -> None:
    assert rate(np.full(96, 1.0)) is None


def test_a_small_thing_changes_a_picture() -> None:
    before = np.full((144, 256), 90, np.uint8)
    after = before.copy()
    after[50:60, 100:110] = 150
    assert largest_change(before, after) >= 10
    assert largest_change(before, before) == 0
