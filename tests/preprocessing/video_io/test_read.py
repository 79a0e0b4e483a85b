from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.samples import PictureArea, Probe, Span
from preprocessing.video_io.packets import packet_table
from preprocessing.video_io.probe import UnreadableVideo, probe
from preprocessing.video_io.read import cover_size, read_clip, read_frames, read_frames_without_decord, read_span
from preprocessing.video_io.timeline import grid_frames
from preprocessing.video_io.write import Mp4Writer
from tests.preprocessing.shared_videos import shared_video

HAS_DECORD = pytest.importorskip("decord", reason="decord has no wheel here") is not None


def numbered(k: int) -> NDArray[np.uint8]:
    """A picture that says which one it is: eight columns, bright where the bit of k is set."""
    bits = [(k >> bit) & 1 for bit in range(8)]
    return np.repeat(np.repeat(np.array([bits], np.uint8), 64, 0), 16, 1)[:, :, None].repeat(3, 2) * 200 + 20


def number_of(rgb_HWC: NDArray[np.uint8]) -> int:
    columns = np.array_split(rgb_HWC.mean(axis=(0, 2)), 8)
    return sum(1 << bit for bit, column in enumerate(columns) if column.mean() > 120)


def write_numbered(path: Path, num_frames: int, fps: float = 24, codec: str = "libx264") -> Probe:
    with Mp4Writer(path, fps=fps, width_px=128, height_px=64, codec=codec) as writer:
        for k in range(num_frames):
            writer.write(numbered(k))
    return probe(str(path))


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "mjpeg"])
def test_all_frames_come_once_in_order_from_either_decoder(tmp_path: Path, codec: str) -> None:
    path = str(tmp_path / "a.mp4")
    probed = write_numbered(tmp_path / "a.mp4", 60, codec=codec)
    for read in (read_frames, read_frames_without_decord):
        stream = read(path, probed, height_px=64, width_px=128)
        frames = list(stream)
        assert [number_of(frame.rgb_HWC) for frame in frames] == list(range(60))
        assert [frame.index for frame in frames] == list(range(60))
        np.testing.assert_allclose([frame.timestamp_s for frame in frames], np.arange(60) / 24, atol=1e-4)
        assert not stream.truncated


def test_decord_comes_first_where_its_count_is_true(tmp_path: Path) -> None:
    probed = write_numbered(tmp_path / "a.mp4", 10)
    assert read_frames(str(tmp_path / "a.mp4"), probed, height_px=64, width_px=128).decoder == "decord"


@pytest.mark.parametrize(
    ("name", "decoder", "num_frames", "truncated"),
    [
        ("edge_vertical_rotflag.mp4", "decord", 120, False),
        ("nasa_multistream.mp4", "pyav", 325, False),
        ("rabbit_handheld.webm", "pyav", 234, False),
        ("screen_terminal.gif", "pyav", 110, False),
        ("yard_brightness.avi", "pyav", 59, False),
        ("edge_trunc60_moov_first.mp4", "pyav", 177, True),
        ("edge_header_only.mp4", "pyav", 0, True),
    ],
)
def test_who_reads_real_files_and_how_far(name: str, decoder: str, num_frames: int, truncated: bool) -> None:
    path = str(shared_video(name))
    stream = read_frames(path, probe(path), height_px=72, width_px=128)
    assert (stream.decoder, sum(1 for _ in stream), stream.truncated) == (decoder, num_frames, truncated)


@pytest.mark.parametrize("read", [read_frames, read_frames_without_decord])
def test_rotated_files_come_upright(read) -> None:  # noqa: ANN001
    flagged = str(shared_video("edge_vertical_rotflag.mp4"))
    plain = str(shared_video("edge клип 视频 № 1 (copy) 100%.mp4"))
    upright = next(iter(read(flagged, probe(flagged), height_px=640, width_px=360))).rgb_HWC.astype(int)
    lying = next(iter(read(plain, probe(plain), height_px=360, width_px=640))).rgb_HWC.astype(int)
    assert np.abs(upright - np.rot90(lying)).mean() < 3
    assert np.abs(upright - np.rot90(lying, 3)).mean() > 30


def test_whether_a_file_was_cut_off_is_known_only_at_its_end(tmp_path: Path) -> None:
    stream = read_frames(str(tmp_path / "a.mp4"), write_numbered(tmp_path / "a.mp4", 10), height_px=64, width_px=128)
    next(iter(stream))
    with pytest.raises(ValueError, match="read all frames first"):
        _ = stream.truncated


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "mjpeg"])
@pytest.mark.parametrize(
    ("source_fps", "start", "num_frames"), [(24, 0, 37), (24, 101, 37), (60, 55, 37), (12, 90, 37)]
)
def test_a_clip_holds_the_frames_of_its_grid(
    tmp_path: Path, codec: str, source_fps: int, start: int, num_frames: int
) -> None:
    path = tmp_path / "a.mp4"
    probed = write_numbered(path, 200, fps=source_fps, codec=codec)
    clip = read_clip(str(path), probed, start_frame=start, fps=24.0, num_frames=num_frames, height_px=64, width_px=128)
    expected = grid_frames(np.arange(200) / source_fps, start, 24.0, num_frames)
    assert [number_of(frame) for frame in clip] == expected.tolist()


@pytest.mark.parametrize(
    "name", ["foreman_whippan_hevc.mp4", "bbb_480p_30s.mp4", "hand_count_vfr.mp4", "testsrc_av1.mkv"]
)
def test_seeking_finds_the_very_frames_of_a_sequential_read(name: str) -> None:
    path = str(shared_video(name))
    probed = probe(path)
    height_px, width_px = cover_size(probed, height_px=36, width_px=64)
    top, left = (height_px - 36) // 2, (width_px - 64) // 2
    frames = list(read_frames_without_decord(path, probed, height_px=height_px, width_px=width_px))
    times = np.array([frame.timestamp_s for frame in frames])
    fps = probed.fps or 25.0
    for start in (74, 100, 121):
        clip = read_clip(path, probed, start_frame=start, fps=fps, num_frames=4, height_px=36, width_px=64)
        for frame, index in zip(clip, grid_frames(times, start, fps, 4), strict=True):
            assert np.array_equal(frame, frames[index].rgb_HWC[top : top + 36, left : left + 64])


def test_a_clip_covers_the_size_and_keeps_the_centre(tmp_path: Path) -> None:
    probed = write_numbered(tmp_path / "a.mp4", 2)
    (frame,) = read_clip(
        str(tmp_path / "a.mp4"), probed, start_frame=1, fps=24.0, num_frames=1, height_px=32, width_px=32
    )
    assert frame.shape == (32, 32, 3)
    assert frame.max() < 80  # bit 0 is at the left edge, which the centre leaves out


def test_a_clip_shows_what_lies_between_black_bars(tmp_path: Path) -> None:
    path = tmp_path / "boxed.mp4"
    with Mp4Writer(path, fps=24.0, width_px=320, height_px=180) as writer:
        frame = np.zeros((180, 320, 3), np.uint8)
        frame[:, 60:260] = 200
        frame[:, 155:165] = 90  # the middle
        writer.write(frame)
    picture = PictureArea(top_px=0, left_px=60, height_px=180, width_px=200)
    (shown,) = read_clip(
        str(path), probe(str(path)), start_frame=0, fps=24.0, num_frames=1, height_px=96, width_px=96, picture=picture
    )
    assert shown.shape == (96, 96, 3)
    assert shown.min() > 70
    assert abs(int(shown[:, 46:50].mean()) - 90) < 15


def test_a_clip_beyond_the_end_is_an_error_not_a_repetition(tmp_path: Path) -> None:
    probed = write_numbered(tmp_path / "a.mp4", 30)
    clip = read_clip(
        str(tmp_path / "a.mp4"), probed, start_frame=0, fps=24.0, num_frames=73, height_px=64, width_px=128
    )
    with pytest.raises(UnreadableVideo, match="of 73 frames"):
        list(clip)


def test_the_packets_of_a_file_are_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    first = packet_table(str(path), write_numbered(path, 20))
    assert first is not None
    assert packet_table(str(path), probe(str(path))) is first
    again = packet_table(str(path), write_numbered(path, 30))
    assert (len(first.pts), len(again.pts if again else ())) == (20, 30)


def test_a_packet_table_of_a_cut_file_has_what_is_there() -> None:
    path = str(shared_video("edge_trunc60_moov_first.mp4"))
    table = packet_table(path, probe(path))
    assert table is not None
    assert table.num_packets == 180 < 289


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mjpeg"])
@pytest.mark.parametrize("span", [Span(start_frame=30, end_frame=75), Span(start_s=30 / 24, end_s=3.125)])
def test_a_span_has_its_frames_with_their_places_in_the_file(tmp_path: Path, codec: str, span: Span) -> None:
    probed = write_numbered(tmp_path / "a.mp4", 100, codec=codec)
    stream = read_span(str(tmp_path / "a.mp4"), probed, span, height_px=64, width_px=128)
    frames = list(stream)
    assert [number_of(frame.rgb_HWC) for frame in frames] == [frame.index for frame in frames] == list(range(30, 75))
    np.testing.assert_allclose([frame.timestamp_s for frame in frames], np.arange(30, 75) / 24, atol=1e-4)
    assert not stream.truncated


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
@pytest.mark.parametrize(
    ("file_fps", "table_fps", "indices"),
    [
        (24000 / 1001, 23.976, range(30, 75)),
        (24000 / 1001, 23.98, range(30, 75)),
        (30, 30, range(30, 75)),
        (60, 30, range(60, 150)),
        (24, 30, range(24, 60)),
        (30, 24, range(37, 94)),  # frame 30 is at 1.25 s, between two: the earlier
    ],
)
def test_a_span_in_frames_of_a_tables_rate_is_the_seconds_it_means(
    tmp_path: Path, codec: str, file_fps: float, table_fps: float, indices: range
) -> None:
    probed = write_numbered(tmp_path / "a.mp4", 160, fps=file_fps, codec=codec)
    span = Span(start_frame=30, end_frame=75, table_fps=table_fps)
    stream = read_span(str(tmp_path / "a.mp4"), probed, span, height_px=64, width_px=128)
    assert [frame.index for frame in stream] == list(indices)
    assert not stream.truncated


@pytest.mark.parametrize(
    ("span", "indices", "truncated"),
    [
        (Span(start_frame=50), range(50, 60), False),
        (Span(end_s=0.5), range(12), False),
        (Span(start_frame=50, end_frame=61), range(50, 60), True),
        (Span(start_s=2.0, end_s=2.6), range(48, 60), False),
        (Span(start_s=2.0, end_s=9.0), range(48, 60), True),
        (Span(start_frame=60, end_frame=70), range(0), False),
    ],
)
def test_a_span_that_outlasts_its_file_says_so(tmp_path: Path, span: Span, indices: range, truncated: bool) -> None:
    probed = write_numbered(tmp_path / "a.mp4", 60)
    stream = read_span(str(tmp_path / "a.mp4"), probed, span, height_px=64, width_px=128)
    assert [frame.index for frame in stream] == list(indices)
    assert stream.truncated == truncated
