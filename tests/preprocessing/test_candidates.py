from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.candidates import Footage, candidates_of
from preprocessing.config import ClipsConfig
from preprocessing.motion import SERIES
from preprocessing.samples import FRAMES_PER_SEGMENT, ClipCandidate, Signals, Transition, TransitionKind
from preprocessing.video_io.timeline import grid_frames


def signals_of(timestamps_s: np.ndarray, **series: float) -> Signals:
    motion_times_s = np.arange(0.5, timestamps_s[-1], 0.25)
    values = {name: np.full(len(motion_times_s), series.get(name, 5.0), np.float32) for name in SERIES}
    values["span_s"] = np.full(len(motion_times_s), 0.5, np.float32)
    values["far_span_s"] = np.full(len(motion_times_s), 1.0, np.float32)
    return Signals(
        timestamps_s=timestamps_s,
        luma=np.full(len(timestamps_s), 100.0, np.float32),
        motion_times_s=motion_times_s,
        motion=values,
    )


def cut(frame: int) -> Transition:
    return Transition(kind=TransitionKind.CUT, start_frame=frame, end_frame=frame, score=1.0)


def gradual(start: int, end: int) -> Transition:
    return Transition(kind=TransitionKind.GRADUAL, start_frame=start, end_frame=end, score=1.0)


def found(
    timestamps_s: np.ndarray, transitions: list[Transition], clips: ClipsConfig, *, leader: tuple[int, float] = (0, 0.0)
) -> tuple[ClipCandidate, ...]:
    """The clips of a film whose leader, so many frames, is of that brightness."""
    signals = signals_of(timestamps_s)
    signals.luma[: leader[0]] = leader[1]
    return candidates_of(
        Footage(
            source_id="abc",
            num_frames=len(timestamps_s),
            height_px=90,
            width_px=160,
            transitions=transitions,
            signals=signals,
        ),
        clips,
    )


@st.composite
def films(draw: st.DrawFn) -> tuple[np.ndarray, list[Transition]]:
    """A film of uneven frame times with cuts and gradual changes."""
    num_frames = draw(st.integers(1, 700))
    steps = np.array(draw(st.lists(st.floats(0.01, 0.12), min_size=1, max_size=8)))
    times = np.concatenate([[0.0], np.cumsum(np.resize(steps, num_frames))])[:num_frames]
    ends = sorted(draw(st.sets(st.integers(1, num_frames), max_size=8)))
    transitions, last = [], 0
    for end in ends:
        start = draw(st.integers(last, end))
        transitions.append(cut(end) if start == end or draw(st.booleans()) else gradual(start, end))
        last = end
    return times, transitions


@settings(deadline=None)
@given(films(), st.sampled_from([8.0, 12.0, 24.0, 30.0]), st.integers(1, 6), st.sampled_from([0.0, 0.3]))
def test_clips_lie_in_shots_on_the_grid_one_after_the_other(
    film: tuple[np.ndarray, list[Transition]], fps: float, max_segments: int, guard_s: float
) -> None:
    times, transitions = film
    rows = found(times, transitions, ClipsConfig(fps=fps, max_segments=max_segments, guard_s=guard_s))
    for row in rows:
        assert not any(t.start_frame < row.end_frame and row.start_frame < t.end_frame for t in transitions)
        assert not any(row.start_frame < t.start_frame < row.end_frame for t in transitions)
        assert row.scores["transitions"] == 0
        if row.num_segments:
            grid = grid_frames(times, row.start_frame, fps, FRAMES_PER_SEGMENT * row.num_segments + 2)
            assert grid[-1] == row.end_frame <= len(times)
            assert row.num_segments <= max_segments
    for first, second in pairwise(rows):
        assert first.shot_index <= second.shot_index
        if first.shot_index == second.shot_index:
            assert second.start_frame == first.end_frame
            assert second.clip_index == first.clip_index + 1
    assert len({row.clip_id for row in rows}) == len(rows)


@settings(deadline=None)
@given(films())
def test_every_shot_has_a_row(film: tuple[np.ndarray, list[Transition]]) -> None:
    times, transitions = film
    shots = {row.shot_index for row in found(times, transitions, ClipsConfig())}
    mixed = np.zeros(len(times), bool)
    for transition in transitions:
        mixed[transition.start_frame : transition.end_frame] = True
    starts = [
        i
        for i in range(len(times))
        if not mixed[i] and (i == 0 or mixed[i - 1] or any(t.end_frame == i for t in transitions))
    ]
    assert shots == set(range(len(starts)))


def test_known_clips_at_24_fps() -> None:
    rows = found(np.arange(240) / 24, [cut(30), gradual(120, 132)], ClipsConfig(max_segments=1))
    assert [(row.shot_index, row.clip_index, row.start_frame, row.end_frame, row.num_segments) for row in rows] == [
        (0, 0, 0, 30, 0),
        (1, 0, 30, 67, 1),
        (1, 1, 67, 104, 1),
        (2, 0, 132, 169, 1),
        (2, 1, 169, 206, 1),
    ]
    assert rows[1].start_s == pytest.approx(30 / 24)
    assert rows[1].end_s == pytest.approx(67 / 24)


def test_37_frames_at_24_fps_are_one_segment_and_36_are_none() -> None:
    assert [row.num_segments for row in found(np.arange(37) / 24, [], ClipsConfig())] == [1]
    assert [row.num_segments for row in found(np.arange(36) / 24, [], ClipsConfig())] == [0]


def test_guard_bands_lie_at_transitions_only() -> None:
    (first, second) = found(np.arange(240) / 24, [cut(120)], ClipsConfig(guard_s=0.5))
    assert first.start_frame == 0
    assert first.end_frame == 109
    assert second.start_frame == 132


def test_policies() -> None:
    times, cuts = np.arange(300) / 24, [cut(100)]
    (dropped,) = found(times, cuts, ClipsConfig(policy="drop"))
    assert (dropped.start_frame, dropped.end_frame, dropped.scores["transitions"]) == (0, 300, 1.0)
    (longest,) = found(times, cuts, ClipsConfig(policy="longest"))
    assert (longest.shot_index, longest.start_frame) == (1, 100)


def test_a_black_leader_is_no_shot_and_a_dark_one_is() -> None:
    times, fade, drop = np.arange(600) / 24, [gradual(300, 324)], ClipsConfig(policy="drop")
    assert {clip.shot_index for clip in found(times, fade, drop, leader=(300, 2.0))} == {1}
    (whole,) = found(times, fade, drop, leader=(300, 20.0))
    assert (whole.start_frame, whole.end_frame, whole.num_segments) == (0, 600, 0)
    dark, longest = [gradual(400, 424)], ClipsConfig(policy="longest")
    assert {clip.shot_index for clip in found(times, dark, longest, leader=(400, 20.0))} == {0}


def test_a_clip_keeps_its_id_when_other_settings_leave_it_as_it_is() -> None:
    times = np.arange(300) / 24
    ids = {row.start_frame: row.clip_id for row in found(times, [cut(100)], ClipsConfig())}
    again = {row.start_frame: row.clip_id for row in found(times, [cut(100), cut(290)], ClipsConfig(guard_s=0.0))}
    assert ids[0] == again[0]
    assert all(character in "abcdefghijklmnopqrstuvwxyz0123456789_-" for character in "".join(ids.values()))


def test_scores_of_a_shot_do_not_see_its_neighbours() -> None:
    times = np.arange(480) / 24
    signals = signals_of(times)
    moving = signals.motion_times_s > 10.4  # the first half stands still; the flow over the cut is wild
    for name in ("camera_short", "camera_long", "own"):
        signals.motion[name][:] = np.where(moving, 8.0, 0.0)
        signals.motion[name][(signals.motion_times_s > 10) & ~moving] = 99.0
    signals.motion["camera_far"][:] = np.where(signals.motion_times_s > 10.9, 8.0, 0.0)
    still, lively = candidates_of(
        Footage(
            source_id="abc",
            num_frames=480,
            height_px=90,
            width_px=160,
            transitions=[cut(240)],
            signals=signals,
        ),
        ClipsConfig(),
    )
    assert (still.scores["dynamism"], still.scores["active_share"]) == (0.0, 0.0)
    assert (lively.scores["dynamism"], lively.scores["active_share"]) == (8.0, 1.0)


def test_clips_of_a_span_are_told_in_frames_and_seconds_of_the_file() -> None:
    whole, clips = np.arange(400) / 24, ClipsConfig(max_segments=2)
    of_file = found(whole[100:], [cut(150)], clips)
    signals = signals_of(whole[100:] - whole[100])
    of_span = candidates_of(
        Footage(
            source_id="abc",
            num_frames=300,
            height_px=90,
            width_px=160,
            transitions=[cut(250)],
            signals=replace(signals, timestamps_s=whole[100:], motion_times_s=signals.motion_times_s + whole[100]),
            first_frame=100,
        ),
        clips,
    )
    assert [clip.start_frame for clip in of_span] == [100 + clip.start_frame for clip in of_file]
    assert [clip.end_frame for clip in of_span] == [100 + clip.end_frame for clip in of_file]
    assert [clip.start_s for clip in of_span] == [round(clip.start_frame / 24, 6) for clip in of_span]
    assert all(clip.scores["transitions"] == 0 for clip in of_span)


def test_a_shot_is_divided_where_it_is_black_or_frozen_and_the_index_says_so() -> None:
    times = np.arange(480) / 24
    signals = signals_of(times)
    signals.luma[100:130] = 2.0
    change = np.full(480, 9.0, np.float32)
    change[301:340] = 0.0
    signals = replace(signals, change=change)
    rows = candidates_of(
        Footage(
            source_id="abc",
            num_frames=480,
            height_px=90,
            width_px=160,
            transitions=[],
            signals=signals,
        ),
        ClipsConfig(),
    )
    assert [(row.shot_index, row.clip_index, row.start_frame, row.end_frame, row.num_segments) for row in rows] == [
        (0, 0, 0, 73, 2),
        (0, 2, 100, 130, 0),
        (0, 4, 130, 275, 4),
        (0, 6, 300, 337, 1),
        (0, 8, 340, 449, 3),
    ]
    assert [row.scores["black_share"] for row in rows] == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert [row.scores["frozen_share"] for row in rows] == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_a_short_flash_of_black_divides_nothing() -> None:
    signals = signals_of(np.arange(240) / 24)
    signals.luma[100:108] = 2.0
    (row,) = candidates_of(
        Footage(
            source_id="abc",
            num_frames=240,
            height_px=90,
            width_px=160,
            transitions=[],
            signals=signals,
        ),
        ClipsConfig(),
    )
    assert row.scores["black_share"] == pytest.approx(8 / 217, abs=1e-3)


@pytest.mark.parametrize("fps", [12, 15, 23.976, 60])
def test_no_clip_shows_a_frame_of_the_next_shot(fps: float) -> None:
    timestamps_s = np.arange(300) / fps
    for frame in range(15, 200):
        for clip in found(timestamps_s, [cut(frame)], ClipsConfig()):
            shown = grid_frames(timestamps_s, clip.start_frame, clip.fps, 1 + FRAMES_PER_SEGMENT * clip.num_segments)
            assert clip.num_segments == 0 or clip.start_frame >= frame or shown[-1] < frame
