"""One HTML page that needs nothing else: images and charts are inside, nothing is fetched."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

from evaluation.config import EvaluateConfig
from evaluation.drift import window_length
from evaluation.metrics.catalogue import METRICS, WEIGHTED
from evaluation.types import DriftScores, Estimate, MetricScore, MetricSummary, Provenance, Skipped, Still, VideoScores

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}td.why{text-align:left;color:#777}.quiet{color:#777}.failed{color:#a00}
.strip{display:flex;gap:4px;flex-wrap:wrap}.strip figure{margin:0;border:4px solid transparent}
.strip img{display:block;max-width:176px}.strip figcaption{font-size:12px;color:#555}
.strip .start{border-color:#2a7}.strip .end{border-color:#c52}.strip .given{border:4px dashed #999}
.charts{display:flex;flex-wrap:wrap;gap:12px}.charts figure{margin:0}.charts figcaption{font-size:12px}
"""

_CHART_PX = (220, 80)
"""Width and height of a drift curve."""


def render(videos: Sequence[VideoScores], summary: Sequence[MetricSummary], settings: EvaluateConfig) -> str:
    """The whole page."""
    sections = [
        f"<h1>{len(videos)} videos</h1>",
        _protocol(videos, settings),
        "<h2>All videos</h2>",
        _summary_table(summary, settings),
        _not_computed(),
        *(_video(video, settings) for video in videos),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>longtake: evaluation</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


WEIGHTS = "model.weights_sha256"
"""Under this name the record beside a video names the weights that made it."""


def origin(provenance: Provenance) -> str:
    """Which codec and weights made a video, as far as its record says."""
    keys = {"codec": "model.codec_id", "model": "model.preset", "weights": WEIGHTS}
    known = {word: provenance.details[key][:16] for word, key in keys.items() if key in provenance.details}
    return ", ".join(f"{word} {value}" for word, value in known.items()) or "codec and weights unknown"


def _protocol(videos: Sequence[VideoScores], settings: EvaluateConfig) -> str:
    scored = [video.provenance for video in videos if video.provenance is not None]
    origins = sorted({origin(provenance) for provenance in scored})
    assumed = sum(not provenance.recorded for provenance in scored)
    lines = [
        f"{len(videos) - len(scored)} of {len(videos)} could not be read",
        f"made with: {'; '.join(origins) or 'nothing that could be read'}",
        "metrics: ref/*, which need no weights; they are not comparable with VBench's numbers or the paper's tables",
        f"drift (paper, eq. 8): first against last {settings.window_share:.0%} of the generated frames in order of "
        "generation, absolute per video, then the mean; the floor is the first window against the next one",
        f"order of generation assumed to be that of time in {assumed} of {len(scored)}, which have no record beside them",
        f"frames scaled to {settings.short_side_px} px on the shorter side where they are larger",
        f"intervals: {settings.confidence:.0%} over videos, bootstrap (BCa, {settings.resamples} resamples, seed "
        f"{settings.seed}); Wilson for metrics that are 0 or 1",
    ]
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _summary_table(summary: Sequence[MetricSummary], settings: EvaluateConfig) -> str:
    sentences = {metric.name: metric.sentence for metric in METRICS}
    share = f"{settings.window_share:.0%}"
    head = ("metric", "value", "n", f"drift |first − last {share}|", "floor", "last − first", "n", "")
    rows = [
        (
            escape(row.name),
            *_estimate(row.value),
            _estimate(row.absolute)[0],
            _estimate(row.floor)[0],
            *_estimate(row.signed),
            f'<span class="quiet">{escape(sentences[row.name])}</span>',
        )
        for row in summary
    ]
    return _table(head, rows)


def _estimate(value: Estimate | Skipped) -> tuple[str, str]:
    """Value with interval, and the number of videos."""
    if isinstance(value, Skipped):
        return f'<span class="quiet" title="{escape(value.why)}">skipped: {escape(value.why)}</span>', "0"
    if value.low is None or value.high is None:
        return f"{value.mean:.4g}", str(value.n)
    return f"{value.mean:.4g} [{value.low:.4g}, {value.high:.4g}]", str(value.n)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _not_computed() -> str:
    items = "".join(f"<li>{escape(name)}: skipped, {escape(why)}</li>" for name, why in WEIGHTED.items())
    return f"<h3>Not computed</h3><ul>{items}</ul>"


def _video(video: VideoScores, settings: EvaluateConfig) -> str:
    title = f"<h2>{escape(video.name)}</h2>"
    if video.measured is None or video.provenance is None:
        return f'{title}<p class="failed">failed: {escape(video.failure)}</p>'
    measured, facts = video.measured, video.measured.facts
    parts = [
        f"{measured.num_frames} frames, {facts.fps:.4g} fps, {facts.source_width_px} × {facts.source_height_px}",
        f"order of generation {video.provenance.note}",
        origin(video.provenance),
    ]
    if measured.truncated:
        parts.append("the file ends before its declared end")
    return (
        f"{title}<p>{escape('; '.join(parts))}</p>{_strip(measured.stills, video.provenance, settings)}"
        f"{_curves(video.scores)}{_details(video)}"
    )


def _strip(stills: Sequence[Still], provenance: Provenance, settings: EvaluateConfig) -> str:
    """Frames over time; those of the first and the last window are framed."""
    k = window_length(settings.window_share, len(provenance.generated))
    start, end = provenance.generated[:k], provenance.generated[-k:]
    figures = []
    for still in stills:
        kind = "start" if still.frame in start else "end" if still.frame in end else "middle"
        kind = kind if np.isin(still.frame, provenance.generated) else "given"
        image = base64.b64encode(still.jpeg).decode()
        caption = f"{still.timestamp_s:.2f} s{' (given)' if kind == 'given' else ''}"
        figures.append(
            f'<figure class="{kind}"><img alt="frame {still.frame}" src="data:image/jpeg;base64,{image}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    share = f"{settings.window_share:.0%}"
    legend = f"green: the first {share} generated; red: the last {share}; dashed: given, not generated"
    return f'<div class="strip">{"".join(figures)}</div><p class="quiet">{legend}</p>'


def _curves(scores: Mapping[str, MetricScore]) -> str:
    figures = [
        f"<figure>{curve_svg(score.drift.curve)}<figcaption>{escape(name)}: {_moved(score.drift)}</figcaption></figure>"
        for name, score in scores.items()
        if isinstance(score.drift, DriftScores)
    ]
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _moved(drift: DriftScores) -> str:
    return f"{drift.start:.4g} → {drift.end:.4g} (floor {drift.floor:.2g})"


def curve_svg(points: Sequence[tuple[float, float]]) -> str:
    """A drift curve over the share of generated frames; the scale is its own range, which stands beside it."""
    width, height = _CHART_PX
    if not points:
        return '<p class="quiet">too short for a curve</p>'
    low, high = min(value for _, value in points), max(value for _, value in points)
    middle, reach = (low + high) / 2, max((high - low) / 2, 1e-3 * abs(low + high), 1e-9)
    path = " ".join(
        f"{share * width:.1f},{height / 2 - (value - middle) / reach * (height / 2 - 12):.1f}"
        for share, value in points
    )
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="drift curve">'
        f'<rect width="{width}" height="{height}" fill="#f6f6f6"/>'
        f'<polyline points="{path}" fill="none" stroke="#35c" stroke-width="1.5"/>'
        f'<text x="3" y="10" font-size="10" fill="#777">{high:.4g}</text>'
        f'<text x="3" y="{height - 3}" font-size="10" fill="#777">{low:.4g}</text></svg>'
    )


def _details(video: VideoScores) -> str:
    rows = [(escape(name), _value(score.value), _drift(score.drift)) for name, score in video.scores.items()]
    table = _table(("metric", "whole video", "last − first generated"), rows)
    made = video.provenance.details if video.provenance else {}
    made_rows = [(escape(key), escape(value)) for key, value in made.items()]
    record = _table(("how it was made", ""), made_rows) if made_rows else ""
    return f"<details><summary>numbers</summary>{table}{record}</details>"


def _value(value: float | Skipped) -> str:
    return f'<span class="quiet">skipped: {escape(value.why)}</span>' if isinstance(value, Skipped) else f"{value:.5g}"


def _drift(drift: DriftScores | Skipped) -> str:
    return _value(drift) if isinstance(drift, Skipped) else _value(drift.signed)
