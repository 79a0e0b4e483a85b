"""Writes video files frame by frame: what is on disk can be played at any moment. Home of encoding by PyAV."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray

_BT709 = 1
_LIMITED_RANGE = 1
_QUALITY: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "threads": "1", "bf": "0"},
    "libx265": {"preset": "veryfast", "x265-params": "pools=none:frame-threads=1:bframes=0:log-level=error"},
    "libvpx-vp9": {"b:v": "0", "cpu-used": "6", "threads": "1"},
    "libsvtav1": {"preset": "10", "svtav1-params": "lp=1"},
    "mjpeg": {"qmin": "2", "qmax": "4"},
}
"""Encoders and their options: one thread, for the same bytes on any machine; no B frames, as a fragmented file cannot say
that the first picture comes later than the first packet."""


class Mp4Writer:
    """An mp4 that grows while it is written, a fragment a second; cut off anywhere, its beginning plays.

    The same frames give the same bytes. Colours are BT.709, and the file says so; JPEG knows only BT.601.
    """

    def __init__(
        self, path: str | Path, *, fps: float, width_px: int, height_px: int, codec: str = "libx264", crf: int = 20
    ) -> None:
        """Open the file.

        Args:
            path: Written in place.
            fps: Frames a second; kept exactly as a ratio with a denominator up to 1001.
            width_px: Even.
            height_px: Even.
            codec: libx264, libx265, libvpx-vp9, libsvtav1 or mjpeg.
            crf: Constant quality, smaller is better; mjpeg has none.

        Raises:
            ValueError: For an unknown codec or an odd size.
        """
        if codec not in _QUALITY:
            raise ValueError(f"codec {codec}; expected one of {', '.join(_QUALITY)}")
        if width_px % 2 or height_px % 2 or min(width_px, height_px) < 2:
            raise ValueError(f"picture of {width_px} x {height_px} pixels; both must be even (4:2:0 chroma)")
        self._shape = (height_px, width_px, 3)
        self._colorspace = Colorspace.ITU601 if codec == "mjpeg" else Colorspace.ITU709
        self._reformatter = VideoReformatter()  # one for all frames: setting it up takes longer than using it
        self._num_frames = 0
        self._container = av.open(
            str(path),
            "w",
            format="mp4",
            options={"movflags": "frag_keyframe+empty_moov+default_base_moof", "fflags": "+bitexact"},
        )
        rate = Fraction(fps).limit_denominator(1001)
        quality = {} if codec == "mjpeg" else {"crf": str(crf)}
        self._stream: Any = self._container.add_stream(codec, rate=rate, options=_QUALITY[codec] | quality)
        _describe(self._stream, rate, width_px, height_px, "yuvj420p" if codec == "mjpeg" else "yuv420p")

    def __enter__(self) -> Self:
        """The file is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self.close()

    def write(self, rgb_HWC: NDArray[np.uint8]) -> None:
        """Add a frame.

        Raises:
            ValueError: If it is not an (H, W, 3) uint8 picture of the file's size.
        """
        if rgb_HWC.shape != self._shape or rgb_HWC.dtype != np.uint8:
            raise ValueError(f"frame of {rgb_HWC.shape} {rgb_HWC.dtype}; expected {self._shape} uint8")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")
        frame = self._reformatter.reformat(frame, format=self._stream.pix_fmt, dst_colorspace=self._colorspace)
        frame.pts = self._num_frames
        self._num_frames += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and close the file. Closing twice is closing once."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._stream = None


def _describe(stream: Any, rate: Fraction, width_px: int, height_px: int, pixel_format: str) -> None:  # noqa: ANN401
    stream.width, stream.height, stream.pix_fmt = width_px, height_px, pixel_format
    context = stream.codec_context
    context.gop_size = max(1, round(rate))
    context.time_base = 1 / rate
    if pixel_format == "yuv420p":
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
