from pathlib import Path

import pytest
from PIL import Image

from preprocessing.reasons import Reason
from preprocessing.video_io.probe import UnreadableVideo, probe
from tests.preprocessing.shared_videos import shared_video


@pytest.mark.parametrize(
    ("name", "size", "rotation_deg", "num_frames", "fps"),
    [
        ("edge_vertical_rotflag.mp4", (360, 640), 270, 120, 29.97),
        ("nasa_multistream.mp4", (320, 180), 0, 325, 25.0),
        ("-edge_leading_dash.mp4", (640, 360), 0, 120, 29.97),
        ("edge клип 视频 № 1 (copy) 100%.mp4", (640, 360), 0, 120, 29.97),
        ("tears_of_steel_raw.h264", (500, 208), 0, None, 24.0),
        ("traffic_vfr.mp4", (1280, 720), 0, 576, 16.725),
        ("edge_wrong_extension.txt", (640, 360), 0, 120, 29.97),
    ],
)
def test_what_the_container_says(
    name: str, size: tuple[int, int], rotation_deg: int, num_frames: int | None, fps: float
) -> None:
    found = probe(str(shared_video(name)))
    assert (found.width_px, found.height_px) == size
    assert (found.rotation_deg, found.num_frames_declared) == (rotation_deg, num_frames)
    assert found.fps == pytest.approx(fps, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("edge_zero_bytes.mp4", Reason.UNDECODABLE),
        ("edge_text.mp4", Reason.UNDECODABLE),
        ("edge_random.mkv", Reason.UNDECODABLE),
        ("edge_trunc60_moov_last.mp4", Reason.UNDECODABLE),
        ("up_chunk_out_of_range.mp4", Reason.UNDECODABLE),
        ("edge_audio_only.mp4", Reason.NO_VIDEO_STREAM),
    ],
)
def test_a_file_without_video_says_why(name: str, reason: Reason) -> None:
    with pytest.raises(UnreadableVideo) as refusal:
        probe(str(shared_video(name)))
    assert refusal.value.reason is reason


def test_an_absent_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnreadableVideo) as refusal:
        probe(str(tmp_path / "nothing.mp4"))
    assert refusal.value.reason is Reason.MISSING


def test_a_folder_or_a_picture_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    for path in (tmp_path, tmp_path / "picture.png"):
        with pytest.raises(UnreadableVideo) as refusal:
            probe(str(path))
        assert refusal.value.reason is Reason.UNDECODABLE


def test_a_playlist_does_not_open_other_files(tmp_path: Path) -> None:
    target = shared_video("edge_one_second.mp4")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "list.m3u8"):
        with pytest.raises(UnreadableVideo) as refusal:
            probe(str(tmp_path / name))
        assert refusal.value.reason is Reason.UNDECODABLE
