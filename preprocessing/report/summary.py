"""The funnel from sources to samples, counted."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import Dataset, inspect_table
from preprocessing.reasons import Reason
from preprocessing.report.columns import clip_seconds, counts_by, first_reasons, floats, where
from preprocessing.samples import Verdict


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """The funnel from sources to samples.

    Attributes:
        sources: Sources ever seen.
        sources_ok: Those that decoded, whole or from their beginning.
        failed: Sources that failed, by their first reason.
        truncated: Sources that are ok but end before their declared end.
        source_hours: Duration of the sources that are ok.
        clips: Candidates of the sources that are ok.
        kept: Those that are kept.
        dropped: Those that are not, by their first reason.
        kept_hours: Duration of the kept ones.
        samples: Kept clips in the current version.
        encode_failed: Kept clips that could not be encoded.
        waiting: Kept clips that are not encoded yet.
        segments: Segments of the samples.
        splits: Samples by split.
        shards: Shards that the current version names.
        manifest: The current version, None if there is none.
    """

    sources: int
    sources_ok: int
    failed: Mapping[str, int]
    truncated: int
    source_hours: float
    clips: int
    kept: int
    dropped: Mapping[str, int]
    kept_hours: float
    samples: int
    encode_failed: int
    waiting: int
    segments: int
    splits: Mapping[str, int]
    shards: int
    manifest: str | None


@dataclass(frozen=True, kw_only=True)
class KeptClips:
    """The clips that are kept now, by how far they got; each with the columns of `rows.CLIPS`."""

    encoded: pa.Table
    failed: pa.Table
    waiting: pa.Table


def summarize(dataset: Dataset) -> DatasetSummary:
    """Count what the dataset holds now."""
    sources, clips, samples = dataset.ledger.sources(), dataset.ledger.clips(), inspect_table(dataset, "samples")
    ok, kept = where(sources, "status", "ok"), where(clips, "decision", Verdict.KEEP)
    reached = kept_by_progress(dataset, kept, samples)
    return DatasetSummary(
        sources=sources.num_rows,
        sources_ok=ok.num_rows,
        failed=counts_by(where(sources, "status", "failed")["reason"]),
        truncated=where(ok, "reason", Reason.TRUNCATED).num_rows,
        source_hours=_hours(pc.sum(ok["duration_s"]).as_py() or 0.0),
        clips=clips.num_rows,
        kept=kept.num_rows,
        dropped=counts_by(first_reasons(where(clips, "decision", Verdict.DROP))),
        kept_hours=_hours(clip_seconds(kept).sum()),
        samples=reached.encoded.num_rows,
        encode_failed=reached.failed.num_rows,
        waiting=reached.waiting.num_rows,
        segments=int(floats(samples, "num_segments").sum()),
        splits=counts_by(samples["split"]),
        shards=pc.count_distinct(samples["shard"]).as_py(),
        manifest=dataset.record().manifest,
    )


def kept_by_progress(dataset: Dataset, kept: pa.Table, samples: pa.Table) -> KeptClips:
    """Kept clips that are samples of the current version, that could not be encoded, and that wait for it."""
    failed_ids = [clip_id for record in dataset.ledger.encodes() for clip_id in record.failed]
    encoded = pc.is_in(kept["clip_id"], value_set=samples["clip_id"].combine_chunks())
    failed = pc.and_not(pc.is_in(kept["clip_id"], value_set=pa.array(failed_ids, pa.string())), encoded)
    return KeptClips(
        encoded=kept.filter(encoded),
        failed=kept.filter(failed),
        waiting=kept.filter(pc.invert(pc.or_(encoded, failed))),
    )


def _hours(seconds: float) -> float:
    return round(float(seconds) / 3600, 6)
