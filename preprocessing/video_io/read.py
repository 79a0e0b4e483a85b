"""Reads videos: all frames at a size, those of a span, or a clip on the grid. decord first where it is right, PyAV everywhere else.

Both stream: memory does not grow with the video. Run them in a child process (`preprocessing.isolation`): the files are untrusted,
and the decoders are not safe.
"""

from collections.abc import Generator, Iterator
from itertools import islice, repeat

import numpy as np
from numpy.typing import NDArray

from preprocessing.isolation import sign_of_life
from preprocessing.reasons import Reason
from preprocessing.samples import PictureArea, Probe, Span
from preprocessing.video_io.decord_reader import open_with_decord, read_with_decord
from preprocessing.video_io.frames import Frame, FrameStream
from preprocessing.video_io.packets import PacketTable, packet_table
from preprocessing.video_io.probe import UnreadableVideo
from preprocessing.video_io.pyav_reader import Converter, Picture, all_pictures, pictures_from, read_with_pyav
from preprocessing.video_io.timeline import TAIL_S, shown_on_grid

_SAME_S = 1e-6
"""Times closer than this are one: seconds that a table rounded must not lose a frame."""

__all__ = ["Frame", "FrameStream", "read_clip", "read_frames", "read_frames_without_decord", "read_span"]


def read_frames(path: str, probe: Probe, *, height_px: int, width_px: int) -> FrameStream:
    """All frames of the probed stream, upright and resized to exactly this size.

    Raises:
        UnreadableVideo: If the file does not open.
        DecordFailed: While reading, if decord gave up; `read_frames_without_decord` may not.
    """
    table = packet_table(path, probe)
    reader = open_with_decord(path, probe, table, height_px=height_px, width_px=width_px)
    if reader is None or table is None:
        return FrameStream("pyav", read_with_pyav(path, probe, table, height_px=height_px, width_px=width_px))
    return FrameStream("decord", read_with_decord(reader, table))


def read_frames_without_decord(path: str, probe: Probe, *, height_px: int, width_px: int) -> FrameStream:
    """The same by PyAV alone."""
    table = packet_table(path, probe)
    return FrameStream("pyav", read_with_pyav(path, probe, table, height_px=height_px, width_px=width_px))


def read_span(path: str, probe: Probe, span: Span, *, height_px: int, width_px: int) -> FrameStream:
    """The frames of a part of the file, with their places and times in the file; decodes from the key picture before.

    By PyAV: decord does not seek exactly. The stream is `truncated` where the file ends before the span does.

    Raises:
        UnreadableVideo: If the file does not open.
    """
    table = packet_table(path, probe)
    convert = Converter(probe, height_px=height_px, width_px=width_px)
    here = span if span.table_fps is None else _in_seconds(span, span.table_fps, probe)
    return FrameStream("pyav", _frames_of_span(_pictures_of_span(path, probe, table, here), table, here, convert))


def _in_seconds(span: Span, table_fps: float, probe: Probe) -> Span:
    """A span in frames of a table's rate as seconds of the file, each bound half a frame early, of the faster of the two rates.

    So where the file has that rate its frames are the table's, however time stamps and rate were rounded.
    """
    early_s = 0.5 / max(table_fps, probe.fps or 0.0)
    bounds = (span.start_frame, span.end_frame)
    start_s, end_s = (None if frame is None else max(0.0, frame / table_fps - early_s) for frame in bounds)
    return Span(start_s=start_s, end_s=end_s)


def _pictures_of_span(path: str, probe: Probe, table: PacketTable | None, span: Span) -> Iterator[Picture]:
    start_frame, start_s = span.start_frame or 0, span.start_s or 0.0
    if start_s and table is not None:
        start_frame = int(np.searchsorted(table.times_s, start_s - _SAME_S))
    for picture in _pictures_at(path, probe, table, start_frame):
        if picture.timestamp_s >= start_s - _SAME_S:
            yield picture


def _frames_of_span(
    pictures: Iterator[Picture], table: PacketTable | None, span: Span, convert: Converter
) -> Generator[Frame, None, bool]:
    last = None
    for picture in pictures:
        if picture.index == span.end_frame or (span.end_s and picture.timestamp_s >= span.end_s - _SAME_S):
            return False
        last = picture
        yield Frame(index=picture.index, timestamp_s=picture.timestamp_s, rgb_HWC=convert(picture.image))
    if last is None or (span.end_frame is None and span.end_s is None):
        return last is not None and table is not None and last.index + 1 < len(table.pts)
    return (span.end_frame or 0) > last.index + 1 or (span.end_s or 0.0) > last.timestamp_s + TAIL_S


def read_clip(
    path: str,
    probe: Probe,
    *,
    start_frame: int,
    fps: float,
    num_frames: int,
    height_px: int,
    width_px: int,
    picture: PictureArea | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The frames of a clip on the grid, resized to cover the size and cut to its centre.

    By PyAV: decord does not seek exactly.

    Args:
        path: A local file.
        probe: What `probe` said of it.
        start_frame: Source frame of k = 0.
        fps: Frames a second of the grid.
        num_frames: Frames to give.
        height_px: Of each frame.
        width_px: Of each frame.
        picture: What lies between black bars; only that is shown. None for all.

    Yields:
        (height_px, width_px, 3), `num_frames` times.

    Raises:
        UnreadableVideo: If the video ends before the clip does.
    """
    cover_height_px, cover_width_px = cover_size(probe, height_px=height_px, width_px=width_px, picture=picture)
    rows, columns = centre(probe, picture, cover_height_px, cover_width_px, height_px=height_px, width_px=width_px)
    convert = Converter(probe, height_px=cover_height_px, width_px=cover_width_px)
    given = 0
    pictures = _pictures_at(path, probe, packet_table(path, probe), start_frame)
    stamped = ((found.timestamp_s, found) for found in pictures)
    for found, count in shown_on_grid(stamped, fps, num_frames):
        if count:
            covering_HWC = convert(found.image)
            yield from repeat(covering_HWC[rows, columns], count)
        given += count
    if given < num_frames:
        raise UnreadableVideo(Reason.TRUNCATED, f"the video gave {given} of {num_frames} frames from {start_frame} on")


def cover_size(probe: Probe, *, height_px: int, width_px: int, picture: PictureArea | None = None) -> tuple[int, int]:
    """The smallest (height, width) of all the source's picture at which the part to be shown covers this one."""
    shown_height_px, shown_width_px = _shown(probe, picture)
    scale = max(height_px / shown_height_px, width_px / shown_width_px)
    return max(height_px, round(probe.height_px * scale)), max(width_px, round(probe.width_px * scale))


def centre(
    probe: Probe,
    picture: PictureArea | None,
    cover_height_px: int,
    cover_width_px: int,
    *,
    height_px: int,
    width_px: int,
) -> tuple[slice, slice]:
    """Rows and columns of the covering picture that are shown: around the middle of the part that lies between bars."""
    shown_height_px, shown_width_px = _shown(probe, picture)
    middle_y, middle_x = shown_height_px / 2, shown_width_px / 2
    if picture is not None:
        middle_y, middle_x = middle_y + picture.top_px, middle_x + picture.left_px
    top = _first(middle_y / probe.height_px, cover_height_px, height_px)
    left = _first(middle_x / probe.width_px, cover_width_px, width_px)
    return slice(top, top + height_px), slice(left, left + width_px)


def _shown(probe: Probe, picture: PictureArea | None) -> tuple[int, int]:
    return (picture.height_px, picture.width_px) if picture else (probe.height_px, probe.width_px)


def _first(middle: float, cover: int, length: int) -> int:
    """First pixel of a length around a middle, which is a share of the covering side."""
    return min(max(int(middle * cover - length / 2), 0), cover - length)


def _pictures_at(path: str, probe: Probe, table: PacketTable | None, start_frame: int) -> Iterator[Picture]:
    """Pictures from a frame on, by seeking where that is exact."""
    if table is not None and start_frame >= len(table.pts):
        return iter(())
    if table is not None and start_frame > 0:
        found = pictures_from(path, table, start_frame)
        if found is not None:
            return found
    return islice(_alive(all_pictures(path, probe, table)), start_frame, None)


def _alive(pictures: Iterator[Picture]) -> Iterator[Picture]:
    for picture in pictures:
        sign_of_life()
        yield picture
