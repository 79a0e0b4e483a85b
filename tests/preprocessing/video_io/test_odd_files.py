"""Files that are in order and yet unlike most: each kind is read as a player would show it, and what was assumed is recorded."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.samples import Span
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import read_clip, read_frames, read_frames_without_decord, read_span
from tests.preprocessing.shared_videos import shared_video
from tests.preprocessing.video_io.test_read import number_of, numbered

READERS = (read_frames, read_frames_without_decord)


def write(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    pts: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    adjust: Callable = lambda stream: None,
) -> None:
    """Frames at these ticks of 1/1000 s, 40 apart where none are given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=25, options={"bf": "0", "preset": "ultrafast", "x265-params": "log-level=none"}
        )
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixel_format, Fraction(1, 1000)
        adjust(stream)
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = pts[k] if pts else 40 * k, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("read", READERS)
def test_anamorphic_pixels_are_shown_at_their_shape(tmp_path: Path, read) -> None:  # noqa: ANN001
    def widen(stream) -> None:  # noqa: ANN001
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    write(tmp_path / "a.mp4", [numbered(k) for k in range(12)], adjust=widen)
    probed = probe(str(tmp_path / "a.mp4"))
    assert (probed.width_px, probed.height_px) == (256, 64)
    frames = list(read(str(tmp_path / "a.mp4"), probed, height_px=64, width_px=256))
    assert [number_of(frame.rgb_HWC) for frame in frames] == list(range(12))
    clip = list(
        read_clip(str(tmp_path / "a.mp4"), probed, start_frame=3, fps=25.0, num_frames=2, height_px=32, width_px=128)
    )
    assert [number_of(frame) for frame in clip] == [3, 4]


@pytest.mark.parametrize("read", READERS)
def test_odd_sizes_are_read_to_the_last_column(read) -> None:  # noqa: ANN001
    path = str(shared_video("testsrc_vp9_321x241.mp4"))
    probed = probe(path)
    assert (probed.width_px, probed.height_px) == (321, 241)
    frames = list(read(path, probed, height_px=241, width_px=321))
    assert {frame.rgb_HWC.shape for frame in frames} == {(241, 321, 3)}
    assert len(frames) == probed.num_frames_declared


@pytest.mark.parametrize(("code", "transfer"), [(16, "smpte2084"), (18, "arib-std-b67")])
def test_ten_bits_of_high_dynamic_range_are_read_as_they_are_and_that_is_recorded(
    tmp_path: Path, code: int, transfer: str
) -> None:
    def brighten(stream) -> None:  # noqa: ANN001
        stream.codec_context.color_trc, stream.codec_context.color_primaries = code, 9

    write(
        tmp_path / "a.mp4",
        [numbered(k) for k in range(12)],
        codec="libx265",
        pixel_format="yuv420p10le",
        adjust=brighten,
    )
    probed = probe(str(tmp_path / "a.mp4"))
    assert (probed.pixel_format, probed.transfer, probed.primaries) == ("yuv420p10le", transfer, "bt2020")
    for read in READERS:
        frames = list(read(str(tmp_path / "a.mp4"), probed, height_px=64, width_px=128))
        assert [number_of(frame.rgb_HWC) for frame in frames] == list(range(12))


def test_a_file_that_says_nothing_of_its_colours_is_not_said_to(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", [numbered(0)])
    assert (probe(str(tmp_path / "a.mp4")).transfer, probe(str(tmp_path / "a.mp4")).primaries) == ("", "")


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_rate_keeps_its_times_and_a_clip_follows_them(tmp_path: Path, suffix: str) -> None:
    pts = [0, 40, 80, 300, 320, 340, 800, 840, 880, 920, 960, 1000]
    path = tmp_path / f"a.{suffix}"
    write(path, [numbered(k) for k in range(12)], pts=pts)
    probed = probe(str(path))
    for read in READERS:
        times_s = [frame.timestamp_s for frame in read(str(path), probed, height_px=64, width_px=128)]
        np.testing.assert_allclose(times_s, np.array(pts) / 1000, atol=1e-3)
    clip = read_clip(str(path), probed, start_frame=0, fps=10.0, num_frames=11, height_px=64, width_px=128)
    # at 0, 0.1, ... 1.0 s: the frame whose time stamp is nearest
    assert [number_of(frame) for frame in clip] == [0, 2, 3, 3, 5, 5, 6, 6, 6, 8, 11]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_span_in_frames_of_a_tables_rate_follows_the_time_stamps(tmp_path: Path, suffix: str) -> None:
    pts = [*range(0, 800, 40), *range(800, 2400, 80)]  # 25 a second, then half as many
    path = tmp_path / f"a.{suffix}"
    write(path, [numbered(k) for k in range(len(pts))], pts=pts)
    span = Span(start_frame=10, end_frame=40, table_fps=25)
    stream = read_span(str(path), probe(str(path)), span, height_px=64, width_px=128)
    assert [pts[frame.index] for frame in stream] == [*range(400, 800, 40), *range(800, 1600, 80)]


def test_stamps_that_stand_still_or_go_back_lose_no_frame(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", [numbered(k) for k in range(12)])
    data = (tmp_path / "a.mkv").read_bytes()
    for old_ms, new_ms in ((200, 160), (320, 100)):
        assert data.count(_block(old_ms)) == 1
        data = data.replace(_block(old_ms), _block(new_ms))
    (tmp_path / "a.mkv").write_bytes(data)
    probed = probe(str(tmp_path / "a.mkv"))
    for read in READERS:
        frames = list(read(str(tmp_path / "a.mkv"), probed, height_px=64, width_px=128))
        assert [number_of(frame.rgb_HWC) for frame in frames] == list(range(12))
        assert (np.diff([frame.timestamp_s for frame in frames]) > 0).all()


def _block(time_ms: int) -> bytes:
    """How Matroska's blocks of the first track begin; no key frame."""
    return b"\x81" + struct.pack(">h", time_ms) + b"\x00"


def test_the_first_of_several_streams_is_read_whichever_is_larger(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=25, options={"bf": "0"}) for _ in range(2)]
        for stream, (height, width) in zip(streams, ((64, 128), (128, 256)), strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(24):
            for number, stream in zip((k, 200), streams, strict=True):
                picture = numbered(number).repeat(stream.height // 64, 0).repeat(stream.width // 128, 1)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
        for stream in streams:
            container.mux(stream.encode(None))
    probed = probe(str(tmp_path / "a.mkv"))
    frames = list(read_frames(str(tmp_path / "a.mkv"), probed, height_px=64, width_px=128))
    assert [number_of(frame.rgb_HWC) for frame in frames] == list(range(24))


def test_a_file_without_a_duration_is_read_to_its_end() -> None:
    path = str(shared_video("no_duration_dark.webm"))
    probed = probe(path)
    assert probed.duration_s is None
    stream = read_frames(path, probed, height_px=36, width_px=64)
    assert len(list(stream)) > 50
    assert not stream.truncated
