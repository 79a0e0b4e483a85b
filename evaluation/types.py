"""The data types of this package: from frames to rows of features, from rows to scores, from scores to drift.

Shapes: H and W rows and columns of pixels, N frames, D features of a frame. Frames are counted from 0 in presentation order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""RGB, (H, W, 3)."""

Rows = NDArray[np.float32]
"""Features of frames, (N, D); NaN where a frame has none (the first has no neighbour)."""

FrameNumbers = NDArray[np.int64]
"""Which frames, in the order in which a metric meets them, (N,)."""

FeatureOfFrame = Callable[[Picture], NDArray[np.float32]]
"""Takes the frames one after another and gives a row (D,) for each; may remember a few of them."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What metrics know of a video beside its frames.

    Attributes:
        fps: Frames a second, by which motion is per second.
        height_px: Of the frames as they are measured.
        width_px: Of the frames as they are measured.
        source_height_px: Of the frames in the file.
        source_width_px: Of the frames in the file.
    """

    fps: float
    height_px: int
    width_px: int
    source_height_px: int
    source_width_px: int

    @property
    def is_native(self) -> bool:
        """Whether frames are measured pixel by pixel as they are in the file."""
        return (self.height_px, self.width_px) == (self.source_height_px, self.source_width_px)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """Turns frames into rows, in one pass and constant memory; several metrics may share its rows.

    Attributes:
        name: Key of its rows.
        start: Makes the function for one video.
    """

    name: str
    start: Callable[[VideoFacts], FeatureOfFrame]


def _no_refusal(_facts: VideoFacts) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number for a video, or for any window of it without decoding again.

    Attributes:
        name: ``family/name``; ``ref/`` needs no weights and is not comparable with VBench's numbers.
        sentence: What it says, for people.
        extractor: Where its rows come from.
        aggregate: The pure rule: rows of the frames, the frames' numbers, facts -> score; NaN if nothing could be measured.
        min_frames: Shortest window that it can measure.
        is_binary: Its value is 0 or 1; such a metric has no drift.
        refuse: Why it cannot measure a video, "" if it can.
    """

    name: str
    sentence: str
    extractor: Extractor
    aggregate: Callable[[Rows, FrameNumbers, VideoFacts], float]
    min_frames: int
    is_binary: bool = False
    refuse: Callable[[VideoFacts], str] = _no_refusal


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A number that there is not, and how there would be one; never a 0."""

    why: str


@dataclass(frozen=True, kw_only=True)
class DriftScores:
    """How far a metric moved between the first and the last generated frames.

    Attributes:
        absolute: ``|M(V_start) - M(V_end)|`` (paper, eq. 8).
        signed: ``M(V_end) - M(V_start)``.
        floor: ``|M(first window) - M(next window)|``: what `absolute` is worth without any drift to speak of.
        start: ``M(V_start)``.
        end: ``M(V_end)``.
        window_frames: Frames of either window.
        curve: (share of the generated frames at the window's middle, M of the window), in order of generation.
    """

    absolute: float
    signed: float
    floor: float
    start: float
    end: float
    window_frames: int
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class MetricScore:
    """One metric of one video."""

    value: float | Skipped
    drift: DriftScores | Skipped


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a video was made.

    Attributes:
        generated: Numbers of the generated frames in order of generation; conditioning frames are not among them.
        recorded: Whether the file beside the video says so; else all frames count, in order of time.
        note: Where `generated` comes from, for people.
        details: What else the file says, as text.
    """

    generated: FrameNumbers
    recorded: bool
    note: str
    details: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Still:
    """A small JPEG of one frame."""

    frame: int
    timestamp_s: float
    jpeg: bytes

    def __repr__(self) -> str:
        """Size instead of bytes."""
        return f"Still(frame={self.frame}, {len(self.jpeg)} bytes)"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that one pass over a video gives.

    Attributes:
        num_frames: Frames that decoded.
        truncated: Whether the file ended before its declared end.
        rows: By extractor, (N, D); none once they lie in a file.
        stills: Frames at fixed shares of the time, first and last among them.
    """

    facts: VideoFacts
    decoder: str
    num_frames: int
    truncated: bool
    rows: Mapping[str, Rows]
    stills: tuple[Still, ...]

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"Measured({ {name: rows.shape for name, rows in self.rows.items()} }, {len(self.stills)} stills)"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over videos.

    Attributes:
        low: Lower end of its interval, None where one video allows none.
        high: Upper end of it.
        n: Videos.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """One metric over all videos that it could measure.

    Attributes:
        absolute: Mean over videos of eq. 8, not eq. 8 of means.
        signed: Mean of M(V_end) - M(V_start).
        floor: Mean of the noise floor.
    """

    name: str
    value: Estimate | Skipped
    absolute: Estimate | Skipped
    signed: Estimate | Skipped
    floor: Estimate | Skipped


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """One video of a folder: scored, or failed with a reason.

    Attributes:
        name: Path below the folder.
        failure: Why nothing could be measured, "" if it could.
        scores: By metric.
    """

    name: str
    failure: str
    measured: Measured | None
    provenance: Provenance | None
    scores: Mapping[str, MetricScore]

    def __post_init__(self) -> None:
        """A video either was measured or says why not."""
        assert (self.measured is None) == bool(self.failure), f"{self.name}: {self.failure!r} with {self.measured}"
