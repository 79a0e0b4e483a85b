"""All shared videos, scanned once, against what their manifest says of them."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from preprocessing.config import ClipsConfig, DecideConfig, MotionConfig, ScanConfig, TransitionsConfig
from preprocessing.isolation import IsolatedWorker
from preprocessing.reasons import Reason
from preprocessing.replay import decided_clips
from preprocessing.samples import Source, SourceScan, Verdict
from preprocessing.scan import ScanSettings, scan_source
from tests.preprocessing.shared_videos import VIDEOS, shared_video

pytestmark = pytest.mark.slow

SETTINGS = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())
NOTHING_MOVES = {Reason.STATIC, Reason.SLIDESHOW, Reason.BLACK, Reason.TOO_SHORT}
STILLS = {
    "edge_frozen_still.mp4", "edge_flicker_still.mp4", "edge_noise_still.mp4", "edge_all_black.mp4",
    "leaf_deer_fades.mp4",
}  # fmt: skip
"""Nothing moves in these either; the manifest calls the motion in them by other names."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One file: its manifest row, its scan, and the verdict and reasons of every clip."""

    row: Mapping
    scan: SourceScan
    clips: tuple[tuple[Verdict, frozenset[Reason]], ...]

    @property
    def name(self) -> str:
        return self.row["file"]


@pytest.fixture(scope="module")
def found() -> Iterator[tuple[Found, ...]]:
    rows = [json.loads(line) for line in shared_video("manifest.jsonl").read_text("utf-8").splitlines()]
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=2048) as worker:
        yield tuple(look(row, worker) for row in rows)


def look(row: Mapping, worker: IsolatedWorker) -> Found:
    path = VIDEOS / row["file"]
    source = Source(source_id="a1", group_id="a1", uri=path.name, location=str(path), content_id="1")
    scan = scan_source(source, SETTINGS, worker)
    clips = decided_clips([scan] if scan.ok else [], ClipsConfig(), DecideConfig(), eval_percent=10).to_pylist()
    decided = tuple((Verdict(clip["decision"]), frozenset(map(Reason, clip["reasons"]))) for clip in clips)
    return Found(row=row, scan=scan, clips=decided)


def test_every_file_has_the_frames_and_the_end_that_the_manifest_gives_it(found: tuple[Found, ...]) -> None:
    assert len(found) >= 59
    for each in found:
        assert each.scan.ok == (each.row["decode"] != "none"), each.name
        assert (Reason.TRUNCATED in each.scan.reasons) == (each.row["decode"] == "partial"), each.name
        assert not each.scan.ok or each.scan.num_frames == each.row["frames"], each.name


def test_nothing_that_did_not_decode_to_its_end_is_called_static(found: tuple[Found, ...]) -> None:
    broken = [each for each in found if each.row["decode"] in ("none", "partial")]
    assert len(broken) >= 8
    assert not [each.name for each in broken for _, reasons in each.clips if Reason.STATIC in reasons]


def test_where_nothing_moves_every_clip_is_dropped_for_it(found: tuple[Found, ...]) -> None:
    still = [each for each in found if each.row["motion"] == "static" or each.name in STILLS]
    assert {each.name for each in still} >= STILLS
    for each in still:
        assert each.clips, each.name
        assert all(verdict is Verdict.DROP and reasons & NOTHING_MOVES for verdict, reasons in each.clips), each.name


def test_what_the_manifest_wants_is_kept(found: tuple[Found, ...]) -> None:
    wanted = [each for each in found if each.row["filter"] == "keep"]
    assert len(wanted) >= 10
    for each in wanted:
        assert {verdict for verdict, _ in each.clips} == {Verdict.KEEP}, each.name


def test_a_still_under_a_pan_is_named_as_such(found: tuple[Found, ...]) -> None:
    named = {each.name for each in found if any(Reason.STILL_IMAGE in reasons for _, reasons in each.clips)}
    assert named == {"edge_pan_over_still.mp4"}


def test_cuts_and_gradual_changes_are_found_where_they_are(found: tuple[Found, ...], tmp_path: Path) -> None:
    predictions = [
        {"uri": each.name, "kind": t.kind, "start_frame": t.start_frame, "end_frame": t.end_frame}
        for each in found
        for t in each.scan.transitions
    ]
    (tmp_path / "found.json").write_text(json.dumps(predictions), "utf-8")
    command = [sys.executable, VIDEOS / "score_cuts.py", VIDEOS / "manifest.jsonl", tmp_path / "found.json"]
    hard, with_gradual = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-2:]
    assert f1(hard) >= 0.97
    assert f1(with_gradual) >= 0.95


def f1(line: str) -> float:
    return float(line.split("'F1': ")[1].split(",")[0])
