"""``report/report.json`` and ``report/index.html``: all that a report says, collected from the ledger and written.

The numbers reconcile: sources are ok or failed, clips are kept or dropped for one first reason, kept clips are in the current version,
failed, or wait for encoding, the version's samples are kept or leave it, and hours in are those of all clips and of what lies between.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from preprocessing.dataset import Dataset
from preprocessing.report.columns import Ints, rows_at
from preprocessing.report.funnel import hours_funnel
from preprocessing.report.histograms import Histogram, histograms
from preprocessing.report.page import BorderCards, Report, render, sentence
from preprocessing.report.settings import ReportSettings
from preprocessing.report.sheets import BORDERLINE, EXAMPLES, KEPT, ClipCard, borders, cards, kept_rows, reason_rows
from preprocessing.report.summary import DatasetSummary, summarize
from preprocessing.report.work import encode_failures, work_of


def write_report(dataset: Dataset, settings: ReportSettings) -> DatasetSummary:
    """Write the JSON and the page; nothing is written that says what it said before."""
    report = collect(dataset, settings)
    for key, content in {
        "report/report.json": (json.dumps(report_json(report), indent=2, ensure_ascii=False) + "\n").encode(),
        "report/index.html": render(report).encode(),
    }.items():
        if not dataset.storage.exists(key) or dataset.storage.read_bytes(key) != content:
            dataset.storage.write_atomic(key, content)
    return report.summary


def collect(dataset: Dataset, settings: ReportSettings) -> Report:
    """All that a report says, from the ledger."""
    clips = dataset.ledger.clips()
    kept, reasons, near = kept_rows(clips, KEPT), reason_rows(clips, EXAMPLES), borders(clips, settings, BORDERLINE)
    of_borders = [rows for border in near for rows in (border.kept, border.dropped)]
    shown = _cards_by_row(dataset, clips, [kept, *reasons.values(), *of_borders])
    return Report(
        name=PurePosixPath(dataset.storage.uri).name,
        summary=summarize(dataset),
        funnel=hours_funnel(dataset.ledger.sources(), clips, dataset.ledger.transitions(), settings.clips),
        histograms=histograms(clips, settings),
        work=work_of(dataset, settings),
        kept=_pick(shown, kept),
        encode_failures=encode_failures(dataset, clips),
        reasons={name: _pick(shown, rows) for name, rows in reasons.items()},
        borders=[
            BorderCards(
                threshold=border.threshold,
                score=border.score,
                kept=_pick(shown, border.kept),
                dropped=_pick(shown, border.dropped),
            )
            for border in near
        ],
    )


def _cards_by_row(dataset: Dataset, clips: pa.Table, groups: Sequence[Ints]) -> dict[int, ClipCard]:
    rows = np.unique(np.concatenate(groups)).astype(np.int64)
    return dict(zip(rows.tolist(), cards(dataset, rows_at(clips, rows)), strict=True))


def _pick(shown: Mapping[int, ClipCard], rows: Ints) -> list[ClipCard]:
    return [shown[row] for row in rows.tolist()]


def report_json(report: Report) -> dict[str, object]:
    """The counts of `DatasetSummary`, and beside them all else that the page shows, without pictures."""
    summary, funnel = report.summary, report.funnel
    return {
        **asdict(summary),
        "hours": asdict(funnel),
        "reasons": [
            {
                "reason": reason,
                "sentence": sentence(reason),
                "sources": summary.failed.get(reason, 0),
                "clips": summary.dropped.get(reason, 0),
                "hours": round(funnel.failed.get(reason, 0.0) + funnel.dropped.get(reason, 0.0), 9),
                "examples": _examples(report, reason),
            }
            for reason in dict.fromkeys([*summary.dropped, *summary.failed])
        ],
        "kept_examples": _ids(report.kept),
        "histograms": list(map(_histogram_json, report.histograms)),
        "borderline": [
            {
                **asdict(border.threshold),
                "score": border.score,
                "kept": _ids(border.kept),
                "dropped": _ids(border.dropped),
            }
            for border in report.borders
        ],
        "decoders": dict(report.work.decoders),
        "colours": [asdict(colours) for colours in report.work.colours],
        "stages": [asdict(stage) for stage in report.work.stages],
        "cost": asdict(report.work.cost),
        "slowest": [asdict(note) for note in report.work.slowest],
        "failed_sources": [asdict(note) for notes in report.work.failed.values() for note in notes],
        "encode_failures": [asdict(failure) for failure in report.encode_failures],
        "truncated_sources": [asdict(note) for note in report.work.truncated],
    }


def _examples(report: Report, reason: str) -> list[dict[str, str | None]]:
    """Clips that are dropped for a reason, and sources that failed for it; `clip_id` is None for a source."""
    clips = [
        (card.uri, card.clip_id, f"{card.start_s:.3f} to {card.end_s:.3f} s") for card in report.reasons.get(reason, ())
    ]
    sources = [
        (note.uri, None, note.message or sentence(reason)) for note in report.work.failed.get(reason, ())[:EXAMPLES]
    ]
    return [{"uri": uri, "clip_id": clip_id, "detail": detail} for uri, clip_id, detail in (*clips, *sources)]


def _ids(shown: Iterable[ClipCard]) -> list[str]:
    return [card.clip_id for card in shown]


def _histogram_json(histogram: Histogram) -> dict[str, object]:
    return {
        "score": histogram.view.score,
        "title": histogram.view.title,
        "edges": [round(edge, 6) for edge in histogram.edges],
        "kept": histogram.kept,
        "dropped": histogram.dropped,
        "unmeasured": histogram.unmeasured,
        "thresholds": [asdict(threshold) for threshold in histogram.thresholds],
    }
