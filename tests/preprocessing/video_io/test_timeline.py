from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.video_io.timeline import MAX_GAP_S, Clock, grid_frames, shown_on_grid

steps_s = st.lists(st.floats(0.005, 0.4), min_size=1, max_size=150)
rates = st.sampled_from([8.0, 12.0, 15.0, 23.976, 24.0, 30.0, 60.0])


def times_from(steps: list[float]) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(steps)])


def nearest_slowly(times: np.ndarray, target: float) -> int:
    distances = np.abs(times - target)
    return int(np.flatnonzero(distances <= distances.min() + 1e-6)[0])


@given(steps_s, rates)
def test_every_grid_frame_is_the_nearest_and_a_tie_takes_the_earlier(steps: list[float], fps: float) -> None:
    times = times_from(steps)
    num_frames = max(1, int((times[-1] - times[0]) * fps))
    grid = grid_frames(times, 0, fps, num_frames)
    assert grid.tolist() == [nearest_slowly(times, times[0] + k / fps) for k in range(num_frames)]


@pytest.mark.parametrize(
    ("source_fps", "expected"), [(24, [0, 1, 2, 3, 4]), (60, [0, 2, 5, 7, 10]), (12, [0, 0, 1, 1, 2])]
)
def test_known_grids_at_24_fps(source_fps: int, expected: list[int]) -> None:
    assert grid_frames(np.arange(100) / source_fps, 0, 24.0, 5).tolist() == expected


@given(steps_s, rates, st.integers(1, 60), st.data())
def test_a_grid_is_a_continuation_of_its_beginning(steps: list[float], fps: float, num_frames: int, data) -> None:  # noqa: ANN001
    times = times_from(steps)
    start = data.draw(st.integers(0, len(times) - 1))
    grid = grid_frames(times, start, fps, num_frames)
    assert grid[0] == start
    assert all(a <= b for a, b in pairwise(grid))
    assert (
        grid[: num_frames // 2].tolist()
        == grid_frames(times, start, fps, num_frames // 2 or 1)[: num_frames // 2].tolist()
    )


@given(steps_s, rates, st.data())
def test_a_stream_shows_the_same_frames_as_the_array(steps: list[float], fps: float, data) -> None:  # noqa: ANN001
    times = times_from(steps)
    start = data.draw(st.integers(0, len(times) - 1))
    num_frames = 1 + int((times[-1] - times[start]) * fps)
    stream = ((times[i], i) for i in range(start, len(times)))
    shown = [i for i, count in shown_on_grid(stream, fps, num_frames) for _ in range(count)]
    assert shown == grid_frames(times, start, fps, num_frames).tolist()


def test_the_source_is_over_where_the_grid_names_frames_it_does_not_have() -> None:
    times = np.arange(36) / 24
    assert grid_frames(times, 0, 24.0, 38)[-3:].tolist() == [35, 36, 37]
    assert sum(count for _, count in shown_on_grid(((t, 0) for t in times), 24.0, 100)) < 100


@given(st.lists(st.one_of(st.none(), st.integers(-(10**7), 10**7)), min_size=1, max_size=60))
def test_times_start_at_0_and_increase_without_long_gaps_whatever_the_container_says(stamps: list[int | None]) -> None:
    clock = Clock(time_base=Fraction(1, 1000), fps=25.0)
    times = [clock.seconds(pts) for pts in stamps]
    assert times[0] == 0
    assert all(0 < b - a <= MAX_GAP_S + 1e-9 for a, b in pairwise(times))


def test_sane_stamps_are_kept_and_a_broken_one_costs_one_frame() -> None:
    clock = Clock(time_base=Fraction(1, 1000), fps=10.0)
    stamps = [500, 600, 750, None, 950, 950, 1050, 900_000, 900_100]
    assert [clock.seconds(pts) for pts in stamps] == [0.0, 0.1, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85]
