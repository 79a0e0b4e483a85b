from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing import rows
from preprocessing.candidates import Footage, candidates_of
from preprocessing.config import ClipsConfig
from preprocessing.motion import SERIES
from preprocessing.report.funnel import HoursFunnel, hours_funnel
from preprocessing.samples import ClipCandidate, Signals, SourceScan, Transition, TransitionKind
from tests.preprocessing.test_ledger import A, B, make_failure, make_scan, make_source


def scan_of(name: str, times_s: np.ndarray, transitions: Sequence[Transition], first_frame: int) -> SourceScan:
    signals = Signals(
        timestamps_s=times_s,
        luma=np.full(len(times_s), 99, np.float32),
        motion_times_s=np.zeros(0),
        motion={name: np.zeros(0, np.float32) for name in SERIES},
    )
    found = {"num_frames": len(times_s), "transitions": tuple(transitions), "first_frame": first_frame}
    return replace(make_scan(make_source(name)), signals=signals, **found)


def transitions_at(cuts: Sequence[int], mixed: int, first_frame: int) -> list[Transition]:
    kind = TransitionKind.GRADUAL if mixed else TransitionKind.CUT
    at = [first_frame + cut for cut in cuts]
    return [Transition(kind=kind, start_frame=frame, end_frame=frame + mixed, score=1.0) for frame in at]


def clips_of(scan: SourceScan, clips: ClipsConfig) -> tuple[ClipCandidate, ...]:
    assert scan.signals is not None
    return candidates_of(
        Footage(
            source_id=scan.source.source_id,
            num_frames=scan.num_frames,
            height_px=240,
            width_px=320,
            transitions=scan.transitions,
            signals=scan.signals,
            first_frame=scan.first_frame,
        ),
        clips,
    )


def is_kept(clip: ClipCandidate) -> bool:
    return clip.num_segments % 2 == 1


def funnel_of(scans: Sequence[SourceScan], clips: ClipsConfig) -> HoursFunnel:
    """Every second clip length is kept; which reason the others have is of no matter here."""
    found = [
        {
            **{name: getattr(clip, name) for name in ("source_id", "shot_index", "start_frame", "end_frame", "start_s", "end_s")},
            "decision": "keep" if is_kept(clip) else "drop",
            "reasons": [] if is_kept(clip) else ["static"],
        }
        for scan in scans
        if scan.ok
        for clip in clips_of(scan, clips)
    ]  # fmt: skip
    columns = ("source_id", "shot_index", "start_frame", "end_frame", "start_s", "end_s", "decision", "reasons")
    schema = pa.schema([rows.CLIPS.field(name) for name in columns])
    sources = [rows.source_row(scan, fingerprint="f", part=0) for scan in scans]
    transitions = [row for scan in scans for row in rows.transition_rows(scan)]
    return hours_funnel(
        pa.Table.from_pylist(sources, schema=rows.SOURCES),
        pa.Table.from_pylist(found, schema=schema),
        pa.Table.from_pylist(transitions, schema=rows.TRANSITIONS),
        clips,
    )


def parts(funnel: HoursFunnel) -> dict[str, float]:
    plain = {name: getattr(funnel, name) for name in ("transitions", "guard", "remainders", "left_out", "kept")}
    return {**plain, "dropped": sum(funnel.dropped.values()), "failed": sum(funnel.failed.values())}


def label(scan: SourceScan, clips: ClipsConfig) -> Iterator[str]:
    """What becomes of every frame, one by one."""
    assert scan.probe is not None
    found = clips_of(scan, clips)
    end = scan.first_frame + scan.num_frames
    for frame in range(scan.first_frame, end):
        clip = next((clip for clip in found if clip.start_frame <= frame < clip.end_frame), None)
        shot_start = max([scan.first_frame, *(t.end_frame for t in scan.transitions if t.end_frame <= frame)])
        shot_end = min([end, *(t.start_frame for t in scan.transitions if t.start_frame > frame)])
        of_shot = [clip for clip in found if shot_start <= clip.start_frame < shot_end]
        if clip is not None:
            yield "kept" if is_kept(clip) else "dropped"
        elif any(t.start_frame <= frame < t.end_frame for t in scan.transitions):
            yield "transitions"
        elif not of_shot:
            yield "left_out"
        elif frame < of_shot[0].start_frame or (shot_end < end and shot_end - frame < clips.guard_s * 25):
            yield "guard"
        else:
            yield "remainders"


@given(
    cuts=st.lists(st.integers(1, 14), max_size=3, unique=True).map(lambda places: [27 * p for p in sorted(places)]),
    mixed=st.integers(0, 20),
    guard_s=st.sampled_from([0.0, 0.26, 1.1]),
    policy=st.sampled_from(["split", "drop", "longest"]),
    max_segments=st.integers(1, 4),
    first_frame=st.sampled_from([0, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_every_frame_is_where_a_slow_look_at_each_puts_it(
    cuts: list[int], mixed: int, guard_s: float, policy: str, max_segments: int, first_frame: int
) -> None:
    clips = ClipsConfig.model_validate(
        {"guard_s": guard_s, "policy": policy, "max_segments": max_segments, "fps": 25.0}
    )
    scan = scan_of("a", np.arange(420) / 25, transitions_at(cuts, mixed, first_frame), first_frame)
    other = scan_of("b", np.arange(90) / 25, [], 0)
    funnel = funnel_of([scan, other], clips)
    labels = [*label(scan, clips), *label(other, clips)]
    expected = {name: labels.count(name) / 25 / 3600 for name in parts(funnel)}
    assert parts(funnel) == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 1000), guard_s=st.sampled_from([0.0, 0.3]))
@settings(max_examples=20, deadline=None)
def test_hours_in_are_hours_out_at_any_rate(seed: int, guard_s: float) -> None:
    rng = np.random.default_rng(seed)
    scans = [
        scan_of(
            name, np.cumsum(rng.uniform(0.01, 0.2, size=number)), transitions_at([40], int(rng.integers(0, 9)), 0), 0
        )
        for name, number in (("a", 300), ("b", 60), ("c", 49))
    ]
    scans += [scan_of("d", np.zeros(1), [], 0), make_failure(make_source("e"))]
    funnel = funnel_of(scans, ClipsConfig(guard_s=guard_s, max_segments=2))
    assert funnel.total == pytest.approx(sum(parts(funnel).values()), abs=1e-8)


def test_a_failed_source_counts_with_what_it_declares() -> None:
    missing = rows.source_row(make_scan(A), fingerprint="f", part=0) | {"status": "failed", "reason": "missing"}
    unknown = rows.source_row(make_failure(B), fingerprint="f", part=0)
    sources = pa.Table.from_pylist([missing, unknown], schema=rows.SOURCES)
    funnel = hours_funnel(sources, rows.CLIPS.empty_table(), rows.TRANSITIONS.empty_table(), ClipsConfig())
    assert funnel.total == pytest.approx(4 / 3600)
    assert funnel.failed == pytest.approx({"missing": 4 / 3600, "undecodable": 0.0})
