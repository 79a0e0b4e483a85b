"""What a recipe makes of scanned sources, and what another recipe would. Knows no cluster, and decodes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Recipe, build_recipe, fingerprint
from preprocessing import candidates as candidates_step
from preprocessing import decide as decide_step
from preprocessing import rows
from preprocessing.dataset import Dataset
from preprocessing.decide import decide
from preprocessing.relations import texts
from preprocessing.replay import decided_clips
from preprocessing.report.changes import write_changes
from preprocessing.report.columns import clip_seconds, counts_by, first_reasons, sums_by
from preprocessing.samples import SourceScan, Verdict

SCAN_SECTIONS = ("scan", "transitions", "motion")
"""Sections of a recipe that say how sources are measured; after a change of theirs they are scanned anew."""


def decide_fingerprint(recipe: Recipe) -> str:
    """Changes if candidates or decisions would change."""
    versions = {"candidates": candidates_step.VERSION, "decide": decide_step.VERSION}
    return fingerprint(versions, recipe.clips, recipe.decide, recipe.sources.eval_percent)


def recipe_clips(scans: Iterable[SourceScan], recipe: Recipe) -> pa.Table:
    """What a recipe makes of scanned sources (schema `rows.CLIPS`)."""
    return decided_clips(scans, recipe.clips, recipe.decide, eval_percent=recipe.sources.eval_percent)


def refuse_other_scan_settings(dataset: Dataset, recipe: Recipe) -> None:
    """Planning measures nothing: it would answer under settings that the sources were not scanned with.

    Raises:
        ValueError: If some sources were scanned in another way than the dataset's own recipe asks for, or nobody knows in which;
            or if this recipe would scan in another way, and the dataset has sources.
    """
    why_not = dataset.about_other_scans()
    if why_not:
        raise ValueError(why_not)
    stored = dataset.record().recipe
    if not stored or not dataset.ledger.source_ids():
        return
    scanned, asked = _scan_settings(build_recipe(stored)), _scan_settings(recipe)
    changed = [f"{key}={asked[key]} (scanned with {scanned[key]})" for key in asked if asked[key] != scanned[key]]
    if changed:
        raise ValueError(
            f"{', '.join(changed)}: plan decides from what was measured, and this needs a new scan; "
            "longtake preprocess with these settings scans anew, and so does longtake scan"
        )


def _scan_settings(recipe: Recipe) -> dict[str, object]:
    """Dotted key -> value."""
    sections = recipe.model_dump(mode="json", include=set(SCAN_SECTIONS))
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class PlanPreview:
    """What other settings would keep.

    Attributes:
        kept: Clips that would be kept.
        kept_hours: Their duration.
        dropped: Clips that would not be kept, by their first reason.
        dropped_hours: Their duration, by the same.
        segments: Kept clips by number of segments.
        segment_hours: Their duration, by the same.
        now_kept: Clips that would be kept and are not now.
        now_dropped: Clips that would not be kept and are now.
    """

    kept: int
    kept_hours: float
    dropped: Mapping[str, int]
    dropped_hours: Mapping[str, float]
    segments: Mapping[int, int]
    segment_hours: Mapping[int, float]
    now_kept: tuple[str, ...]
    now_dropped: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        dropped = [f"{number} {reason} ({self.dropped_hours[reason]:.3f} h)" for reason, number in self.dropped.items()]
        segments = [f"{number} of {n} ({self.segment_hours[n]:.3f} h)" for n, number in self.segments.items()]
        return [
            f"kept: {self.kept} clips, {self.kept_hours:.3f} h; by number of segments: {', '.join(segments) or 'none'}",
            f"dropped: {', '.join(dropped) or 'none'}",
            *(f"would be kept: {clip_id}" for clip_id in self.now_kept),
            *(f"would be dropped: {clip_id}" for clip_id in self.now_dropped),
        ]


def preview_plan(
    dataset_uri: str, recipe: Recipe, *, overrides: Sequence[str] = (), sheet: Path | None = None
) -> PlanPreview:
    """What a recipe would keep of what was scanned; decodes nothing, and leaves the dataset as it is.

    Args:
        dataset_uri: Of the dataset.
        recipe: What to decide by.
        overrides: How the recipe was said to differ, for the page.
        sheet: File for a page of the clips that change sides; None writes none.

    Raises:
        ValueError: If there is no dataset, or its sources would have to be scanned anew.
    """
    dataset = Dataset.open(dataset_uri)
    refuse_other_scan_settings(dataset, recipe)
    found = _decided_by(recipe, dataset)
    kept, dropped = (_decided(found, verdict) for verdict in (Verdict.KEEP, Verdict.DROP))
    before = _decided(dataset.ledger.clips(), Verdict.KEEP)
    after_ids, before_ids = set(texts(kept["clip_id"])), set(texts(before["clip_id"]))
    if sheet is not None:
        write_changes(dataset, found, sheet, overrides=overrides)
    reasons, dropped_s = first_reasons(dropped), clip_seconds(dropped)
    lengths, kept_s = kept["num_segments"].to_numpy(), clip_seconds(kept)
    numbers = np.unique(lengths).tolist()
    return PlanPreview(
        kept=kept.num_rows,
        kept_hours=_hours(kept_s.sum()),
        dropped=counts_by(reasons),
        dropped_hours={reason: _hours(seconds) for reason, seconds in sums_by(reasons, dropped_s).items()},
        segments={number: int((lengths == number).sum()) for number in numbers},
        segment_hours={number: _hours(kept_s[lengths == number].sum()) for number in numbers},
        now_kept=tuple(sorted(after_ids - before_ids)),
        now_dropped=tuple(sorted(before_ids - after_ids)),
    )


def _hours(seconds: float) -> float:
    return round(float(seconds) / 3600, 6)


def _decided_by(recipe: Recipe, dataset: Dataset) -> pa.Table:
    """All clips as the recipe decides; where only thresholds are other ones, the stored scores are enough."""
    stored = dataset.record().recipe
    known = build_recipe(stored, ()) if stored else None
    same_clips = known and (known.clips, known.sources.eval_percent) == (recipe.clips, recipe.sources.eval_percent)
    if known is None or not same_clips or dataset.ledger.undecided_sources(decide_fingerprint(known)):
        return recipe_clips(dataset.ledger.iterate_scans(None), recipe)
    clips = dataset.ledger.clips()
    decided = decide(clips.select(rows.CANDIDATES.names), recipe.decide)
    return decided.append_column("dynamism", clips["dynamism"]).append_column("split", clips["split"])


def _decided(clips: pa.Table, verdict: Verdict) -> pa.Table:
    return clips.filter(pc.field("decision") == str(verdict))
