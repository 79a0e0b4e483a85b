from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from preprocessing import plan_rows, rows
from preprocessing.effort import Effort
from preprocessing.ledger import Ledger
from preprocessing.parts import part_key
from preprocessing.reasons import Reason
from preprocessing.samples import (
    ClipCandidate,
    PlannedClip,
    PlannedShard,
    Probe,
    ShardRecord,
    Signals,
    Source,
    SourceScan,
    Split,
    Thumbnail,
    Transition,
    TransitionKind,
    Verdict,
)
from preprocessing.storage import Storage, open_storage


def make_source(name: str, **changes: object) -> Source:
    source = Source(
        source_id=f"{name}0000000000000000"[:16], group_id=f"g{name}", uri=f"videos/{name}.mp4",
        location=f"/raw/videos/{name}.mp4", content_id="1-1", extra={"b": "2", "a": "1"},
    )  # fmt: skip
    return replace(source, **changes)


def make_scan(source: Source, num_frames: int = 100, cut_at: int = 40) -> SourceScan:
    return SourceScan(
        source=source,
        ok=True,
        reasons=(),
        message="",
        num_frames=num_frames,
        decoder="pyav",
        probe=Probe(
            codec="h264", stream_index=0, pixel_format="yuv420p", width_px=320, height_px=240, rotation_deg=0,
            fps=25.0, num_frames_declared=num_frames, duration_s=num_frames / 25,
        ),
        transitions=(
            Transition(kind=TransitionKind.CUT, start_frame=cut_at, end_frame=cut_at, score=0.9),
            Transition(kind=TransitionKind.GRADUAL, start_frame=num_frames - 5, end_frame=num_frames, score=0.5),
        ),
        signals=Signals(
            timestamps_s=np.arange(num_frames) / 25,
            luma=np.linspace(0, 255, num_frames, dtype=np.float32),
            motion_times_s=np.arange(7) / 4,
            motion={"long": np.arange(7, dtype=np.float32), "fast": np.ones(7, np.float32)},
        ),
        thumbnails=(Thumbnail(frame=0, jpeg=b"jpeg0"), Thumbnail(frame=25, jpeg=b"jpeg25")),
    )  # fmt: skip


def make_failure(source: Source) -> SourceScan:
    return SourceScan(
        source=source, ok=False, reasons=(Reason.UNDECODABLE,), message="not a video", num_frames=0, decoder="",
        probe=None, transitions=(), signals=None, thumbnails=(),
    )  # fmt: skip


def make_candidate(source: Source, clip_index: int) -> ClipCandidate:
    return ClipCandidate(
        clip_id=f"{source.source_id}-{clip_index}", source_id=source.source_id, shot_index=0, clip_index=clip_index,
        start_frame=37 * clip_index, end_frame=37 * clip_index + 37, start_s=0.0, end_s=1.5, fps=24.0,
        num_segments=1, scores={"dynamism": 1.5, "black_share": 0.0},
    )  # fmt: skip


def make_planned(clip_id: str, **changes: object) -> PlannedClip:
    clip = PlannedClip(
        clip_id=clip_id, source_id="s", group_id="g", uri="videos/a.mp4", location="/raw/a.mp4", caption="a dog",
        licence="", split=Split.TRAIN, shot_index=0, clip_index=0, start_frame=0, end_frame=37, start_s=0.0, end_s=1.5,
        fps=24.0, num_segments=1, height_px=64, width_px=64, scores={"dynamism": 1.0}, content_id="1-1",
    )  # fmt: skip
    return replace(clip, **changes)


def kept_table(clips: Sequence[PlannedClip]) -> pa.Table:
    """Clips as `plan` takes them (schema `plan_rows.KEPT`)."""
    return pa.Table.from_pylist([{**vars(clip), "split": str(clip.split)} for clip in clips], schema=plan_rows.KEPT)


def plan_table(shards: Sequence[PlannedShard]) -> pa.Table:
    """Shards as the ledger takes them (schema `plan_rows.PLAN`)."""
    names = [shard.name for shard in shards for _ in shard.clips]
    buckets = [shard.bucket for shard in shards for _ in shard.clips]
    clips = kept_table([clip for shard in shards for clip in shard.clips])
    return pa.table(
        [pa.array(names, pa.string()), pa.array(buckets, pa.string()), *clips.columns], schema=plan_rows.PLAN
    )


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "data") if request.param == "local" else f"memory://bucket{tmp_path}")


@pytest.fixture
def ledger(storage: Storage) -> Ledger:
    return Ledger(storage)


A, B, C = make_source("a"), make_source("b"), make_source("c")


def test_an_empty_ledger_answers_everything(ledger: Ledger) -> None:
    assert ledger.sources().num_rows == ledger.transitions().num_rows == ledger.clips().num_rows == 0
    assert ledger.plan().num_rows == 0
    assert ledger.encodes() == ()
    assert ledger.pending_sources([A, B], "f") == (A, B)
    assert ledger.undecided_sources("f") == ()
    assert ledger.thumbnails(A.source_id) == ()


def test_a_scan_comes_back_as_it_was(ledger: Ledger) -> None:
    scan = make_scan(A)
    ledger.append_scans([scan, make_failure(B)], "f")
    (read,) = ledger.iterate_scans(None)
    assert (read.source, read.probe, read.transitions) == (scan.source, scan.probe, scan.transitions)
    assert scan.signals is not None
    for signals in (read.signals, ledger.signals(A.source_id)):
        assert signals is not None
        np.testing.assert_array_equal(signals.timestamps_s, scan.signals.timestamps_s)
        np.testing.assert_array_equal(signals.luma, scan.signals.luma)
        assert sorted(signals.motion) == ["fast", "long"]
        np.testing.assert_array_equal(signals.motion["long"], scan.signals.motion["long"])
    assert ledger.thumbnails(A.source_id) == scan.thumbnails
    assert dict(ledger.iterate_thumbnails({A.source_id, B.source_id})) == {A.source_id: scan.thumbnails}
    with pytest.raises(ValueError, match="no signals"):
        ledger.signals(B.source_id)


def test_what_a_scan_and_an_encode_took_stands_in_their_rows(ledger: Ledger) -> None:
    took = Effort(cpu_s=2.5, wall_s=4.0)
    ledger.append_scans([replace(make_scan(replace(A, size_bytes=1000)), effort=took), make_failure(B)], "f")
    measured, unknown = ledger.sources().to_pylist()
    assert (measured["scan_cpu_s"], measured["scan_wall_s"], measured["size_bytes"]) == (2.5, 4.0, 1000)
    assert (unknown["scan_cpu_s"], unknown["size_bytes"]) == (None, None)
    (scan,) = ledger.iterate_scans(None)
    assert scan.effort == took
    record = ShardRecord(key="64x64/0", sha256="aa", size=1, clip_ids=("c",), failed={}, effort=took)
    ledger.append_encodes([record])
    assert [record.effort for record in ledger.encodes()] == [took]


def test_a_source_row_says_what_people_want_to_know(ledger: Ledger) -> None:
    ledger.append_scans([make_failure(B), make_scan(A)], "f")
    ok, failed = ledger.sources().to_pylist()
    assert (ok["status"], ok["num_shots"], ok["num_frames"], ok["decoder"]) == ("ok", 2, 100, "pyav")
    assert ok["fps"] == pytest.approx(25)
    assert ok["duration_s"] == pytest.approx(4)
    assert (failed["status"], failed["reason"], failed["message"]) == ("failed", "undecodable", "not a video")
    assert (failed["fps"], failed["num_shots"]) == (None, 0)


def test_a_later_scan_replaces_the_earlier_one_with_all_its_parts(ledger: Ledger) -> None:
    ledger.append_scans([make_scan(A, 100), make_scan(B, 50)], "f")
    ledger.append_scans([make_scan(A, 80, cut_at=30)], "g")
    assert ledger.sources()["num_frames"].to_pylist() == [80, 50]
    assert ledger.transitions()["start_frame"].to_pylist() == [30, 75, 40, 45]
    assert ledger.signals(A.source_id).luma.shape == (80,)
    assert ledger.signals(B.source_id).luma.shape == (50,)


def test_only_new_changed_or_differently_scanned_sources_are_pending(ledger: Ledger) -> None:
    ledger.append_scans([make_scan(A), make_failure(B)], "f")
    assert ledger.pending_sources([A, B, C], "f") == (C,)
    assert ledger.pending_sources([A, B], "g") == (A, B)
    assert ledger.pending_sources([replace(A, content_id="2-2", location="/elsewhere"), B], "f") != ()


def test_another_file_under_the_same_uri_is_refused_while_the_first_exists(ledger: Ledger, tmp_path: Path) -> None:
    first = tmp_path / "a.mp4"
    first.write_bytes(b"x")
    ledger.append_scans([make_scan(replace(A, location=str(first)))], "f")
    other = replace(A, location="/other/videos/a.mp4", content_id="2-2")
    with pytest.raises(ValueError, match=r"would both be videos/a\.mp4"):
        ledger.refuse_collisions([other])
    first.unlink()
    ledger.refuse_collisions([other])
    assert ledger.pending_sources([other], "f") == (other,)


def test_a_new_caption_or_place_needs_no_new_scan(ledger: Ledger, storage: Storage) -> None:
    ledger.append_scans([make_scan(A)], "f")
    ledger.refresh_sources([A], "f")
    before = storage.list("")
    moved = replace(A, caption="a dog runs", location="/new/a.mp4")
    ledger.refresh_sources([moved], "f")
    assert ledger.pending_sources([moved], "f") == ()
    (scan,) = ledger.iterate_scans(None)
    assert (scan.source, scan.num_frames) == (moved, 100)
    ledger.refresh_sources([moved], "f")
    assert len(storage.list("")) == len(before) + 1


def test_a_vanished_source_keeps_its_row_and_its_return_needs_no_new_scan(ledger: Ledger) -> None:
    ledger.append_scans([make_scan(A), make_scan(B)], "f")
    ledger.append_missing({A.source_id})
    ledger.append_missing({A.source_id})
    row = ledger.sources().to_pylist()[0]
    assert (row["status"], row["reason"], row["num_frames"]) == ("failed", "missing", 100)
    assert set(ledger.transitions()["source_id"].to_pylist()) == {B.source_id}
    assert ledger.pending_sources([A, B], "f") == ()
    ledger.refresh_sources([A, B], "f")
    assert ledger.sources()["status"].to_pylist() == ["ok", "ok"]
    assert ledger.transitions().num_rows == 4


@pytest.mark.parametrize("writes_before_the_kill", [0, 1, 2, 3])
def test_a_kill_between_the_parts_of_a_scan_leaves_no_trace(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, writes_before_the_kill: int
) -> None:
    ledger = Ledger(storage)
    ledger.append_scans([make_scan(A)], "f")
    write, left = ledger._parts.write, [writes_before_the_kill]

    def dying(kind: str, part: int, table: object) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(kind, part, table)

    monkeypatch.setattr(ledger._parts, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        ledger.append_scans([make_scan(A, 80), make_scan(B, 50)], "f")
    survivor = Ledger(storage)
    assert survivor.sources()["num_frames"].to_pylist() == [100]
    assert survivor.transitions().num_rows == 2
    assert survivor.signals(A.source_id).luma.shape == (100,)
    survivor.append_scans([make_failure(B)], "f")
    assert survivor.transitions().num_rows == 2
    assert storage.exists(part_key("transitions", 1))


def make_clips(candidates: Sequence[ClipCandidate], verdicts: Sequence[Verdict]) -> pa.Table:
    """Candidates that were decided about, as the ledger takes them."""
    columns = {
        "decision": [str(verdict) for verdict in verdicts],
        "reasons": [["static"] if verdict is Verdict.DROP else [] for verdict in verdicts],
        "dynamism": [candidate.scores["dynamism"] for candidate in candidates],
        "split": ["eval"] * len(candidates),
    }
    decided = rows.candidates_table(candidates)
    return pa.table({**{name: decided[name] for name in decided.column_names}, **columns}, schema=rows.CLIPS)


def decide(ledger: Ledger, source: Source, verdicts: Sequence[Verdict], fingerprint: str = "d") -> None:
    clips = make_clips([make_candidate(source, i) for i in range(len(verdicts))], verdicts)
    ledger.append_clips(clips, [source.source_id], fingerprint=fingerprint)


def test_a_new_decision_replaces_that_of_its_sources_only(ledger: Ledger) -> None:
    ledger.append_scans([make_scan(A), make_scan(B)], "f")
    decide(ledger, A, [Verdict.KEEP, Verdict.DROP])
    decide(ledger, B, [Verdict.KEEP])
    decide(ledger, A, [Verdict.DROP], "e")
    clips = ledger.clips().to_pylist()
    assert [(row["clip_id"], row["decision"], row["reasons"]) for row in clips] == [
        (f"{A.source_id}-0", "drop", ["static"]),
        (f"{B.source_id}-0", "keep", []),
    ]
    assert (clips[1]["dynamism"], clips[1]["split"], clips[1]["scores"]["black_share"]) == (1.5, "eval", 0.0)
    decide(ledger, A, [])
    assert ledger.clips()["source_id"].to_pylist() == [B.source_id]


def test_a_decision_holds_for_one_scan_under_one_setting(ledger: Ledger) -> None:
    ledger.append_scans([make_scan(A), make_failure(B)], "f")
    assert ledger.undecided_sources("d") == (A.source_id,)
    decide(ledger, A, [Verdict.KEEP])
    assert ledger.undecided_sources("d") == ()
    assert ledger.undecided_sources("other") == (A.source_id,)
    ledger.append_scans([make_scan(A, 80)], "g")
    assert ledger.undecided_sources("d") == (A.source_id,)
    assert ledger.clips().num_rows == 0


def test_plan_and_encodes_come_back_in_order(ledger: Ledger) -> None:
    shards = [
        PlannedShard(name=f"f-{i}", bucket="64x64", clips=(make_planned(f"c{i}"), make_planned(f"d{i}")))
        for i in (2, 1)
    ]
    ledger.append_plan(plan_table(shards[:1]))
    ledger.append_plan(plan_table([]))
    ledger.append_plan(plan_table(shards[1:]))
    assert tuple(plan_rows.shards_of_plan(ledger.plan())) == tuple(shards)
    records = [
        ShardRecord(key="64x64/f-2", sha256="s", size=1, clip_ids=("c2",), failed={"d2": "died"}),
        ShardRecord(key="64x64/f-1", sha256="t", size=2, clip_ids=("c1", "d1"), failed={}),
    ]
    ledger.append_encodes(records[:1])
    ledger.append_encodes(records)
    assert ledger.encodes() == tuple(records)


def test_shots_are_counted_between_transitions() -> None:
    fades = [
        Transition(kind=TransitionKind.GRADUAL, start_frame=a, end_frame=b, score=1) for a, b in [(0, 5), (95, 100)]
    ]
    cut = Transition(kind=TransitionKind.CUT, start_frame=50, end_frame=50, score=1)
    assert rows.count_shots(range(100), []) == 1
    assert rows.count_shots(range(100), fades) == 1
    assert rows.count_shots(range(100), [fades[0], cut, fades[1]]) == 2
    assert rows.count_shots(range(5, 95), [cut]) == 2
    assert rows.count_shots(range(0), []) == 0
