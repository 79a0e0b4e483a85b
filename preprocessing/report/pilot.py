"""What the whole input would take, from the part of it that was done (``preprocess --limit N``).

Every total is a ratio: what the done sources took, by their bytes (by their number where sizes are unknown, or sources are parts of files), times the bytes of all.
Its spread comes from leaving out one source at a time (jackknife), and is 0 where all are done. The first N sources by name stand for
the others only as far as the order of names says nothing about what is in them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import Dataset
from preprocessing.listing import InputSize
from preprocessing.report.columns import Floats, clip_seconds, floats, ints, places, rows_among, texts, where
from preprocessing.report.settings import ReportSettings
from preprocessing.report.work import Skipped, storage_cost, time_cost
from preprocessing.samples import ShardRecord, Verdict
from preprocessing.shards import file_key

SPREAD = 1.645
"""Standard errors on either side of an estimate: nine of ten intervals hold the true value, if it spreads normally."""

NAMED = 3
"""Sources, and shards, that are named for people; JSON names all."""

NOT_ENCODED = Skipped(skipped="no shard is encoded yet that says what it took: longtake preprocess INPUT --limit N")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 90 % interval; without one where a single source was done."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What an estimate rests on; what became of the sources since is of no matter.

    Attributes:
        scanned: Uris of the sources whose scans were timed.
        encoded: Uris of the sources whose clips the shards hold; a dataset may have more than the part of the input that was done.
        shards: Keys of the shards whose encoding was timed.
        segments: In those shards.
    """

    scanned: tuple[str, ...]
    encoded: tuple[str, ...]
    shards: tuple[str, ...]
    segments: int

    def line(self) -> str:
        """For people."""
        encoded = (
            f"{self.segments} segments of {_some(self.encoded)}, in {_some(self.shards)}" if self.shards else "nothing"
        )
        return f"scans of {_some(self.scanned)}; encodes of {encoded}"


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What the whole input would take.

    Attributes:
        basis: What that is estimated from.
        num_done: Sources that the estimate comes from.
        num_all: Sources that the input holds.
        done_bytes: Of the files of those.
        all_bytes: Of the files of these.
        by_bytes: Whether totals are in proportion to bytes; else to the number of sources.
        video_hours: Of all sources.
        kept_hours: Of the clips that would be kept.
        scan_cpu_hours: To scan all sources.
        encode_cpu_hours: To encode all kept clips.
        wall_hours: With the cluster's CPUs, all of them busy.
        shards_gb: Size of all shards; 1 GB is 10^9 bytes.
        shards_gb_per_hour_kept: The same of one hour that is kept.
        cost: Of the time, in the currency of the prices.
        cost_per_video_hour: The same of one hour of video that goes in.
        storage_cost_per_month: Of all shards.
    """

    basis: Basis
    num_done: int
    num_all: int
    done_bytes: int
    all_bytes: int
    by_bytes: bool
    video_hours: Estimate
    kept_hours: Estimate
    scan_cpu_hours: Estimate
    encode_cpu_hours: Estimate | Skipped
    wall_hours: Estimate | Skipped
    shards_gb: Estimate | Skipped
    shards_gb_per_hour_kept: float | Skipped
    cost: Estimate | Skipped
    cost_per_video_hour: Estimate | Skipped
    storage_cost_per_month: Estimate | Skipped

    def lines(self) -> list[str]:
        """For people."""
        basis = "bytes of their files" if self.by_bytes else "number of sources"
        return [
            f"the whole input, estimated from {self.num_done} of its {self.num_all} sources, with 90 % intervals:",
            f"  video: {_said(self.video_hours, 'h')}, of which {_said(self.kept_hours, 'h')} kept",
            f"  time: {_said(self.scan_cpu_hours, 'CPU-h')} to scan, {_said(self.encode_cpu_hours, 'CPU-h')} to encode",
            f"  wall time on this cluster: {_said(self.wall_hours, 'h')}",
            f"  space: {_said(self.shards_gb, 'GB')} of shards; {_said(self.shards_gb_per_hour_kept, 'GB')} an hour kept",
            f"  money: {_said(self.cost, '')}; an hour of video {_said(self.cost_per_video_hour, '')}; "
            f"storage a month {_said(self.storage_cost_per_month, '')}",
            f"  from: {self.basis.line()}",
            f"  how: in proportion to the {basis}; intervals by leaving out one source at a time; "
            "the first by name, not drawn at random",
        ]


def _said(figure: Estimate | float | Skipped, unit: str) -> str:
    if isinstance(figure, Skipped):
        return f"skipped ({figure.skipped})"
    if not isinstance(figure, Estimate):
        return f"{figure:.3g} {unit}".rstrip()
    interval = "" if figure.low is None or figure.high is None else f" ({figure.low:.3g} to {figure.high:.3g})"
    return f"{figure.value:.3g} {unit}".rstrip() + interval


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The sources that were done: (number of sources,) each; what encoding takes is in proportion to segments."""

    basis: Basis
    size: Floats
    video_s: Floats
    kept_s: Floats
    scan_cpu_s: Floats
    scan_wall_s: Floats
    encode_cpu_s: Floats
    encode_wall_s: Floats
    shards_bytes: Floats

    @property
    def is_encoded(self) -> bool:
        """Whether anybody knows what encoding takes."""
        return self.basis.segments > 0


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """From the done sources to all.

    Attributes:
        weights: Bytes of each done source, or 1.
        total: Of all sources.
        done_share: Of the sources, by number.
        by_bytes: Whether weights are bytes.
    """

    weights: Floats
    total: float
    done_share: float
    by_bytes: bool

    def whole(self, taken: Floats) -> Estimate:
        """What all sources take, if the done ones took this."""
        return ratio_estimate(taken, self.weights, total=self.total, done_share=self.done_share)


def ratio_estimate(taken: Floats, weights: Floats, *, total: float, done_share: float) -> Estimate:
    """``total * sum(taken) / sum(weights)``, with an interval from leaving out one at a time.

    Args:
        taken: What each did, (n,).
        weights: What that is in proportion to, (n,); their sum is not 0.
        total: Weight of all.
        done_share: Number of these, as a share of all; the last one leaves nothing uncertain.
    """
    value, number = total * taken.sum() / weights.sum(), len(taken)
    others = weights.sum() - weights
    if number < 2 or (others <= 0).any():
        return Estimate(value=round(float(value), 9), low=None, high=None)
    without = total * (taken.sum() - taken) / others
    error = np.sqrt((number - 1) * np.var(without) * max(0.0, 1 - done_share))
    low, high = max(0.0, value - SPREAD * error), value + SPREAD * error
    return Estimate(value=round(float(value), 9), low=round(float(low), 9), high=round(float(high), 9))


def pilot(
    dataset: Dataset,
    source_ids: Collection[str],
    whole: InputSize,
    settings: ReportSettings,
    *,
    parallel: tuple[float, float] | None,
) -> Pilot | None:
    """Estimate the whole input; None if none of the sources was scanned with a clock.

    Args:
        dataset: That the sources were taken into.
        source_ids: Of the part that was done.
        whole: Of the input.
        settings: For prices.
        parallel: Scans and encodes that the cluster runs at once; None where that is not known.
    """
    sources = rows_among(dataset.ledger.sources(), "source_id", source_ids)
    sources = sources.filter(pc.is_valid(sources["scan_cpu_s"]))
    if not sources.num_rows:
        return None
    sample = _sample(dataset, sources)
    by_bytes = sample.size.sum() > 0 and whole.size_bytes > 0 and not _are_spans(sources)
    scale = _Scale(
        weights=sample.size if by_bytes else np.ones_like(sample.size),
        total=float(whole.size_bytes if by_bytes else whole.num_sources),
        done_share=len(sample.size) / whole.num_sources,
        by_bytes=bool(by_bytes),
    )
    return _pilot(sample, whole, scale, settings, parallel)


def _are_spans(sources: pa.Table) -> bool:
    """Whether rows name parts of files, whose own bytes nobody knows."""
    named = ("start_frame", "end_frame", "start_s", "end_s")
    return any(sources[name].null_count < sources.num_rows for name in named)


def _pilot(
    sample: _Sample, whole: InputSize, scale: _Scale, settings: ReportSettings, parallel: tuple[float, float] | None
) -> Pilot:
    paid, month = _paid(sample, settings), storage_cost(1e9, settings)
    shards_gb = sample.shards_bytes / 1e9
    hours = sample.kept_s.sum() / 3600
    return Pilot(
        basis=sample.basis,
        num_done=len(sample.size),
        num_all=whole.num_sources,
        done_bytes=int(sample.size.sum()),
        by_bytes=scale.by_bytes,
        all_bytes=whole.size_bytes,
        video_hours=scale.whole(sample.video_s / 3600),
        kept_hours=scale.whole(sample.kept_s / 3600),
        scan_cpu_hours=scale.whole(sample.scan_cpu_s / 3600),
        encode_cpu_hours=scale.whole(sample.encode_cpu_s / 3600) if sample.is_encoded else NOT_ENCODED,
        wall_hours=_wall_hours(sample, scale, parallel),
        shards_gb=scale.whole(shards_gb) if sample.is_encoded else NOT_ENCODED,
        shards_gb_per_hour_kept=_per_hour(float(shards_gb.sum()), hours) if sample.is_encoded else NOT_ENCODED,
        cost=paid if isinstance(paid, Skipped) else scale.whole(paid),
        cost_per_video_hour=paid if isinstance(paid, Skipped) else _by_video_hour(paid, sample, scale),
        storage_cost_per_month=_by_month(shards_gb, scale, month) if sample.is_encoded else NOT_ENCODED,
    )


def _wall_hours(sample: _Sample, scale: _Scale, parallel: tuple[float, float] | None) -> Estimate | Skipped:
    if not sample.is_encoded:
        return NOT_ENCODED
    if parallel is None:
        return Skipped(skipped="this run had nothing to do, so it asked no cluster how many CPUs it has")
    scans, encodes = parallel
    return scale.whole((sample.scan_wall_s / scans + sample.encode_wall_s / encodes) / 3600)


def _paid(sample: _Sample, settings: ReportSettings) -> Floats | Skipped:
    """Money for each source."""
    if not sample.is_encoded:
        return NOT_ENCODED
    cpu_s = sample.scan_cpu_s + sample.encode_cpu_s
    paid = [time_cost(cpu, wall, settings) for cpu, wall in zip(cpu_s, sample.encode_wall_s, strict=True)]
    unknown = next((one for one in paid if isinstance(one, Skipped)), None)
    return unknown or np.array(paid, np.float64)


def _by_video_hour(paid: Floats, sample: _Sample, scale: _Scale) -> Estimate | Skipped:
    if not sample.video_s.sum():
        return Skipped(skipped="no source decoded")
    return ratio_estimate(paid, sample.video_s / 3600, total=1.0, done_share=scale.done_share)


def _by_month(shards_gb: Floats, scale: _Scale, price: float | Skipped) -> Estimate | Skipped:
    return price if isinstance(price, Skipped) else scale.whole(shards_gb * price)


def _per_hour(value: float, hours: float) -> float | Skipped:
    return round(value / hours, 6) if hours else Skipped(skipped="no clip is kept")


def _sample(dataset: Dataset, sources: pa.Table) -> _Sample:
    kept = where(dataset.ledger.clips(texts(sources["source_id"])), "decision", Verdict.KEEP)
    at, number = places(kept, sources), sources.num_rows
    segments = np.bincount(at, weights=ints(kept, "num_segments"), minlength=number).astype(np.float64)
    records = [record for record in dataset.ledger.encodes() if record.effort]
    encoded = rows_among(dataset.ledger.plan(), "clip_id", {clip_id for one in records for clip_id in one.clip_ids})
    rates = _rates(records, encoded)
    return _Sample(
        basis=Basis(
            scanned=tuple(texts(sources["uri"])),
            encoded=tuple(sorted(set(texts(encoded["uri"])))),
            shards=tuple(file_key(record.key, record.failed) for record in records),
            segments=rates.segments,
        ),
        size=np.nan_to_num(floats(sources, "size_bytes")),
        video_s=np.nan_to_num(floats(sources, "duration_s")),
        kept_s=np.bincount(at, weights=clip_seconds(kept), minlength=number).astype(np.float64),
        scan_cpu_s=floats(sources, "scan_cpu_s"),
        scan_wall_s=floats(sources, "scan_wall_s"),
        encode_cpu_s=rates.cpu_s * segments,
        encode_wall_s=rates.wall_s * segments,
        shards_bytes=rates.size_bytes * segments,
    )


@dataclass(frozen=True, kw_only=True)
class _Rates:
    """What one segment took to encode, over so many."""

    segments: int
    cpu_s: float
    wall_s: float
    size_bytes: float


def _rates(records: Sequence[ShardRecord], planned: pa.Table) -> _Rates:
    """Of shards, by the plan of their clips: sources may have vanished, and clips been decided otherwise, since."""
    segments = dict(zip(texts(planned["clip_id"]), ints(planned, "num_segments").tolist(), strict=True))
    number = sum(segments[clip_id] for record in records for clip_id in record.clip_ids)
    efforts = [record.effort for record in records if record.effort]
    return _Rates(
        segments=number,
        cpu_s=sum(effort.cpu_s for effort in efforts) / max(number, 1),
        wall_s=sum(effort.wall_s for effort in efforts) / max(number, 1),
        size_bytes=sum(record.size for record in records) / max(number, 1),
    )
