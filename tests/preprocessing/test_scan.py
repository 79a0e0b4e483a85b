import os
import shutil
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from preprocessing.candidates import candidates_of
from preprocessing.config import ClipsConfig, DecideConfig, MotionConfig, ScanConfig, TransitionsConfig
from preprocessing.decide import decisions
from preprocessing.downloads import Downloads
from preprocessing.input_files import NOT_A_FILE
from preprocessing.isolation import IsolatedWorker
from preprocessing.reasons import Reason
from preprocessing.replay import decided_clips, footage_of
from preprocessing.samples import Decision, Source, SourceScan, Span
from preprocessing.scan import ScanSettings, scan_input, scan_source
from preprocessing.video_io.write import Mp4Writer
from tests.preprocessing.shared_videos import shared_video

SETTINGS = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())


@pytest.fixture(scope="module")
def worker() -> Iterator[IsolatedWorker]:
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=2048) as worker:
        yield worker


def source_at(path: Path) -> Source:
    return Source(source_id="a1", group_id="a1", uri=path.name, location=str(path), content_id="1")


def decided(scan: SourceScan) -> tuple[Decision, ...]:
    found = candidates_of(footage_of(scan), ClipsConfig())
    return decisions(found, DecideConfig())


def test_one_pass_measures_everything(worker: IsolatedWorker) -> None:
    scan = scan_source(source_at(shared_video("nasa_multistream.mp4")), SETTINGS, worker)
    assert (scan.ok, scan.reasons, scan.num_frames, scan.decoder) == (True, (), 325, "pyav")
    assert scan.signals is not None
    assert scan.signals.timestamps_s.shape == scan.signals.luma.shape == (325,)
    assert (np.diff(scan.signals.timestamps_s) > 0).all()
    assert [transition.kind for transition in scan.transitions] == ["gradual", "cut"]
    assert scan.transitions[1].start_frame == 202
    assert [thumbnail.frame for thumbnail in scan.thumbnails] == list(range(0, 325, 25))
    assert all(thumbnail.jpeg.startswith(b"\xff\xd8") for thumbnail in scan.thumbnails)


def test_scanning_twice_gives_the_same(worker: IsolatedWorker) -> None:
    first, second = (scan_source(source_at(shared_video("edge_one_second.mp4")), SETTINGS, worker) for _ in range(2))
    assert first.signals is not None
    assert second.signals is not None
    assert first.transitions == second.transitions
    assert first.thumbnails == second.thumbnails
    for name, values in first.signals.motion.items():
        assert np.array_equal(values, second.signals.motion[name], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("edge_zero_bytes.mp4", Reason.UNDECODABLE),
        ("edge_header_only.mp4", Reason.UNDECODABLE),
        ("edge_audio_only.mp4", Reason.NO_VIDEO_STREAM),
        ("not_there.mp4", Reason.MISSING),
    ],
)
def test_a_bad_file_is_a_failed_scan_with_its_reason(worker: IsolatedWorker, name: str, reason: Reason) -> None:
    scan = scan_source(source_at(shared_video(name)), SETTINGS, worker)
    assert (scan.ok, scan.reasons, scan.num_frames) == (False, (reason,), 0)
    assert scan.message


@pytest.mark.parametrize("name", ["edge_trunc60_moov_first.mp4", "up_corrupted_midway.mp4"])
def test_a_usable_beginning_is_ok_and_truncated_and_never_static(worker: IsolatedWorker, name: str) -> None:
    scan = scan_source(source_at(shared_video(name)), SETTINGS, worker)
    assert (scan.ok, scan.reasons) == (True, (Reason.TRUNCATED,))
    assert scan.num_frames > 0
    clips = decided_clips([scan], ClipsConfig(), DecideConfig(), eval_percent=10).to_pylist()
    assert clips
    assert not any(Reason.STATIC in clip["reasons"] for clip in clips)


def test_odd_names_are_names(worker: IsolatedWorker) -> None:
    for name in ("-edge_leading_dash.mp4", "edge клип 视频 № 1 (copy) 100%.mp4"):
        assert scan_source(source_at(shared_video(name)), SETTINGS, worker).num_frames == 120


def declare_more_frames(path: Path, extra: int) -> None:
    """Rewrite the sample tables of an mp4 so that they promise frames behind the end of the file (decord #373)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"stsz") + 4
    flags, size, count = struct.unpack_from(">III", data, at)
    assert (flags, size) == (0, 0)
    sizes = struct.unpack_from(f">{count}I", data, at + 12)
    struct.pack_into(">III", data, at, 0, max(sizes), count + extra)
    start = data.index(b"stts") + 4
    entries, _, step = struct.unpack_from(">III", data, start + 4)
    assert entries == 1
    struct.pack_into(">II", data, start + 8, count + extra, step)
    path.write_bytes(data)


def test_more_frames_declared_than_there_are_neither_hang_nor_repeat(tmp_path: Path, worker: IsolatedWorker) -> None:
    path = tmp_path / "liar.mp4"
    shutil.copy(shared_video("edge_one_second.mp4"), path)
    declare_more_frames(path, 200)
    scan = scan_source(source_at(path), SETTINGS, worker)
    assert scan.num_frames <= 30
    assert Reason.TRUNCATED in scan.reasons or not scan.ok


def test_a_file_that_kills_its_decoder_is_tried_and_given_up(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", 30)
    settings = ScanSettings(scan=ScanConfig(max_attempts=2), transitions=TransitionsConfig(), motion=MotionConfig())
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=8) as cramped:
        scan = scan_source(source_at(tmp_path / "a.mp4"), settings, cramped)
    assert (scan.ok, scan.reasons) == (False, (Reason.OUT_OF_MEMORY,))
    assert scan.message.endswith("2 times")


@pytest.mark.parametrize("kills", [1, 2])
def test_a_scan_whose_children_were_killed_from_outside_measures_the_same_to_the_last_bit(
    tmp_path: Path, kills: int
) -> None:
    write_film(tmp_path / "a.mp4", 200)
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=2048) as undisturbed:
        expected = scan_source(source_at(tmp_path / "a.mp4"), SETTINGS, undisturbed)
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=2048) as killed:
        killer = Timer(0.0, _kill_children_at_work, (killed, kills))
        killer.start()
        scan = scan_source(source_at(tmp_path / "a.mp4"), SETTINGS, killed)
        killer.join()
    assert scan.decoder == expected.decoder == "decord"
    assert scan.signals is not None
    assert expected.signals is not None
    for name, values in expected.signals.motion.items():
        assert np.array_equal(values, scan.signals.motion[name], equal_nan=True)


def _kill_children_at_work(worker: IsolatedWorker, kills: int) -> None:
    dead: set[int | None] = {None}
    for _ in range(kills):
        while (pid := worker.pid) in dead or pid is None:
            time.sleep(0.001)
        dead.add(pid)
        os.kill(pid, signal.SIGKILL)


def write_film(path: Path, num_frames: int) -> None:
    with Mp4Writer(path, fps=24, width_px=128, height_px=96) as writer:
        for k in range(num_frames):
            writer.write(np.full((96, 128, 3), k, np.uint8))


def test_a_very_narrow_picture_has_a_row(tmp_path: Path, worker: IsolatedWorker) -> None:
    with Mp4Writer(tmp_path / "a.mp4", fps=24, width_px=640, height_px=16) as writer:
        for _ in range(48):
            writer.write(np.zeros((16, 640, 3), np.uint8))
    scan = scan_source(source_at(tmp_path / "a.mp4"), SETTINGS, worker)
    assert [decision.reasons[0] for decision in decided(scan)] == [Reason.TOO_SMALL]


def test_a_span_is_measured_as_a_file_of_its_own_and_told_in_frames_of_its_file(worker: IsolatedWorker) -> None:
    source = source_at(shared_video("nasa_multistream.mp4"))
    whole = scan_source(source, SETTINGS, worker)
    part = scan_source(replace(source, span=Span(start_frame=150, end_frame=300)), SETTINGS, worker)
    assert (part.ok, part.reasons, part.first_frame, part.num_frames) == (True, (), 150, 150)
    assert [t.start_frame for t in part.transitions] == [202]
    assert part.signals is not None
    assert whole.signals is not None
    np.testing.assert_allclose(part.signals.timestamps_s, whole.signals.timestamps_s[150:300])
    np.testing.assert_allclose(part.signals.luma, whole.signals.luma[150:300])
    assert 6.0 < part.signals.motion_times_s[0] < 6.7
    assert [t.frame for t in part.thumbnails] == list(range(150, 300, 25))
    beyond = scan_source(replace(source, span=Span(start_frame=400, end_frame=500)), SETTINGS, worker)
    assert (beyond.ok, beyond.reasons) == (False, (Reason.UNDECODABLE,))
    assert "[400, 500)" in beyond.message


def test_an_empty_range_is_a_failed_scan_and_never_opened(tmp_path: Path, worker: IsolatedWorker) -> None:
    source = replace(source_at(tmp_path / "absent.mp4"), span=Span(start_s=3.0, end_s=1.5))
    scan = scan_input(source, SETTINGS, worker, Downloads())
    assert (scan.ok, scan.reasons) == (False, (Reason.EMPTY_RANGE,))
    assert scan.message == "[3.0 s, 1.5 s) holds no frame; mend the row of the table"


def test_a_pipe_is_a_failed_scan_and_never_opened(tmp_path: Path, worker: IsolatedWorker) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    source = replace(source_at(tmp_path / "a.mp4"), content_id=NOT_A_FILE)
    scan = scan_input(source, SETTINGS, worker, Downloads())
    assert (scan.ok, scan.reasons) == (False, (Reason.UNDECODABLE,))
    assert scan.message == "a pipe, a socket or a device; expected a file"
