"""What a container holds, counted without decoding it: the guard against containers that lie, and the key to exact seeking."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from preprocessing.input_files import LocalFiles
from preprocessing.isolation import sign_of_life
from preprocessing.samples import Probe
from preprocessing.video_io.probe import first_video_stream, open_container
from preprocessing.video_io.timeline import Clock

_ONE_PICTURE_A_PACKET = {"h264", "hevc", "vp9", "av1"}
"""VP8 hides pictures in packets of their own; MPEG-4 in AVI has packets without a picture."""
_CONTAINERS = ("mov", "matroska")
"""Their packets carry exact presentation times, and seeking finds them again."""
_PACKETS_A_SIGN = 2000
_TABLES = 4
"""Tables that a process keeps; one of an hour at 30 fps has 5 MB."""


@dataclass(frozen=True, kw_only=True)
class PacketTable:
    """The presentation times of all pictures, where a packet is a picture and says when it is shown.

    Attributes:
        pts: Ticks in presentation order from the first picture that decodes, (N,) int64, strictly increasing.
        key_pts: Those of key pictures.
        time_base: Seconds of a tick.
        fps: The rate that the container states.
        num_leading: Packets shown before the first picture that decodes.
    """

    pts: NDArray[np.int64]
    key_pts: NDArray[np.int64]
    time_base: Fraction
    fps: float | None
    num_leading: int

    @property
    def num_packets(self) -> int:
        """All packets found; fewer than declared in a file that was cut off."""
        return self.num_leading + len(self.pts)

    @cached_property
    def times_s(self) -> list[float]:
        """Seconds since the first picture, by the one clock."""
        clock = Clock(time_base=self.time_base, fps=self.fps)
        return [clock.seconds(int(pts)) for pts in self.pts]


def packet_table(path: str, probe: Probe) -> PacketTable | None:
    """Where all pictures are; None where the packets do not tell.

    All packets are read for that, so that the clips and spans of one file share its table: else a long file would be read whole
    for each of them.

    Raises:
        UnreadableVideo: If the file does not open.
    """
    return _read_table(path, probe, LocalFiles().facts(path).content_id)


@lru_cache(maxsize=_TABLES)
def _read_table(path: str, probe: Probe, content_id: str) -> PacketTable | None:
    if probe.codec not in _ONE_PICTURE_A_PACKET:
        return None
    with open_container(path) as container:
        if not container.format.name.startswith(_CONTAINERS):
            return None
        stream = first_video_stream(container)
        time_base = stream.time_base
        pts, keys = _presentation_times(container, stream)
    first = _first_decoded_pts(path) if pts else None
    if first not in pts:
        return None
    num_leading = pts.index(first)
    return PacketTable(
        pts=np.array(pts[num_leading:], np.int64),
        key_pts=np.array([key for key in keys if key >= first], np.int64),
        time_base=time_base,
        fps=probe.fps,
        num_leading=num_leading,
    )


def _presentation_times(container: Any, stream: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401
    """Sorted stamps of all packets and of the key ones; none if they are not one for each picture."""
    found: list[tuple[int | None, bool]] = []
    hidden = False
    for packet in _packets(container, stream):
        found.append((packet.pts, packet.is_keyframe))
        hidden |= packet.is_discard
    pts = {stamp for stamp, _ in found if stamp is not None}
    if hidden or len(pts) < len(found):
        return [], []
    return sorted(pts), sorted(stamp for stamp, is_key in found if is_key and stamp is not None)


def _packets(container: Any, stream: Any) -> Any:  # noqa: ANN401
    packets = container.demux(stream)
    try:
        for count, packet in enumerate(packets):
            if count % _PACKETS_A_SIGN == 0:
                sign_of_life()
            if packet.size:
                yield packet
    except MemoryError:
        raise
    except FFmpegError:
        return  # cut off: what was read counts


def _first_decoded_pts(path: str) -> int | None:
    with open_container(path) as container:
        try:
            frame = next(container.decode(first_video_stream(container)), None)
        except FFmpegError:
            return None
        return frame.pts if frame is not None else None
