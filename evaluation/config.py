"""Settings of evaluation."""

from typing import Annotated

from pydantic import Field

from preprocessing.config import Positive, Settings


class EvaluateConfig(Settings):
    """Size of the frames, windows of the drift measure and of its curve, and limits of the decoding child."""

    short_side_px: Annotated[int, Field(ge=32, le=2160)] = 480
    """Frames whose shorter side is longer are scaled down to it (paper, 4.3: 480p)."""
    window_share: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    """First and last share of the generated frames that drift compares (paper, eq. 8)."""
    curve_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Width of a sliding window of the drift curve."""
    strip_columns: Annotated[int, Field(ge=2, le=21)] = 11
    """Frames in a time strip."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the intervals over videos."""
    resamples: Positive = 9999
    """Bootstrap resamples of an interval (10,000 is usual for percentile ends)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""
    progress_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """No frame for this long ends the video; total time is never limited."""
    memory_limit_mb: Annotated[int, Field(ge=256)] = 2048
    """Address space that the decoding child may grow by, in MiB."""
