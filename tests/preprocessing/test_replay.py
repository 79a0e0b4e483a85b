"""Replaying stored scans under other settings, without any video."""

from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from preprocessing import candidates, rows
from preprocessing.candidates import candidates_of
from preprocessing.config import ClipsConfig, DecideConfig
from preprocessing.motion import SERIES
from preprocessing.replay import decided_clips, footage_of, regrouped_sources
from preprocessing.samples import Signals, SourceScan, Transition, TransitionKind
from preprocessing.splits import split_of
from tests.preprocessing.test_ledger import A, B, make_scan, make_source


def make_long_scan(seed: int) -> SourceScan:
    """A minute with a cut at frame 700, with motion of all kinds; its file does not exist."""
    rng, num_frames = np.random.default_rng(seed), 1440
    times_s = np.arange(0.5, num_frames / 24, 0.25)
    motion = {name: rng.gamma(2.0, 3.0, len(times_s)).astype(np.float32) for name in SERIES}
    signals = Signals(
        timestamps_s=np.arange(num_frames) / 24,
        luma=np.full(num_frames, 100.0, np.float32),
        motion_times_s=times_s,
        motion=motion | {"span_s": np.full(len(times_s), 0.5, np.float32)},
        change=np.full(num_frames, 20.0, np.float32),
    )
    cut = Transition(kind=TransitionKind.CUT, start_frame=700, end_frame=700, score=0.9)
    return replace(make_scan(A if seed else B), num_frames=num_frames, transitions=(cut,), signals=signals)


def make_short_scan() -> SourceScan:
    """Too short for any motion to be measured."""
    signals = Signals(
        timestamps_s=np.arange(40) / 24,
        luma=np.full(40, 100.0, np.float32),
        motion_times_s=np.zeros(0),
        motion={name: np.zeros(0, np.float32) for name in SERIES},
    )
    return replace(make_scan(make_source("c")), num_frames=40, transitions=(), signals=signals)


SCANS = [make_long_scan(0), make_long_scan(1)]


@pytest.mark.parametrize(
    "clips",
    [
        ClipsConfig(),
        ClipsConfig(fps=12.0),
        ClipsConfig(max_segments=2),
        ClipsConfig(policy="longest"),
        ClipsConfig(policy="drop"),
        ClipsConfig(guard_s=0.5),
    ],
    ids=["as stored", "frame rate", "clip length", "longest", "drop", "guard band"],
)
def test_all_sources_at_once_are_decided_as_one_by_one(clips: ClipsConfig) -> None:
    scans = [SCANS[0], make_short_scan(), SCANS[1]]
    together = decided_clips(scans, clips, DecideConfig(), eval_percent=5)
    alone = [decided_clips([scan], clips, DecideConfig(), eval_percent=5) for scan in scans]
    assert together.to_pylist() == [row for table in alone for row in table.to_pylist()]
    assert together["clip_id"].to_pylist() == [
        one.clip_id for scan in scans for one in candidates_of(footage_of(scan), clips)
    ]
    assert together["fps"].unique().to_pylist() == [clips.fps]


def test_it_is_of_no_matter_how_many_fit_into_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = [SCANS[0], make_short_scan(), SCANS[1]]
    together = decided_clips(scans, ClipsConfig(), DecideConfig(), eval_percent=5)
    monkeypatch.setattr(candidates, "_AT_ONCE", 500)
    assert decided_clips(scans, ClipsConfig(), DecideConfig(), eval_percent=5).equals(together)


@pytest.mark.parametrize("min_dynamism", [0.0, 5.0, 1000.0])
def test_a_threshold_changes_decisions_and_no_clip(min_dynamism: float) -> None:
    before, after = (
        decided_clips(SCANS, ClipsConfig(), settings, eval_percent=5)
        for settings in (DecideConfig(), DecideConfig(min_dynamism=min_dynamism))
    )
    for name in ("clip_id", "scores", "num_segments", "split"):
        assert after[name].equals(before[name])
    too_slow = [dynamism < min_dynamism for dynamism in after["dynamism"].to_pylist()]
    static = ["static" in reasons for reasons in after["reasons"].to_pylist()]
    assert [slow for slow, said in zip(too_slow, static, strict=True) if slow and not said] == []


def test_a_source_is_regrouped_where_its_group_stands_in_another_split_than_its_clips() -> None:
    clips = decided_clips(SCANS, ClipsConfig(), DecideConfig(), eval_percent=50)
    groups = [f"film {k}" for k in range(8)]
    for groups_now in product(groups, groups):
        known = list(zip((A, B), groups_now, strict=True))
        scans = [make_scan(replace(source, group_id=group)) for source, group in known]
        sources = pa.Table.from_pylist(
            [rows.source_row(s, fingerprint="f", part=0) for s in scans], schema=rows.SOURCES
        )
        expected = {s.source_id for s, group in known if split_of(group, 50) != split_of(s.group_id, 50)}
        assert regrouped_sources(sources, clips, eval_percent=50) == expected


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_left_out_from_what_the_probe_said(transfer: str) -> None:
    probe = SCANS[0].probe
    assert probe is not None
    scans = [replace(SCANS[0], probe=replace(probe, transfer=transfer)), SCANS[1]]
    decided = decided_clips(scans, ClipsConfig(), DecideConfig(keep_hdr=False), eval_percent=5).to_pylist()
    is_hdr = {row["source_id"]: "hdr" in row["reasons"] for row in decided if row["num_segments"]}
    assert is_hdr == {SCANS[0].source.source_id: True, SCANS[1].source.source_id: False}
    kept = decided_clips(scans, ClipsConfig(), DecideConfig(), eval_percent=5).to_pylist()
    assert not [row for row in kept if "hdr" in row["reasons"]]


def test_no_scans_give_no_clips() -> None:
    assert decided_clips([], ClipsConfig(), DecideConfig(), eval_percent=5).num_rows == 0
