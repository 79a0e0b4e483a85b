"""Charts as inline SVG and HTML; their colours are the page's classes, so that they follow light and dark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from preprocessing.report.histograms import Histogram, Threshold

WIDTH, HEIGHT = 360, 150
"""Of a histogram, in its own units."""

_PLOT_TOP, _PLOT_BOTTOM = 26, 122
_TICKS = 4


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A step of the funnel.

    Attributes:
        kind: CSS class: total, kept, dropped, rest or part.
        start: Where it begins on the axis.
        length: How long it is.
        note: Right of it.
    """

    label: str
    kind: str
    start: float
    length: float
    note: str


def waterfall(bars: Sequence[Bar]) -> str:
    """Bars that begin where the one above ended, so that what is lost on the way is seen."""
    full = max((bar.start + bar.length for bar in bars), default=0.0) or 1.0
    return f'<div class="funnel">{"".join(_bar(bar, full) for bar in bars)}</div>'


def _bar(bar: Bar, full: float) -> str:
    start, length = 100 * bar.start / full, 100 * bar.length / full
    return (
        f'<div class="name">{escape(bar.label)}</div><div class="track"><div class="bar {bar.kind}" '
        f'style="margin-left:{start:.3f}%;width:{length:.3f}%"></div></div><div class="note">{escape(bar.note)}</div>'
    )


def histogram_svg(histogram: Histogram) -> str:
    """Kept clips below, dropped clips on top of them, thresholds as dashed lines."""
    highest = max(map(sum, zip(histogram.kept, histogram.dropped, strict=True)))
    parts = [
        *_bars(histogram, highest),
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{_PLOT_BOTTOM}" y2="{_PLOT_BOTTOM}"/>',
        *_ticks(histogram),
        *_limits(histogram),
    ]
    title = escape(f"{histogram.view.title}: {sum(histogram.kept)} kept, {sum(histogram.dropped)} dropped")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def _bars(histogram: Histogram, highest: int) -> Iterable[str]:
    scale = (_PLOT_BOTTOM - _PLOT_TOP) / max(highest, 1)
    for i, (kept, dropped) in enumerate(zip(histogram.kept, histogram.dropped, strict=True)):
        left, right = (_across(histogram, histogram.edges[k]) for k in (i, i + 1))
        low, high = histogram.edges[i : i + 2]
        says = f"<title>{_number(low)} to {_number(high)}: {kept} kept, {dropped} dropped</title>"
        for kind, below, number in (("kept", 0, kept), ("dropped", kept, dropped)):
            if number:
                height = max(number * scale, 1.5)  # one clip among a million is still seen
                y = _PLOT_BOTTOM - below * scale - height
                yield (
                    f'<rect class="{kind}" x="{left:.1f}" y="{y:.1f}" width="{max(right - left - 0.8, 0.8):.1f}" '
                    f'height="{height:.1f}">{says}</rect>'
                )


def _across(histogram: Histogram, value: float) -> float:
    """Where a value stands on the axis."""
    low, high = histogram.edges[0], histogram.edges[-1]
    if histogram.view.by_factor:
        low, high, value = np.log(low), np.log(high), np.log(max(value, low))
    return float((value - low) / (high - low) * WIDTH)


def _ticks(histogram: Histogram) -> Iterable[str]:
    low, high = histogram.edges[0], histogram.edges[-1]
    spread = np.geomspace if histogram.view.by_factor else np.linspace
    for i, value in enumerate(spread(low, high, _TICKS)):
        anchor = "start" if i == 0 else "end" if i == _TICKS - 1 else "middle"
        yield f'<text x="{_across(histogram, value):.1f}" y="{_PLOT_BOTTOM + 16}" text-anchor="{anchor}">{_number(value)}</text>'


def _limits(histogram: Histogram) -> Iterable[str]:
    for limit in histogram.thresholds:
        x = _across(histogram, limit.value) if limit.value > 0 or not histogram.view.by_factor else 0.0
        if 0 <= x <= WIDTH:
            anchor = "start" if x < WIDTH / 2 else "end"
            yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{_PLOT_TOP - 8}" y2="{_PLOT_BOTTOM}"/>'
            yield f'<text class="limit" x="{x + (5 if anchor == "start" else -5):.1f}" y="{_PLOT_TOP - 12}" text-anchor="{anchor}">{escape(limit_name(limit))}</text>'


def limit_name(limit: Threshold) -> str:
    """The setting without its section, and its value."""
    return f"{limit.setting.partition('.')[2]} {limit.value:g}"


def _number(value: float) -> str:
    return f"{value:.3g}"
