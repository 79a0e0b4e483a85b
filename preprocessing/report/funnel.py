"""From hours in to hours kept, so that every second of every source is somewhere.

A source that decoded is cut without a rest: its frames lie in clips, or between them. The seconds in clips are known from their time
stamps; what is left of the source's duration is shared out among the frames between clips, which counts every frame as equally long
there (exact at a constant rate).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from preprocessing.config import ClipsConfig
from preprocessing.report.columns import Floats, Ints, clip_seconds, first_reasons, floats, ints, places, sums_by, where
from preprocessing.samples import Verdict

_FRAMES = 1 << 40
"""More than any source has: source and frame make one sortable number."""


@dataclass(frozen=True, kw_only=True)
class HoursFunnel:
    """Hours of video by what became of them; `total` is the sum of all others.

    Attributes:
        total: Of all sources whose duration is known.
        failed: Of sources that failed, by first reason, as far as they declare a duration.
        transitions: Frames that two shots are mixed in.
        guard: Kept away from transitions by `clips.guard_s`.
        remainders: Ends of shots that are too short for a clip of their own.
        left_out: Frames that gave no candidate, because `clips.policy` left their shot out.
        dropped: Clips that are not kept, by first reason.
        kept: Clips that are kept.
    """

    total: float
    failed: Mapping[str, float]
    transitions: float
    guard: float
    remainders: float
    left_out: float
    dropped: Mapping[str, float]
    kept: float


def hours_funnel(sources: pa.Table, clips: pa.Table, transitions: pa.Table, settings: ClipsConfig) -> HoursFunnel:
    """Share out the hours.

    Args:
        sources: `Ledger.sources()`.
        clips: `Ledger.clips()`.
        transitions: `Ledger.transitions()`.
        settings: Under which the clips were cut.
    """
    failed, ok = where(sources, "status", "failed"), where(sources, "status", "ok")
    kept, dropped = where(clips, "decision", Verdict.KEEP), where(clips, "decision", Verdict.DROP)
    durations_s = np.nan_to_num(floats(sources, "duration_s"))
    return HoursFunnel(
        total=_hours(durations_s.sum()),
        failed=_all_hours(sums_by(failed["reason"], np.nan_to_num(floats(failed, "duration_s")))),
        **_between_clips(ok, clips, transitions, settings),
        dropped=_all_hours(sums_by(first_reasons(dropped), clip_seconds(dropped))),
        kept=_hours(clip_seconds(kept).sum()),
    )


def _hours(seconds: float) -> float:
    return round(float(seconds) / 3600, 9)


def _all_hours(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: _hours(value) for name, value in seconds.items()}


def _between_clips(
    sources: pa.Table, clips: pa.Table, transitions: pa.Table, settings: ClipsConfig
) -> dict[str, float]:
    """Hours of the frames that lie in no clip, by why."""
    frames = _frames_between_clips(sources, clips, transitions, settings)
    in_clips_s = _sums(places(clips, sources), clip_seconds(clips), sources.num_rows)
    rest_s = np.nan_to_num(floats(sources, "duration_s")) - in_clips_s
    step_s = rest_s / np.maximum(sum(frames.values()), 1)
    return {name: _hours((count * step_s).sum()) for name, count in frames.items()}


def _frames_between_clips(
    sources: pa.Table, clips: pa.Table, transitions: pa.Table, settings: ClipsConfig
) -> dict[str, Floats]:
    """Frames in no clip, by why; each (number of sources,)."""
    num_frames, first_frame, number = ints(sources, "num_frames"), ints(sources, "first_frame"), sources.num_rows
    end_frame = first_frame + num_frames
    at, start, end = places(clips, sources), ints(clips, "start_frame"), ints(clips, "end_frame")
    cut_at, cut_start, cut_end = (
        places(transitions, sources), ints(transitions, "start_frame"), ints(transitions, "end_frame"),
    )  # fmt: skip
    rest = num_frames - _sums(at, end - start, number)
    mixed = np.minimum(_sums(cut_at, cut_end - cut_start, number), rest)  # a file dropped whole holds its transitions
    of_source = np.arange(number)
    shot_starts = np.sort(np.concatenate([_key(of_source, first_frame), _key(cut_at, cut_end)]))
    shot_ends = np.sort(np.concatenate([_key(of_source, end_frame), _key(cut_at, cut_start)]))
    first, last = _ends_of_shots(at, ints(clips, "shot_index"), start)
    head = _key(at, start) - shot_starts[np.searchsorted(shot_starts, _key(at, start), side="right") - 1]
    shot_end = shot_ends[np.searchsorted(shot_ends, _key(at, end))] - at * _FRAMES
    guards = _frames_within(settings.guard_s, np.nan_to_num(floats(sources, "fps"))[at])
    tail = shot_end - end
    tail_guard = np.where(shot_end < end_frame[at], np.minimum(tail, guards), 0)
    guard = _sums(at, first * head + last * tail_guard, number)
    remainders = _sums(at, last * (tail - tail_guard), number)
    left_out = np.maximum(rest - mixed - guard - remainders, 0)
    return {"transitions": mixed, "guard": guard, "remainders": remainders, "left_out": left_out}


def _frames_within(seconds: float, fps: Floats) -> Ints:
    """Frames that lie less than so many seconds before a transition."""
    return np.maximum(np.ceil(seconds * fps - 1e-6) - 1, 0).astype(np.int64)


def _key(source: Ints, frame: Ints) -> Ints:
    return source * _FRAMES + frame


def _ends_of_shots(source: Ints, shot: Ints, start: Ints) -> tuple[Ints, Ints]:
    """1 for the first clip of its shot, and 1 for the last; 0 for the others."""
    order = np.argsort(_key(source, start), kind="stable")
    is_new = np.ones(len(order) + 1, np.int64)
    is_new[1:-1] = (np.diff(source[order]) != 0) | (np.diff(shot[order]) != 0)
    first, last = np.empty_like(order), np.empty_like(order)
    first[order], last[order] = is_new[:-1], is_new[1:]
    return first, last


def _sums(place: Ints, values: Floats | Ints, number: int) -> Floats:
    """Sums of values by the place they belong to, (number,)."""
    return np.bincount(place, weights=values, minlength=number).astype(np.float64)
