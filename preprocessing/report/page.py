"""The report's page: one file, no network, no script."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from preprocessing.reasons import SENTENCES, Reason
from preprocessing.report.charts import Bar, histogram_svg, waterfall
from preprocessing.report.funnel import HoursFunnel
from preprocessing.report.histograms import Histogram, Threshold
from preprocessing.report.parts import counted, document, hours, number, sheet, table
from preprocessing.report.sheets import ClipCard
from preprocessing.report.summary import DatasetSummary
from preprocessing.report.work import Colours, EncodeFailure, SourceNote, Work

NOTHING_BETWEEN: Mapping[str, str] = {
    "transitions": "in transitions, where two shots mix",
    "guard": "kept away from transitions (clips.guard_s)",
    "remainders": "ends of shots, too short for a clip of their own",
    "left_out": "in shots that clips.policy leaves out",
}
"""What becomes of frames that lie in no clip, in words."""


@dataclass(frozen=True, kw_only=True)
class BorderCards:
    """The clips nearest to a threshold, with pictures."""

    threshold: Threshold
    score: str
    kept: Sequence[ClipCard]
    dropped: Sequence[ClipCard]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows."""

    name: str
    summary: DatasetSummary
    funnel: HoursFunnel
    histograms: Sequence[Histogram]
    work: Work
    kept: Sequence[ClipCard]
    reasons: Mapping[str, Sequence[ClipCard]]
    encode_failures: Sequence[EncodeFailure]
    borders: Sequence[BorderCards]


def render(report: Report) -> str:
    """The page."""
    return document(f"{report.name}: what is kept", _body(report))


def _body(report: Report) -> Iterator[str]:
    yield from _head(report)
    yield from _funnel(report)
    yield from _reasons(report)
    yield f"<h2>Kept: {counted(report.summary.kept, 'clip')}, {hours(report.funnel.kept)}</h2>"
    yield sheet(report.kept) if report.kept else '<p class="quiet">No clip is kept.</p>'
    yield from _encode_failures(report)
    yield from _scores(report)
    yield from _borders(report)
    yield from _sources(report)
    yield from _work(report.work)


def _head(report: Report) -> Iterator[str]:
    s, f = report.summary, report.funnel
    version = f"version <code>{s.manifest[:12]}</code>" if s.manifest else "nothing encoded yet"
    yield f'<h1>{escape(report.name)}</h1><p class="quiet">What this dataset holds and why the rest was left out; {version}.</p>'
    tiles = [
        (counted(s.sources, "source"), f"{number(s.sources_ok)} decoded, {number(sum(s.failed.values()))} failed"),
        (hours(f.total), "of video went in"),
        (hours(f.kept), f"kept{_share(f.kept, f.total)}"),
        (
            counted(s.kept, "clip"),
            f"kept of {number(s.clips)}: {number(s.in_version)} in the version, {number(s.encode_failed)} failed to encode, "
            f"{number(s.waiting)} waiting",
        ),
        (
            counted(s.samples, "sample"),
            f"in the version: {hours(s.sample_hours)} in {counted(s.shards, 'shard')}{_leaving(s.leaving)}",
        ),
        (
            counted(s.segments, "segment"),
            ", ".join(f"{number(n)} samples {split}" for split, n in s.splits.items()) or "none yet",
        ),
    ]
    yield (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{big}</b><span>{small}</span></div>' for big, small in tiles)
        + "</div>"
    )


def _leaving(number_of: int) -> str:
    left = f"{number(number_of)} no longer kept, until <code>longtake encode</code> names the next version"
    return f"; {left}" if number_of else ""


def _share(part: float, whole: float) -> str:
    return f", {part / whole:.0%}" if whole else ""


def _funnel(report: Report) -> Iterator[str]:
    yield "<h2>From hours in to hours kept</h2>"
    yield f'<div class="panel">{waterfall(funnel_bars(report.funnel))}</div>'


def funnel_bars(funnel: HoursFunnel) -> list[Bar]:
    """From the top: all, what was lost on the way, what is kept; each begins where the one above ended, from the right."""
    losses = [
        *((f"failed: {reason}", "rest", value) for reason, value in funnel.failed.items()),
        *((words, "rest", float(getattr(funnel, name))) for name, words in NOTHING_BETWEEN.items()),
        *((f"dropped: {reason}", "dropped", value) for reason, value in funnel.dropped.items()),
    ]
    bars, left = [_hours_bar("went in", "total", 0.0, funnel.total, funnel.total)], funnel.total
    for label, kind, value in losses:
        if value > 0:
            left -= value
            bars.append(_hours_bar(label, kind, max(left, 0.0), value, funnel.total))
    return [*bars, _hours_bar("kept", "kept", 0.0, funnel.kept, funnel.total)]


def _hours_bar(label: str, kind: str, start: float, value: float, total: float) -> Bar:
    share = f", {100 * value / total:.3g} %" if total else ""
    return Bar(label=label, kind=kind, start=start, length=value, note=hours(value) + share)


def _reasons(report: Report) -> Iterator[str]:
    yield "<h2>Why clips were dropped</h2>"
    if not report.summary.dropped:
        yield '<p class="quiet">No clip was dropped.</p>'
    for reason, count in report.summary.dropped.items():
        lost = hours(report.funnel.dropped.get(reason, 0.0))
        yield f'<h3>{number(count)} {escape(reason)}: {escape(sentence(reason))} <span class="quiet">({lost})</span></h3>'
        yield sheet(report.reasons.get(reason, ()))


def sentence(reason: str) -> str:
    """The reason for people."""
    return SENTENCES[Reason(reason)]


def _encode_failures(report: Report) -> Iterator[str]:
    failed, named = report.summary.encode_failed, report.encode_failures
    if failed:
        yield f"<h3>{number(failed)} {Reason.ENCODE_FAILED}: {sentence(Reason.ENCODE_FAILED)}</h3>"
        yield from table(("source", "clip", "message"), [(one.uri, one.clip_id, one.message) for one in named])
        yield from _more(failed - len(named), "shards")


def _scores(report: Report) -> Iterator[str]:
    yield f'<h2>Scores and thresholds</h2>{_KEY}<div class="charts">{"".join(map(_panel, report.histograms))}</div>'


_KEY = '<p class="quiet">Clips: <span class="key kept"></span>kept <span class="key dropped"></span>dropped; dashed: the threshold.</p>'


def _panel(histogram: Histogram) -> str:
    missing = f'<p class="quiet">{counted(histogram.unmeasured, "clip")} without it</p>' if histogram.unmeasured else ""
    return f'<div class="panel"><h3>{escape(histogram.view.title)}</h3>{histogram_svg(histogram)}{missing}</div>'


def _borders(report: Report) -> Iterator[str]:
    yield "<h2>The clips nearest to the thresholds</h2>"
    yield (
        '<p class="quiet">Kept by the smallest margin, and dropped by it. Try another value without decoding: '
        "<code>longtake plan --dataset DIR --dry-run --set decide.min_dynamism=1.0 --sheet changes.html</code></p>"
    )
    for border in report.borders:
        limit, both = border.threshold, border.kept and border.dropped
        if border.kept or border.dropped:
            side = f"{limit.drops} it a clip is {escape(limit.reason)}"
            found = f"{number(len(border.dropped))} dropped, {number(len(border.kept))} kept"
            yield f"<details{' open' if both else ''}><summary><code>{limit.setting}</code> = {limit.value:g}: {side}; {found}</summary>"
            yield sheet([*border.dropped, *border.kept], scores=(border.score,)) + "</details>"


def _sources(report: Report) -> Iterator[str]:
    work = report.work
    yield "<h2>Sources</h2><h3>What decoded them</h3>"
    yield from table(("decoder", "sources", "hours"), [(n, k, work.decoder_hours[n]) for n, k in work.decoders.items()])
    yield "<h3>How their colours are coded</h3>"
    yield from table(("transfer", "", "sources", "hours", "such as"), map(_colour_row, work.colours))
    if report.summary.failed:
        yield f"<h3>{number(sum(report.summary.failed.values()))} failed</h3>"
    for reason, count in report.summary.failed.items():
        yield from _named(f"{number(count)} {reason}: {sentence(reason)}", count, work.failed[reason])
    if report.summary.truncated:
        said = f"{counted(report.summary.truncated, 'source')} ended before the declared end; what decoded was used"
        yield from _named(said, report.summary.truncated, work.truncated)
    if work.slowest:
        yield "<h3>Slowest to scan</h3>"
        yield from table(("source", "CPU s", "video s", "CPU s per video s"), map(_slow_row, work.slowest))


def _named(words: str, count: int, notes: Sequence[SourceNote]) -> Iterator[str]:
    yield f"<details open><summary>{escape(words)}</summary>"
    yield from table(("source", "message"), [(note.uri, note.message) for note in notes])
    yield from _more(count - len(notes), "sources")
    yield "</details>"


def _more(count: int, place: str) -> Iterator[str]:
    """How many are not named here, and the table that names them."""
    if count > 0:
        yield f'<p class="quiet">and {number(count)} more: <code>longtake inspect DIR {place}</code></p>'


def _colour_row(colours: Colours) -> tuple[object, ...]:
    said = "HDR, not tone-mapped" if colours.is_hdr else ""
    return colours.transfer or "not said", said, colours.sources, colours.hours, ", ".join(colours.examples)


def _slow_row(note: SourceNote) -> tuple[object, ...]:
    ratio = note.cpu_s / note.duration_s if note.cpu_s is not None and note.duration_s else None
    return note.uri, note.cpu_s, note.duration_s, ratio


def _work(work: Work) -> Iterator[str]:
    yield "<h2>Work and cost</h2>"
    if work.stages:
        yield from table(
            ("step", "tasks", "CPU hours", "worker hours", "hours of video", "GB", "hours of video per CPU hour"),
            [(s.name, s.tasks, s.cpu_hours, s.wall_hours, s.video_hours, s.size_gb, s.speed) for s in work.stages],
        )
        yield '<p class="quiet">GB: of files read by scan, of shards written by encode. Worker hours: on the workers\' clocks, together.</p>'
    yield "<h3>Cost, by the recipe's prices</h3>"
    yield from table(
        ("what", "cost"),
        [
            ("scanning and encoding so far", work.cost.time),
            ("the same, for an hour of samples", work.cost.time_per_sample_hour),
            ("keeping the shards for a month", work.cost.storage_per_month),
        ],
    )
