"""What readers hand out: frames with their place in the source, and the stream they come in."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded picture.

    Attributes:
        index: Its place in presentation order, from 0.
        timestamp_s: Seconds since the first frame, increasing.
        rgb_HWC: The picture as it is displayed, uint8.
    """

    index: int
    timestamp_s: float
    rgb_HWC: NDArray[np.uint8]

    def __repr__(self) -> str:
        """Shapes instead of pixels."""
        return f"Frame({self.index}, {self.timestamp_s:.3f} s, {self.rgb_HWC.shape})"


class FrameStream:
    """Frames in presentation order; iterate once.

    Attributes:
        decoder: Library that gives the frames: decord or pyav.
    """

    def __init__(self, decoder: str, frames: Generator[Frame, None, bool]) -> None:
        """Wrap a generator that returns whether the file ended before its declared end."""
        self.decoder = decoder
        self._frames = frames
        self._truncated: bool | None = None

    def __iter__(self) -> Iterator[Frame]:
        """The frames."""
        self._truncated = yield from self._frames

    @property
    def truncated(self) -> bool:
        """Whether the file ended, or broke, before its declared end.

        Raises:
            ValueError: If the stream was not read to its end.
        """
        if self._truncated is None:
            raise ValueError("whether a file is truncated is known at its end: read all frames first")
        return self._truncated
