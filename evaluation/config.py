"""Settings of evaluation."""

from typing import Annotated

from pydantic import Field

from preprocessing.config import Settings


class EvaluateConfig(Settings):
    """Windows of the drift measure and of its curve."""

    window_share: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    """First and last share of the generated frames that drift compares (paper, eq. 8)."""
    curve_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Width of a sliding window of the drift curve."""
    strip_columns: Annotated[int, Field(ge=2, le=21)] = 11
    """Frames in a time strip."""
