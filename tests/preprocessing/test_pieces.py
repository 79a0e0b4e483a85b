"""Where clips begin and end: as long as a slow search over the whole grid says, and never without a frame."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from preprocessing.config import ClipsConfig
from preprocessing.pieces import Piece, pieces_of
from preprocessing.samples import FRAMES_PER_SEGMENT
from preprocessing.video_io.timeline import frame_step_s, grid_frames


def pieces(times_s: np.ndarray, clips: ClipsConfig, pauses: tuple[int, ...] = ()) -> list[Piece]:
    return list(pieces_of(times_s, bright(times_s), [], pauses, clips, step_s=frame_step_s(times_s)))


def bright(times_s: np.ndarray) -> np.ndarray:
    """No frame is black."""
    return np.zeros(len(times_s), bool)


def shots_of(black: Sequence[range], transitions: Sequence[tuple[int, int]], policy: str) -> set[tuple[int, int]]:
    """Number and segments of the shots of 600 frames at 24 fps that give pieces, where some frames are black."""
    black_N = np.array([any(k in stretch for stretch in black) for k in range(600)])
    clips = ClipsConfig.model_validate({"policy": policy, "min_segments": 1})
    found = pieces_of(np.arange(600) / 24, black_N, transitions, (), clips, step_s=1 / 24)
    return {(piece.shot_index, piece.num_segments) for piece in found}


@pytest.mark.parametrize("leader", [0, 6, 120])
def test_a_take_that_fades_from_and_to_black_is_a_single_take(leader: int) -> None:
    black, fades = [range(leader), range(590, 600)], [(leader, leader + 24), (570, 590)]
    take = (1 if leader else 0, (546 - leader - 1) // 36)
    assert shots_of(black, fades, "drop") == shots_of(black, fades, "longest") == {take}


def test_what_is_black_elsewhere_or_beside_a_cut_is_a_shot_of_its_own() -> None:
    assert shots_of([range(60)], [(60, 60)], "drop") == {(0, 0)}
    assert shots_of([], [(60, 84)], "drop") == {(0, 0)}
    assert shots_of([range(200, 260)], [(180, 200), (260, 280)], "drop") == {(0, 0)}
    assert shots_of([range(300), range(320, 600)], [(300, 320)], "longest") == {(0, 8)}


def longest(times_s: np.ndarray, start: int, stop: int, clips: ClipsConfig) -> tuple[int, int]:
    """The most segments whose last frame is before `stop` and whose end is not behind it, from the whole grid."""
    grid = grid_frames(times_s, start, clips.fps, FRAMES_PER_SEGMENT * clips.max_segments + 2)
    fit = [
        (int(grid[FRAMES_PER_SEGMENT * n + 1]), n)
        for n in range(clips.min_segments, clips.max_segments + 1)
        if start < grid[FRAMES_PER_SEGMENT * n + 1] <= stop and grid[FRAMES_PER_SEGMENT * n] < stop
    ]
    return fit[-1] if fit else (start, 0)


@pytest.mark.parametrize("seed", range(40))
def test_each_clip_is_as_long_as_a_search_over_the_whole_grid_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(1, 600))
    times_s = np.cumsum(rng.uniform(0.005, rng.choice([0.05, 0.2, 2.0]), num_frames))
    clips = ClipsConfig(fps=float(rng.choice([8.0, 12.0, 24.0, 30.0])), max_segments=int(rng.integers(1, 8)))
    pause = int(rng.integers(0, num_frames))
    for piece in pieces(times_s, clips, (pause,)):
        stop = pause if piece.start_frame < pause else num_frames
        end, num_segments = longest(times_s, piece.start_frame, stop, clips)
        assert piece.num_segments == num_segments
        assert piece.end_frame == (end if num_segments else stop)


def test_pictures_that_stay_longer_than_a_segment_give_no_empty_clip() -> None:
    times_s = np.arange(8) * 9.0  # at 24 fps the first frame behind one to three segments is still the same picture
    found = pieces(times_s, ClipsConfig(max_segments=8))
    assert all(piece.end_frame > piece.start_frame for piece in found)
    assert [(piece.start_frame, piece.num_segments) for piece in found[:2]] == [(0, 8), (1, 8)]


def test_the_longest_shot_is_the_one_shown_for_longest() -> None:
    times_s = np.concatenate([np.arange(150) / 30, 5 + np.arange(80) / 10])  # 5 s in 150 frames, 8 s in 80
    step_s = frame_step_s(times_s)
    found = pieces_of(times_s, bright(times_s), [(150, 150)], (), ClipsConfig(policy="longest"), step_s=step_s)
    assert {piece.shot_index for piece in found} == {1}


def test_of_equally_long_shots_the_first_is_taken() -> None:
    times_s = np.arange(300) / 24
    found = pieces_of(
        times_s, bright(times_s), [(100, 100), (200, 200)], (), ClipsConfig(policy="longest"), step_s=1 / 24
    )
    assert {piece.shot_index for piece in found} == {0}


@pytest.mark.parametrize("policy", ["split", "drop", "longest"])
def test_a_source_that_is_all_transition_gives_nothing(policy: Literal["split", "drop", "longest"]) -> None:
    times_s = np.arange(20) / 24
    assert list(pieces_of(times_s, bright(times_s), [(0, 20)], (), ClipsConfig(policy=policy), step_s=1 / 24)) == []


def test_pauses_at_the_ends_of_a_film_divide_nothing() -> None:
    times_s, clips = np.arange(100) / 24, ClipsConfig()
    assert pieces(times_s, clips, (0, 100)) == pieces(times_s, clips)
