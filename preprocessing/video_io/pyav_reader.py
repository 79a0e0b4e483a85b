"""Frames by PyAV: from the start or from any frame, until packets stop or break."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from preprocessing.samples import Probe
from preprocessing.video_io.frames import Frame
from preprocessing.video_io.packets import PacketTable
from preprocessing.video_io.probe import first_video_stream, open_container
from preprocessing.video_io.timeline import Clock

_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_COUNTS_VAGUELY = 0.01
"""Containers without a packet table may declare a few frames too many, e.g. AVI and GIF."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded frame, not yet converted.

    Attributes:
        index: Its place in presentation order, from 0.
        timestamp_s: Seconds since the first frame.
        image: PyAV's frame.
    """

    index: int
    timestamp_s: float
    image: Any


def read_with_pyav(
    path: str, probe: Probe, table: PacketTable | None, *, height_px: int, width_px: int
) -> Generator[Frame, None, bool]:
    """All frames that decode before the first error.

    After an error a decoder invents pictures, so the stream ends there.

    Returns:
        Whether there should have been more.
    """
    convert = Converter(probe, height_px=height_px, width_px=width_px)
    pictures = all_pictures(path, probe, table)
    while True:
        try:
            picture = next(pictures)
        except StopIteration as end:
            return end.value
        yield Frame(index=picture.index, timestamp_s=picture.timestamp_s, rgb_HWC=convert(picture.image))


def all_pictures(path: str, probe: Probe, table: PacketTable | None) -> Generator[Picture, None, bool]:
    """Pictures from the first on; returns whether there should have been more."""
    count = 0
    with open_container(path) as container:
        stream = first_video_stream(container)
        clock = Clock(time_base=stream.time_base, fps=probe.fps)
        images = _decode(container, stream)
        while True:
            try:
                image = next(images)
            except StopIteration as end:
                return end.value or _is_short(count, probe, table)
            if table is not None and not _follows(image, table, count):
                return True  # pictures were lost in between
            yield Picture(index=count, timestamp_s=clock.seconds(image.pts), image=image)
            count += 1


def pictures_from(path: str, table: PacketTable, start_frame: int) -> Iterator[Picture] | None:
    """Pictures from a frame on, by seeking to a key picture before it; None if seeking leads astray."""
    for key in reversed(table.key_pts[table.key_pts <= table.pts[start_frame]][-3:]):
        pictures = _pictures_after_seek(path, table, int(key))
        first = next(pictures, None)
        if first is not None and first.index <= start_frame:
            return (picture for picture in _chain(first, pictures) if picture.index >= start_frame)
    return None


def _chain(first: Picture, rest: Iterator[Picture]) -> Iterator[Picture]:
    yield first
    yield from rest


def _pictures_after_seek(path: str, table: PacketTable, key_pts: int) -> Iterator[Picture]:
    with open_container(path) as container:
        stream = first_video_stream(container)
        container.seek(key_pts, stream=stream, backward=True)
        index = None
        for image in _decode(container, stream):
            if index is None:
                index = int(np.searchsorted(table.pts, image.pts))
            if not _follows(image, table, index):
                return
            yield Picture(index=index, timestamp_s=table.times_s[index], image=image)
            index += 1


def _follows(image: Any, table: PacketTable, index: int) -> bool:  # noqa: ANN401
    return index < len(table.pts) and image.pts == table.pts[index]


def _decode(container: Any, stream: Any) -> Generator[Any, None, bool]:  # noqa: ANN401
    """Pictures until packets stop or the first error after the first picture; returns whether it was an error."""
    packets = container.demux(stream)
    seen = False
    while True:
        try:
            packet = next(packets, None)
            images = packet.decode() if packet is not None else []
        except MemoryError:
            raise
        except FFmpegError:
            if seen:
                return True
            continue  # before the first key picture nothing can decode
        if packet is None:
            return False
        for image in images:
            seen = True
            yield image


def _is_short(count: int, probe: Probe, table: PacketTable | None) -> bool:
    declared = probe.num_frames_declared or 0
    if table is not None:
        return count < len(table.pts) or table.num_packets < declared
    return count < declared - max(2, _COUNTS_VAGUELY * declared)


class Converter:
    """Turns PyAV's pictures into upright RGB arrays of one size."""

    def __init__(self, probe: Probe, *, height_px: int, width_px: int) -> None:
        """Plan for one source: the size as displayed."""
        self._quarter_turns = -probe.rotation_deg // 90
        self._size = (height_px, width_px) if probe.rotation_deg % 180 else (width_px, height_px)
        self._reformatter = VideoReformatter()

    def __call__(self, image: Any) -> NDArray[np.uint8]:  # noqa: ANN401
        """(H, W, 3)."""
        width_px, height_px = self._size
        scaled = self._reformatter.reformat(image, width_px, height_px, "rgb24", interpolation=_SCALING)
        return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), self._quarter_turns), np.uint8)
