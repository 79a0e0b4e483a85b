"""Frames by decord, strictly one after the other, and only where its count is known to be true.

decord picks a stream of its own, spins for ever where a container declares more frames than there are, and after a seek returns
other frames than asked for where groups of pictures are open (4 of 25 in an HEVC file): so it never seeks here.
"""

from collections.abc import Generator
from typing import Any

from preprocessing.samples import Probe
from preprocessing.video_io.frames import Frame
from preprocessing.video_io.packets import PacketTable

try:
    import decord
    from decord import DECORDError
except ImportError:  # no wheels for macOS or ARM
    decord, DECORDError = None, RuntimeError

_CODECS = {"h264", "hevc", "vp9"}
"""Of those with a packet table; its FFmpeg 4.1 has no AV1 decoder."""


class DecordFailed(Exception):
    """decord gave up in the middle; PyAV may not."""


def open_with_decord(
    path: str, probe: Probe, table: PacketTable | None, *, height_px: int, width_px: int
) -> Any | None:  # noqa: ANN401
    """Decord's reader at a displayed size, upright; None where it is absent, or does not see exactly the probed pictures."""
    if decord is None or table is None or table.num_leading or probe.codec not in _CODECS:
        return None
    if probe.num_frames_declared not in (None, table.num_packets):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(path, width=width_px, height=height_px, num_threads=1)
    except (DECORDError, RuntimeError):
        return None
    return reader if len(reader) == table.num_packets else None


def read_with_decord(reader: Any, table: PacketTable) -> Generator[Frame, None, bool]:  # noqa: ANN401
    """All frames.

    Raises:
        DecordFailed: If one of them does not come.
    """
    for index, timestamp_s in enumerate(table.times_s):
        try:
            rgb_HWC = reader.next().asnumpy()
        except (DECORDError, RuntimeError, StopIteration) as error:
            raise DecordFailed(f"decord failed at frame {index} of {len(table.pts)}") from error
        yield Frame(index=index, timestamp_s=timestamp_s, rgb_HWC=rgb_HWC)
    return False
