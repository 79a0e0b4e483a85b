"""What a container says about its video, before frames are decoded. The one place that chooses the stream and tells bad files apart."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
from av.error import FFmpegError
from av.stream import Disposition

from preprocessing.reasons import Reason
from preprocessing.samples import Probe

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,asf,flv,ogg,rm,nut,dv,mxf,ivf,wtv,"
    "yuv4mpegpipe,h264,hevc,vvc,av1,obu,vc1,mp3,wav,flac,aac"
)
"""Containers that are opened. Playlists are not among them: they make FFmpeg open other files and addresses."""


_TRANSFERS = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 11: "iec61966-2-4",
    13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 18: "arib-std-b67",
}  # fmt: skip
_PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020",
    11: "smpte431",
    12: "smpte432",
}
_UNSPECIFIED = (0, 2)
"""Codes of ITU-T H.273, and FFmpeg's names for them."""


class UnreadableVideo(Exception):
    """A file that gives no frames.

    Attributes:
        reason: `MISSING`, `UNDECODABLE` or `NO_VIDEO_STREAM`.
        message: One line for people.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        """Keep both as arguments, so that it can be pickled."""
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        """Reason and message."""
        return f"{self.reason}: {self.message}"


def probe(path: str) -> Probe:
    """Look at the first video stream that is not an attached picture.

    Raises:
        UnreadableVideo: If there is no such file, no such stream, or nothing in it that FFmpeg understands.
    """
    with open_container(path) as container:
        stream = first_video_stream(container)
        rotation_deg = _rotation_deg(container, stream)
        width_px, height_px = _displayed_size(stream, rotation_deg)
        return Probe(
            codec=stream.codec_context.codec.canonical_name,
            stream_index=stream.index,
            pixel_format=stream.codec_context.pix_fmt or "",
            width_px=width_px,
            height_px=height_px,
            rotation_deg=rotation_deg,
            fps=_fps(container, stream),
            num_frames_declared=stream.frames or None,
            duration_s=_duration_s(container, stream),
            transfer=_name(stream.codec_context.color_trc, _TRANSFERS),
            primaries=_name(stream.codec_context.color_primaries, _PRIMARIES),
        )


def open_container(path: str) -> Any:  # noqa: ANN401 - PyAV's containers are untyped where it matters
    """An open container.

    Raises:
        UnreadableVideo: If it does not open.
    """
    # PyAV's Python log callback can deadlock with FFmpeg's threads.
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.PANIC)
    if not Path(path).exists():
        raise UnreadableVideo(Reason.MISSING, "there is no such file")
    try:
        return av.open(
            f"file:{path}",
            metadata_errors="replace",
            options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
        )
    except PermissionError as error:
        raise UnreadableVideo(Reason.UNDECODABLE, "reading the file is not permitted") from error
    except (FFmpegError, OSError) as error:
        what = "the file is empty" if Path(path).stat().st_size == 0 else f"not a video: {error.strerror}"
        raise UnreadableVideo(Reason.UNDECODABLE, what) from error


def first_video_stream(container: Any) -> Any:  # noqa: ANN401
    """The stream that all readers read, in index order, its decoder on one thread.

    Raises:
        UnreadableVideo: If there is none, or no decoder for it.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            break
    else:
        raise UnreadableVideo(Reason.NO_VIDEO_STREAM, f"{len(container.streams)} streams, none of them video")
    if stream.codec_context is None:
        raise UnreadableVideo(Reason.UNDECODABLE, "no decoder for its codec")
    if stream.codec_context.width < 1 or stream.codec_context.height < 1:
        raise UnreadableVideo(Reason.UNDECODABLE, "the video stream states no picture size")
    stream.thread_type = "NONE"  # one thread: frames and errors come in the same order on any machine
    return stream


def _name(code: int, names: Mapping[int, str]) -> str:
    return "" if code in _UNSPECIFIED else names.get(code, str(code))


def _rotation_deg(container: Any, stream: Any) -> int:  # noqa: ANN401
    """Clockwise degrees; the display matrix is seen on the first frame only, and says counter-clockwise."""
    try:
        frame = next(container.decode(stream), None)
    except FFmpegError:
        frame = None
    return 0 if frame is None else round(-frame.rotation / 90) * 90 % 360


def _displayed_size(stream: Any, rotation_deg: int) -> tuple[int, int]:  # noqa: ANN401
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width_px, height_px = round(stream.codec_context.width * aspect), stream.codec_context.height
    return (height_px, width_px) if rotation_deg % 180 else (max(1, width_px), height_px)


def _fps(container: Any, stream: Any) -> float | None:  # noqa: ANN401
    """The average rate; where there are no time stamps that is FFmpeg's invention, so the codec's own."""
    has_no_clock = container.duration is None and stream.start_time is None
    rate = (stream.guessed_rate if has_no_clock else None) or stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _duration_s(container: Any, stream: Any) -> float | None:  # noqa: ANN401
    """Of the video stream; the container's where only it is known, and nothing else runs in it."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base
    return None
