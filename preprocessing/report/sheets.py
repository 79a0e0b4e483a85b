"""Contact sheets: which clips are shown, and their stored pictures. Bounded, however many clips there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing.dataset import Dataset
from preprocessing.report.columns import Ints, counts_by, first_reasons, holds, rows_at, scores, texts
from preprocessing.report.histograms import VIEWS, Threshold, thresholds_of
from preprocessing.report.settings import ReportSettings
from preprocessing.samples import Thumbnail, Verdict

KEPT = 12
"""Kept clips that are shown."""

EXAMPLES = 6
"""Clips shown for each reason."""

BORDERLINE = 4
"""Clips shown on either side of each threshold."""

MOMENTS = (1 / 6, 1 / 2, 5 / 6)
"""Where in a clip its pictures are taken, as a share of its length."""


@dataclass(frozen=True, kw_only=True)
class ClipCard:
    """A clip for people.

    Attributes:
        uri: Of its source.
        start_s: Where it begins in the source.
        end_s: Where it ends.
        num_segments: 0 if it has no room for one.
        scores: All that were measured.
        reasons: Why it is dropped; none if it is kept.
        pictures: JPEGs over time, none if there are none.
    """

    clip_id: str
    uri: str
    start_s: float
    end_s: float
    num_segments: int
    scores: Mapping[str, float]
    reasons: tuple[str, ...]
    pictures: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Border:
    """The clips nearest to a threshold: rows of `Ledger.clips()`."""

    threshold: Threshold
    score: str
    kept: Ints
    dropped: Ints


def kept_rows(clips: pa.Table, number: int) -> Ints:
    """Some kept clips, spread evenly over the dataset."""
    return spread(np.flatnonzero(holds(clips["decision"], Verdict.KEEP)), number)


def reason_rows(clips: pa.Table, number: int) -> dict[str, Ints]:
    """Some clips for each first reason, spread evenly over the dataset."""
    at = np.flatnonzero(holds(clips["decision"], Verdict.DROP))
    first = first_reasons(rows_at(clips, at))
    return {name: spread(at[holds(first, name)], number) for name in counts_by(first)}


def borders(clips: pa.Table, settings: ReportSettings, number: int) -> list[Border]:
    """For every threshold the clips that are kept by the smallest margin, and those that are dropped by it."""
    kept = holds(clips["decision"], Verdict.KEEP)
    limits = [(view.score, limit) for view in VIEWS for limit in thresholds_of(view, settings)]
    return [_border(clips, kept, score, limit, number) for score, limit in limits]


def _border(clips: pa.Table, kept: NDArray[np.bool_], score: str, limit: Threshold, number: int) -> Border:
    distance = scores(clips, score) - limit.value
    beyond = distance < 0 if limit.drops == "below" else distance > 0
    has_reason = _with_reason(clips, str(limit.reason))
    return Border(
        threshold=limit,
        score=score,
        kept=_nearest(distance, kept & np.isfinite(distance), number),
        dropped=_nearest(distance, has_reason & beyond, number),
    )


def _with_reason(clips: pa.Table, reason: str) -> NDArray[np.bool_]:
    """Which clips have a reason, the first or a later one."""
    has = np.zeros(clips.num_rows, bool)
    reasons = clips["reasons"].combine_chunks()
    has[np.asarray(pc.list_parent_indices(reasons))[holds(pc.list_flatten(reasons), reason)]] = True
    return has


def _nearest(distance: NDArray[np.float64], wanted: NDArray[np.bool_], number: int) -> Ints:
    rows = np.flatnonzero(wanted)
    return rows[np.argsort(np.abs(distance[rows]), kind="stable")[:number]]


def spread(rows: Ints, number: int) -> Ints:
    """At most so many of the rows, evenly."""
    if len(rows) <= number:
        return rows
    return rows[np.arange(number) * len(rows) // number]


def cards(dataset: Dataset, clips: pa.Table) -> list[ClipCard]:
    """The clips of a small table (schema `rows.CLIPS`) with their pictures."""
    found = clips.to_pylist(maps_as_pydicts="strict")
    pictures = _pictures(dataset, found)
    return [
        _card(row, uri, pictures.get(row["clip_id"], ())) for row, uri in zip(found, _uris(dataset, clips), strict=True)
    ]


def _uris(dataset: Dataset, clips: pa.Table) -> list[str]:
    sources = dataset.ledger.sources()
    at = pc.index_in(clips["source_id"], value_set=sources["source_id"].combine_chunks())
    return texts(sources["uri"].take(at))


def _card(row: Mapping, uri: str, pictures: tuple[bytes, ...]) -> ClipCard:
    return ClipCard(
        clip_id=row["clip_id"],
        uri=uri,
        start_s=row["start_s"],
        end_s=row["end_s"],
        num_segments=row["num_segments"],
        scores={name: value for name, value in row["scores"].items() if value is not None},
        reasons=tuple(row["reasons"]),
        pictures=pictures,
    )


def _pictures(dataset: Dataset, clips: Sequence[Mapping]) -> dict[str, tuple[bytes, ...]]:
    """Stored pictures nearest to some moments of each clip; one that would come twice comes once."""
    wanted: dict[str, list[Mapping]] = {}
    for row in clips:
        wanted.setdefault(row["source_id"], []).append(row)
    found: dict[str, tuple[bytes, ...]] = {}
    for source_id, thumbnails in dataset.ledger.iterate_thumbnails(set(wanted)):
        found |= {row["clip_id"]: _over_time(row, thumbnails) for row in wanted[source_id] if thumbnails}
    return found


def _over_time(clip: Mapping, thumbnails: Sequence[Thumbnail]) -> tuple[bytes, ...]:
    start, end = clip["start_frame"], clip["end_frame"]
    inside = [t for t in thumbnails if start <= t.frame < end]
    frames = [start + share * (end - start) for share in MOMENTS]
    if not inside:  # a clip that lies between two pictures
        return (min(thumbnails, key=lambda t: abs(t.frame - frames[1])).jpeg,)
    nearest = [min(inside, key=lambda t, frame=frame: abs(t.frame - frame)) for frame in frames]
    return tuple({t.frame: t.jpeg for t in nearest}.values())
