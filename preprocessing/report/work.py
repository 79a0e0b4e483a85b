"""What the steps took, what that costs, and which sources took or broke most."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import Dataset, samples_table
from preprocessing.reasons import Reason
from preprocessing.report.columns import clip_seconds, counts_by, floats, places, rows_at, sums_by, texts, where
from preprocessing.report.settings import ReportSettings
from preprocessing.report.summary import kept_by_progress
from preprocessing.rows import transfers
from preprocessing.samples import HDR_TRANSFERS, Verdict
from preprocessing.shards import file_key

SLOWEST = 10
"""Sources named for taking longest."""

FAILURES = 100
"""Sources named for each reason; the totals count all."""


COLOUR_EXAMPLES = 6
"""Sources named for each transfer function."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A figure that there is none of.

    Attributes:
        skipped: Why, and how to get it.
    """

    skipped: str


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """What one step took, over the tasks that say so.

    Attributes:
        tasks: Sources scanned, or shards encoded.
        cpu_hours: Of workers and their decoding children.
        wall_hours: On the clocks of the workers, together.
        video_hours: Of the sources scanned, or of the samples encoded.
        size_gb: Read, as files, or written, as shards; 1 GB is 10^9 bytes.
        speed: Hours of video in a CPU hour.
    """

    name: str
    tasks: int
    cpu_hours: float
    wall_hours: float
    video_hours: float
    size_gb: float
    speed: float | Skipped


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Money, in the currency of the prices.

    Attributes:
        time: Of all scans and encodes that the ledger holds.
        storage_per_month: Of the encoded shards.
        time_per_sample_hour: The same for an hour of the samples of the current version.
    """

    time: float | Skipped
    storage_per_month: float | Skipped
    time_per_sample_hour: float | Skipped


@dataclass(frozen=True, kw_only=True)
class SourceNote:
    """One source that is named."""

    uri: str
    reason: str
    message: str
    duration_s: float | None
    cpu_s: float | None


@dataclass(frozen=True, kw_only=True)
class EncodeFailure:
    """A kept clip that could not be encoded."""

    clip_id: str
    uri: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Colours:
    """The sources that are ok and whose colours have one transfer function.

    Attributes:
        transfer: As FFmpeg names it, empty where the container does not say.
        is_hdr: Whether that is HDR, whose tones are not mapped.
        sources: How many.
        hours: Their duration.
        examples: Uris of up to `COLOUR_EXAMPLES` of them.
    """

    transfer: str
    is_hdr: bool
    sources: int
    hours: float
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work behind a dataset.

    Attributes:
        stages: Scanning and encoding; empty ones are left out.
        decoders: Sources that are ok, by the library that decoded them.
        colours: The same sources by transfer function, those of the most hours first.
        slowest: Those that took most CPU time.
        failed: Failed sources by reason, up to `FAILURES` each.
        truncated: Sources that are ok but end before their declared end, up to `FAILURES`.
    """

    stages: tuple[StageWork, ...]
    cost: Cost
    decoders: Mapping[str, int]
    decoder_hours: Mapping[str, float]
    colours: tuple[Colours, ...]
    slowest: tuple[SourceNote, ...]
    failed: Mapping[str, tuple[SourceNote, ...]]
    truncated: tuple[SourceNote, ...]


def work_of(dataset: Dataset, settings: ReportSettings) -> Work:
    """Sum up the work of a dataset."""
    sources, samples = dataset.ledger.sources(), samples_table(dataset)
    ok, failed = where(sources, "status", "ok"), where(sources, "status", "failed")
    stages = [stage for stage in (_scanning(sources), _encoding(dataset, samples)) if stage.tasks]
    decoder_s = sums_by(ok["decoder"], np.nan_to_num(floats(ok, "duration_s")))
    return Work(
        stages=tuple(stages),
        cost=_cost(dataset, sources, samples, settings),
        decoders={name: where(ok, "decoder", name).num_rows for name in decoder_s},
        decoder_hours={name: round(seconds / 3600, 6) for name, seconds in decoder_s.items()},
        colours=_colours(ok),
        slowest=_notes(_slowest(sources)),
        failed={reason: _named(failed, reason) for reason in counts_by(failed["reason"])},
        truncated=_named(ok, Reason.TRUNCATED),
    )


def encode_failures(dataset: Dataset, clips: pa.Table) -> tuple[EncodeFailure, ...]:
    """Kept clips that could not be encoded, up to `FAILURES`.

    Args:
        dataset: Whose they are.
        clips: `Ledger.clips()`.
    """
    kept, sources = where(clips, "decision", Verdict.KEEP), dataset.ledger.sources()
    failed = kept_by_progress(dataset, kept, samples_table(dataset)).failed.slice(0, FAILURES)
    messages = {clip_id: line for record in dataset.ledger.encodes() for clip_id, line in record.failed.items()}
    uris = texts(rows_at(sources, places(failed, sources))["uri"])
    return tuple(
        EncodeFailure(clip_id=clip_id, uri=uri, message=messages[clip_id])
        for clip_id, uri in zip(texts(failed["clip_id"]), uris, strict=True)
    )


def _scanning(sources: pa.Table) -> StageWork:
    measured = sources.filter(pc.is_valid(sources["scan_cpu_s"]))
    return _stage(
        "scan",
        measured.num_rows,
        cpu_s=floats(measured, "scan_cpu_s").sum(),
        wall_s=floats(measured, "scan_wall_s").sum(),
        video_s=np.nan_to_num(floats(measured, "duration_s")).sum(),
        size=np.nan_to_num(floats(measured, "size_bytes")).sum(),
    )


def _encoding(dataset: Dataset, samples: pa.Table) -> StageWork:
    """Of the shards of the current version that say what they took."""
    named = set(pc.unique(samples["shard"]).to_pylist())
    found = {file_key(record.key, record.failed): record for record in dataset.ledger.encodes() if record.effort}
    records = {key: record for key, record in found.items() if key in named}
    encoded = samples.filter(pc.is_in(samples["shard"], value_set=pa.array(records, pa.string())))
    efforts = [record.effort for record in records.values() if record.effort]
    return _stage(
        "encode",
        len(records),
        cpu_s=sum(effort.cpu_s for effort in efforts),
        wall_s=sum(effort.wall_s for effort in efforts),
        video_s=clip_seconds(encoded).sum(),
        size=sum(record.size for record in records.values()),
    )


def _stage(name: str, tasks: int, *, cpu_s: float, wall_s: float, video_s: float, size: float) -> StageWork:
    return StageWork(
        name=name,
        tasks=tasks,
        cpu_hours=round(float(cpu_s) / 3600, 6),
        wall_hours=round(float(wall_s) / 3600, 6),
        video_hours=round(float(video_s) / 3600, 6),
        size_gb=round(float(size) / 1e9, 6),
        speed=round(float(video_s / cpu_s), 3) if cpu_s else Skipped(skipped="no time was measured"),
    )


def _cost(dataset: Dataset, sources: pa.Table, samples: pa.Table, settings: ReportSettings) -> Cost:
    """Failed attempts and shards that no version names any more were paid for too."""
    records = dataset.ledger.encodes()
    efforts = [record.effort for record in records if record.effort]
    cpu_s = np.nansum(floats(sources, "scan_cpu_s")) + sum(effort.cpu_s for effort in efforts)
    time = time_cost(cpu_s, sum(effort.wall_s for effort in efforts), settings)
    sample_hours = clip_seconds(samples).sum() / 3600
    no_samples = Skipped(skipped="nothing is encoded yet")
    return Cost(
        time=time,
        storage_per_month=storage_cost(sum(record.size for record in records), settings),
        time_per_sample_hour=time
        if isinstance(time, Skipped)
        else (round(time / sample_hours, 6) if sample_hours else no_samples),
    )


def time_cost(cpu_s: float, encode_wall_s: float, settings: ReportSettings) -> float | Skipped:
    """What seconds of CPUs, and of the GPUs that encoding sets aside, cost."""
    prices, gpu_hours = settings.prices, encode_wall_s * settings.gpus_per_encode / 3600
    if prices.cost_per_cpu_hour is None:
        return Skipped(skipped="no price is known: --set report.cost_per_cpu_hour=PRICE")
    if gpu_hours and prices.cost_per_gpu_hour is None:
        return Skipped(
            skipped="encoding uses GPUs and no price of theirs is known: --set report.cost_per_gpu_hour=PRICE"
        )
    return round(float(cpu_s) / 3600 * prices.cost_per_cpu_hour + gpu_hours * (prices.cost_per_gpu_hour or 0.0), 9)


def storage_cost(size_bytes: float, settings: ReportSettings) -> float | Skipped:
    """What keeping so many bytes for a month costs."""
    price = settings.prices.cost_per_gb_month
    if price is None:
        return Skipped(skipped="no price is known: --set report.cost_per_gb_month=PRICE")
    return round(size_bytes / 1e9 * price, 9)


def _colours(sources: pa.Table) -> tuple[Colours, ...]:
    """Of sources that are ok."""
    coded = sources.append_column("transfer", transfers(sources))
    by_transfer = sums_by(coded["transfer"], np.nan_to_num(floats(coded, "duration_s")))
    named = {transfer: texts(where(coded, "transfer", transfer)["uri"]) for transfer in by_transfer}
    return tuple(
        Colours(
            transfer=transfer,
            is_hdr=transfer in HDR_TRANSFERS,
            sources=len(named[transfer]),
            hours=round(seconds / 3600, 6),
            examples=tuple(named[transfer][:COLOUR_EXAMPLES]),
        )
        for transfer, seconds in by_transfer.items()
    )


def _slowest(sources: pa.Table) -> pa.Table:
    measured = sources.filter(pc.is_valid(sources["scan_cpu_s"]))
    return measured.sort_by([("scan_cpu_s", "descending"), ("uri", "ascending")]).slice(0, SLOWEST)


def _named(sources: pa.Table, reason: str) -> tuple[SourceNote, ...]:
    return _notes(where(sources, "reason", reason).slice(0, FAILURES))


def _notes(sources: pa.Table) -> tuple[SourceNote, ...]:
    return tuple(
        SourceNote(
            uri=row["uri"],
            reason=row["reason"],
            message=row["message"],
            duration_s=row["duration_s"],
            cpu_s=row["scan_cpu_s"],
        )
        for row in sources.to_pylist()
    )
