"""Stills of a video over time: kept in one pass of unknown length, and laid out as a contact sheet."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from evaluation.types import Picture, Still
from preprocessing.isolation import IsolatedWorker
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import Frame, read_frames_without_decord

_JPEG_QUALITY = 85
_SHEET_STILL_PX = 240
"""Width of a frame in a contact sheet."""
_GAP_PX = 4
_SHEET_TIMEOUT_S, _SHEET_MEMORY_MB = 60.0, 2048


class StillRoll:
    """Keeps stills evenly over time without knowing the length: where they grow too many, every other one goes."""

    def __init__(self, *, num_stills: int, width_px: int) -> None:
        """Holds nothing yet.

        Args:
            num_stills: Wanted at the end; up to eight times as many are held.
            width_px: Of a still; narrower frames stay as they are.
        """
        self._most = 8 * num_stills
        self._width_px = width_px
        self._every = 1
        self._kept: list[Still] = []
        self._last: Frame | None = None

    def add(self, frame: Frame) -> None:
        """Takes the next frame."""
        self._last = frame
        if frame.index % self._every == 0:
            self._kept.append(encode_still(frame, self._width_px))
            if len(self._kept) > self._most:
                self._kept = self._kept[::2]
                self._every *= 2

    def stills(self) -> tuple[Still, ...]:
        """All that is kept, and the last frame."""
        if self._last is None or self._kept[-1].frame == self._last.index:
            return tuple(self._kept)
        return (*self._kept, encode_still(self._last, self._width_px))


def encode_still(frame: Frame, width_px: int) -> Still:
    """A JPEG of a frame, at most `width_px` wide."""
    height, width = frame.rgb_HWC.shape[:2]
    width_px = min(width_px, width)
    size = (width_px, max(1, round(height * width_px / width)))
    small_HWC = cv2.resize(frame.rgb_HWC, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return Still(frame=frame.index, timestamp_s=frame.timestamp_s, jpeg=encode_image(small_HWC, ".jpg"))


def encode_image(rgb_HWC: Picture, suffix: str) -> bytes:
    """A picture as the bytes of a file: ``.jpg`` or ``.png``.

    By Pillow: where another library has brought a zlib of its own into the process, OpenCV's PNG writer can fail.
    """
    data = BytesIO()
    Image.fromarray(rgb_HWC).save(data, Image.registered_extensions()[suffix], quality=_JPEG_QUALITY)
    return data.getvalue()


def decode_image(jpeg: bytes) -> Picture:
    """The picture of a still."""
    bgr_HWC = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr_HWC is not None, "a still that was not encoded here"
    return cv2.cvtColor(bgr_HWC, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def spread(stills: Sequence[Still], count: int) -> tuple[Still, ...]:
    """`count` stills at fixed shares of the time, the first and the last among them; fewer if there are fewer."""
    if len(stills) <= count:
        return tuple(stills)
    frames = np.array([still.frame for still in stills])
    wanted = np.linspace(0, frames[-1], count)
    nearest = np.abs(frames[None] - wanted[:, None]).argmin(axis=1)
    return tuple(stills[index] for index in np.unique(nearest))


def contact_sheet(video: Path, out: Path, *, columns: int, rows: int) -> None:
    """Writes a picture of frames over time, row by row, each with its time.

    Args:
        video: Read in a child process.
        out: A ``.jpg`` or ``.png`` file.
        columns: Frames in a row.
        rows: Rows.

    Raises:
        UnreadableVideo: If no frame decodes.
        ChildFailed: If decoding hangs or crashes.
        ValueError: If `out` is no picture's name.
    """
    if out.suffix not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"contact sheet {out}: expected a name that ends in .jpg or .png")
    with IsolatedWorker(progress_timeout_s=_SHEET_TIMEOUT_S, memory_limit_mb=_SHEET_MEMORY_MB) as worker:
        stills = worker.call(_stills_of, str(video), columns * rows)
    out.write_bytes(encode_image(lay_out(spread(stills, columns * rows), columns), out.suffix))


def _stills_of(path: str, count: int) -> Iterator[tuple[Still, ...] | None]:
    """Runs in the child; a `None` is a sign of life."""
    facts = probe(path)
    roll = StillRoll(num_stills=count, width_px=_SHEET_STILL_PX)
    width_px = min(facts.width_px, 2 * _SHEET_STILL_PX)
    height_px = max(1, round(facts.height_px * width_px / facts.width_px))
    for frame in read_frames_without_decord(path, facts, height_px=height_px, width_px=width_px):
        roll.add(frame)
        yield None
    yield roll.stills()


def lay_out(stills: Sequence[Still], columns: int) -> Picture:
    """One picture of all stills in rows, with their times, on white."""
    pictures = [_with_time(decode_image(still.jpeg), still.timestamp_s) for still in stills]
    height, width = pictures[0].shape[:2]
    num_rows = -(-len(pictures) // columns)
    sheet_HWC = np.full(
        (num_rows * (height + _GAP_PX) + _GAP_PX, columns * (width + _GAP_PX) + _GAP_PX, 3), 255, np.uint8
    )
    for place, picture in enumerate(pictures):
        top, left = (_GAP_PX + (height + _GAP_PX) * (place // columns), _GAP_PX + (width + _GAP_PX) * (place % columns))
        sheet_HWC[top : top + height, left : left + width] = picture
    return sheet_HWC


def _with_time(rgb_HWC: Picture, timestamp_s: float) -> Picture:
    scale = rgb_HWC.shape[1] / 480
    place = (int(8 * scale) + 1, rgb_HWC.shape[0] - int(10 * scale) - 1)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            rgb_HWC, f"{timestamp_s:.1f} s", place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA
        )
    return rgb_HWC
