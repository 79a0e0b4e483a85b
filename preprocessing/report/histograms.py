"""How scores are spread over kept and dropped clips, and where the thresholds stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preprocessing.config import Settings
from preprocessing.reasons import Reason
from preprocessing.report.columns import Floats, holds, score_names, scores
from preprocessing.report.settings import ReportSettings
from preprocessing.samples import Verdict

BINS = 40
"""Bars of a histogram."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Where a setting divides a score.

    Attributes:
        setting: Dotted key, for ``--set``.
        value: What it is now.
        drops: Whether less or more than the value is dropped.
        reason: As what.
    """

    setting: str
    value: float
    drops: Literal["below", "above"]
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class ScoreView:
    """How a score is shown.

    Attributes:
        score: Its name; also `num_segments`.
        title: For people, with the unit.
        by_factor: Whether factors matter, not differences: bars are equally wide on a logarithmic axis.
        limits: (setting of `decide` or `clips`, which side is dropped, reason).
    """

    score: str
    title: str
    by_factor: bool = False
    limits: tuple[tuple[str, Literal["below", "above"], Reason], ...] = ()


VIEWS = (
    ScoreView(
        score="dynamism",
        title="dynamism, % of the diagonal per second",
        by_factor=True,
        limits=(
            ("decide.min_dynamism", "below", Reason.STATIC),
            ("decide.max_dynamism", "above", Reason.TOO_FAST),
        ),
    ),
    ScoreView(
        score="active_share",
        title="active share: time that moves",
        limits=(("decide.min_active_share", "below", Reason.STATIC),),
    ),
    ScoreView(
        score="steadiness",
        title="steadiness: way of the camera, of the way it ran",
        by_factor=True,
        limits=(("decide.min_steadiness", "below", Reason.SHAKY),),
    ),
    ScoreView(
        score="black_share",
        title="black share: frames that are dark",
        limits=(("decide.max_black_share", "above", Reason.BLACK),),
    ),
    ScoreView(
        score="source_fps",
        title="frames per second of the source",
        limits=(("decide.min_source_fps", "below", Reason.LOW_FRAME_RATE),),
    ),
    ScoreView(
        score="height_px",
        title="shorter side of the source, pixels",
        by_factor=True,
        limits=(("decide.min_height_px", "below", Reason.TOO_SMALL),),
    ),
    ScoreView(
        score="num_segments",
        title="clip length, segments of 36 frames",
        limits=(("clips.min_segments", "below", Reason.TOO_SHORT),),
    ),
    ScoreView(score="luma", title="mean brightness, 0 to 255"),
    ScoreView(score="long_dynamism", title="dynamism over half a second", by_factor=True),
    ScoreView(
        score="camera_speed",
        title="speed of the camera from frame to frame",
        by_factor=True,
        limits=(("decide.max_dynamism", "above", Reason.TOO_FAST),),
    ),
    ScoreView(score="dynamism_spread", title="spread of dynamism over a clip", by_factor=True),
    ScoreView(score="own_motion", title="what moves otherwise than the camera", by_factor=True),
    ScoreView(
        score="rest_motion",
        title="what no shift, turn and zoom of the whole picture explains",
        by_factor=True,
        limits=(("decide.min_rest_motion", "below", Reason.STILL_IMAGE),),
    ),
    ScoreView(
        score="followed",
        title="likeness of neighbours after motion compensation",
        limits=(("decide.min_followed", "below", Reason.TOO_FAST),),
    ),
    ScoreView(
        score="effective_fps",
        title="new frames per second",
        limits=(("decide.min_effective_fps", "below", Reason.LOW_FRAME_RATE),),
    ),
    ScoreView(
        score="frozen_share",
        title="frozen share: frames that show one picture for long",
        limits=(("decide.max_frozen_share", "above", Reason.FROZEN),),
    ),
    ScoreView(score="hdr", title="HDR: 1 where the source is PQ or HLG"),
)
"""The scores that people know by name; others that a table holds are shown under their own names."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """One score over all clips.

    Attributes:
        edges: Of the bars, one more than there are bars.
        kept: Kept clips in each bar.
        dropped: Dropped clips in each bar.
        unmeasured: Clips without this score.
        thresholds: Where settings stand.
    """

    view: ScoreView
    edges: tuple[float, ...]
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    unmeasured: int
    thresholds: tuple[Threshold, ...]


def histograms(clips: pa.Table, settings: ReportSettings) -> list[Histogram]:
    """Every score that at least one clip has; one without a limit, and the same for all clips, says nothing."""
    known = {view.score for view in VIEWS}
    others = [ScoreView(score=name, title=name) for name in score_names(clips) if name not in known]
    present = {*score_names(clips), "num_segments"}
    kept = holds(clips["decision"], Verdict.KEEP)
    found = [
        _histogram(view, scores(clips, view.score), kept, settings)
        for view in (*VIEWS, *others)
        if view.score in present
    ]
    return [histogram for histogram in found if histogram is not None]


def thresholds_of(view: ScoreView, settings: ReportSettings) -> tuple[Threshold, ...]:
    """The limits of a score under these settings."""
    return tuple(
        Threshold(setting=setting, value=_value(setting, settings), drops=drops, reason=reason)
        for setting, drops, reason in view.limits
    )


def _value(setting: str, settings: ReportSettings) -> float:
    section, name = setting.split(".")
    sections: dict[str, Settings] = {"decide": settings.decide, "clips": settings.clips}
    return float(getattr(sections[section], name))


def _histogram(view: ScoreView, values: Floats, kept: NDArray[np.bool_], settings: ReportSettings) -> Histogram | None:
    measured = np.isfinite(values)
    limits = thresholds_of(view, settings)
    if not measured.any() or not (limits or np.ptp(values[measured])):
        return None
    edges = _edges(values[measured], [limit.value for limit in limits], view)
    inside = np.clip(values, edges[0], edges[-1])
    return Histogram(
        view=view,
        edges=tuple(edges.tolist()),
        kept=tuple(np.histogram(inside[measured & kept], edges)[0].tolist()),
        dropped=tuple(np.histogram(inside[measured & ~kept], edges)[0].tolist()),
        unmeasured=int((~measured).sum()),
        thresholds=limits,
    )


def _edges(values: Floats, limits: Sequence[float], view: ScoreView) -> Floats:
    """Of bars that hold all but the outermost values, and the thresholds near them; what lies beyond is in the outer bars."""
    if view.score == "num_segments":  # a bar begins at its number, so that a limit stands left of what it lets in
        return np.arange(0, values.max() + 1 + max(1, values.max() // BINS), max(1, values.max() // BINS))
    low, high = np.quantile(values, [0.001, 0.999])
    if view.by_factor:
        low, high = max(low, high * 1e-4, 1e-3), max(high, 1e-2)
    low, high = (bound([edge, *_near(limits, low, high)]) for bound, edge in ((min, low), (max, high)))
    high = high if high > low else low + max(abs(low), 1.0)
    return np.geomspace(low, high, BINS + 1) if view.by_factor else np.linspace(low, high, BINS + 1)


def _near(limits: Sequence[float], low: float, high: float) -> list[float]:
    """Those that are worth showing: a limit ten times beyond the largest value would only push the bars together."""
    reach = max(high - low, abs(high))
    return [limit for limit in limits if low - reach <= limit <= high + reach and limit > 0]
