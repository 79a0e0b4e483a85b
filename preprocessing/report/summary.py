"""The funnel from sources to samples, counted.

What is decided now and what the current version holds are two things: `plan` may change its mind about clips of a version,
and the next `encode` names another one. ``kept = in_version + encode_failed + waiting``, ``samples = in_version + leaving``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import Dataset, samples_table
from preprocessing.plan import failed_clips
from preprocessing.reasons import Reason
from preprocessing.report.columns import clip_seconds, counts_by, first_reasons, floats, sums_by, where
from preprocessing.rows import transfers
from preprocessing.samples import HDR_TRANSFERS, Verdict


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """The funnel from sources to samples.

    Attributes:
        sources: Sources ever seen.
        sources_ok: Those that decoded, whole or from their beginning.
        failed: Sources that failed, by their first reason.
        truncated: Sources that are ok but end before their declared end.
        hdr: Sources that are ok and HDR; their tones are not mapped.
        source_hours: Duration of the sources that are ok.
        clips: Candidates of the sources that are ok.
        kept: Those that are kept.
        dropped: Those that are not, by their first reason.
        kept_hours: Duration of the kept ones.
        dropped_hours: Duration of the others, by their first reason.
        in_version: Kept clips that are samples of the current version.
        encode_failed: Kept clips whose last attempt at encoding failed.
        waiting: The other kept clips: not encoded yet, or encoded and not in this version.
        samples: All samples of the current version.
        sample_hours: Their duration.
        leaving: Samples that are not kept any more: the next `encode` names a version without them.
        segments: Segments of the samples.
        splits: Samples by split.
        shards: Shards that the samples lie in.
        manifest: The current version, None if there is none.
    """

    sources: int
    sources_ok: int
    failed: Mapping[str, int]
    truncated: int
    hdr: int
    source_hours: float
    clips: int
    kept: int
    dropped: Mapping[str, int]
    kept_hours: float
    dropped_hours: Mapping[str, float]
    in_version: int
    encode_failed: int
    waiting: int
    samples: int
    sample_hours: float
    leaving: int
    segments: int
    splits: Mapping[str, int]
    shards: int
    manifest: str | None


@dataclass(frozen=True, kw_only=True)
class KeptClips:
    """The clips that are kept now, by how far they got; each with the columns of `rows.CLIPS`."""

    in_version: pa.Table
    failed: pa.Table
    waiting: pa.Table


def summarize(dataset: Dataset) -> DatasetSummary:
    """Count what the dataset holds now."""
    sources, clips, samples = dataset.ledger.sources(), dataset.ledger.clips(), samples_table(dataset)
    ok, kept = where(sources, "status", "ok"), where(clips, "decision", Verdict.KEEP)
    dropped = where(clips, "decision", Verdict.DROP)
    reached = kept_by_progress(dataset, kept, samples)
    return DatasetSummary(
        sources=sources.num_rows,
        sources_ok=ok.num_rows,
        failed=counts_by(where(sources, "status", "failed")["reason"]),
        truncated=where(ok, "reason", Reason.TRUNCATED).num_rows,
        hdr=sum(transfer in HDR_TRANSFERS for transfer in transfers(ok).to_pylist()),
        source_hours=_hours(pc.sum(ok["duration_s"]).as_py() or 0.0),
        clips=clips.num_rows,
        kept=kept.num_rows,
        dropped=counts_by(first_reasons(dropped)),
        kept_hours=_hours(clip_seconds(kept).sum()),
        dropped_hours={name: _hours(s) for name, s in sums_by(first_reasons(dropped), clip_seconds(dropped)).items()},
        in_version=reached.in_version.num_rows,
        encode_failed=reached.failed.num_rows,
        waiting=reached.waiting.num_rows,
        samples=samples.num_rows,
        sample_hours=_hours(clip_seconds(samples).sum()),
        leaving=samples.num_rows - reached.in_version.num_rows,
        segments=int(floats(samples, "num_segments").sum()),
        splits=counts_by(samples["split"]),
        shards=pc.count_distinct(samples["shard"]).as_py(),
        manifest=dataset.record().manifest,
    )


def kept_by_progress(dataset: Dataset, kept: pa.Table, samples: pa.Table) -> KeptClips:
    """Kept clips that are samples of the current version, that could not be encoded, and that wait for it."""
    failed_ids = failed_clips(dataset.ledger.plan(), dataset.ledger.encodes())
    in_version = pc.is_in(kept["clip_id"], value_set=samples["clip_id"].combine_chunks())
    failed = pc.and_not(pc.is_in(kept["clip_id"], value_set=pa.array(failed_ids, pa.string())), in_version)
    return KeptClips(
        in_version=kept.filter(in_version),
        failed=kept.filter(failed),
        waiting=kept.filter(pc.invert(pc.or_(in_version, failed))),
    )


def _hours(seconds: float) -> float:
    return round(float(seconds) / 3600, 6)
