"""What a dataset holds and why the rest was left out: ``report/report.json`` and one HTML page with pictures.

Everything comes from the ledger; nothing is decoded. The numbers reconcile: sources are ok or failed, clips are kept or
dropped for one first reason, kept clips are samples, failed, or wait for encoding.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import Dataset, inspect_table
from preprocessing.reasons import SENTENCES, Reason
from preprocessing.samples import Thumbnail, Verdict

EXAMPLES = 8
"""Clips shown for each reason."""

FAILURES = 100
"""Failed sources that the page names; the JSON counts all."""


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


def summarize(dataset: Dataset) -> DatasetSummary:
    """Count what the dataset holds now."""
    sources, clips, samples = (inspect_table(dataset, name) for name in ("sources", "clips", "samples"))
    ok, kept = _where(sources, "status", "ok"), _where(clips, "decision", Verdict.KEEP)
    failed, dropped = _where(sources, "status", "failed"), _where(clips, "decision", Verdict.DROP)
    sampled, kept_ids = set(samples["clip_id"].to_pylist()), set(kept["clip_id"].to_pylist())
    encode_failed = {clip_id for record in dataset.ledger.encodes() for clip_id in record.failed} & kept_ids - sampled
    return DatasetSummary(
        sources=sources.num_rows,
        sources_ok=ok.num_rows,
        failed=_counts(failed["reason"].to_pylist()),
        truncated=_where(ok, "reason", Reason.TRUNCATED).num_rows,
        source_hours=_hours(ok["duration_s"]),
        clips=clips.num_rows,
        kept=kept.num_rows,
        dropped=_counts(pc.list_element(dropped["reasons"], 0).to_pylist()),
        kept_hours=_hours(pc.subtract(kept["end_s"], kept["start_s"])),
        samples=len(sampled & kept_ids),
        encode_failed=len(encode_failed),
        waiting=len(kept_ids - sampled - encode_failed),
        segments=int(pc.sum(samples["num_segments"]).as_py() or 0),
        splits=_counts(samples["split"].to_pylist()),
        shards=len(set(samples["shard"].to_pylist())),
        manifest=dataset.record().manifest,
    )


def _where(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.field(column) == str(value))


def _counts(values: Iterable[object]) -> dict[str, int]:
    return dict(sorted(Counter(map(str, values)).items(), key=lambda item: (-item[1], item[0])))


def _hours(seconds: pa.ChunkedArray) -> float:
    return round((pc.sum(seconds).as_py() or 0.0) / 3600, 6)


def write_report(dataset: Dataset) -> None:
    """Write the JSON and the page; nothing is written that says what it said before."""
    summary = summarize(dataset)
    data = json.dumps(asdict(summary), indent=2, ensure_ascii=False).encode() + b"\n"
    for key, content in {
        "report/report.json": data,
        "report/index.html": "".join(_page(dataset, summary)).encode(),
    }.items():
        if not dataset.storage.exists(key) or dataset.storage.read_bytes(key) != content:
            dataset.storage.write_atomic(key, content)


@dataclass(frozen=True, kw_only=True)
class _Example:
    clip_id: str
    uri: str
    title: str
    thumbnail: Thumbnail | None


def _examples(dataset: Dataset) -> dict[str, list[_Example]]:
    """Some clips for each first reason, and for `keep`, spread evenly over the dataset."""
    groups: dict[str, list[dict]] = {}
    for row in inspect_table(dataset, "clips").to_pylist():
        groups.setdefault(row["reasons"][0] if row["reasons"] else str(Verdict.KEEP), []).append(row)
    chosen = {name: _spread(rows, EXAMPLES) for name, rows in groups.items()}
    pictures = _pictures(dataset, [row for rows in chosen.values() for row in rows])
    return {name: [_example(row, pictures.get(row["clip_id"])) for row in rows] for name, rows in chosen.items()}


def _spread(rows: Sequence[dict], number: int) -> list[dict]:
    if len(rows) <= number:
        return list(rows)
    return [rows[i * len(rows) // number] for i in range(number)]


def _pictures(dataset: Dataset, rows: Sequence[dict]) -> dict[str, Thumbnail]:
    """The stored picture nearest to each clip's middle."""
    wanted: dict[str, list[dict]] = {}
    for row in rows:
        wanted.setdefault(row["source_id"], []).append(row)
    found: dict[str, Thumbnail] = {}
    for source_id, thumbnails in dataset.ledger.iterate_thumbnails(set(wanted)):
        for row in wanted[source_id] if thumbnails else ():
            middle = (row["start_frame"] + row["end_frame"]) // 2
            found[row["clip_id"]] = min(thumbnails, key=lambda t, middle=middle: abs(t.frame - middle))
    return found


def _example(row: dict, thumbnail: Thumbnail | None) -> _Example:
    dynamism = "" if row["dynamism"] is None else f", dynamism {row['dynamism']:.2f}"
    title = (
        f"{row['uri']}, {row['start_s']:.1f} to {row['end_s']:.1f} s{dynamism}; {', '.join(row['reasons']) or 'kept'}"
    )
    return _Example(clip_id=row["clip_id"], uri=row["uri"], title=title, thumbnail=thumbnail)


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}figure{display:inline-block;margin:.3rem;width:160px;vertical-align:top}
figure img,figure div{width:160px;min-height:60px;background:#ddd;border-radius:4px}
figcaption{font-size:11px;overflow-wrap:anywhere;line-height:1.3}code{background:#f3f3f3}"""


def _page(dataset: Dataset, summary: DatasetSummary) -> Iterator[str]:
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>longtake dataset</title><style>{_STYLE}</style>"
    yield "<h1>What is in this dataset</h1>"
    yield from _funnel(summary)
    examples = _examples(dataset)
    yield f"<h2>Kept: {summary.kept} clips, {summary.kept_hours:.2f} h</h2>"
    yield from _figures(examples.get(str(Verdict.KEEP), []))
    yield "<h2>Dropped clips, by first reason</h2>"
    for reason, number in summary.dropped.items():
        yield f"<h3>{number} {escape(reason)}: {escape(_sentence(reason))}</h3>"
        yield from _figures(examples.get(reason, []))
    yield from _failures(dataset, summary)
    yield "</html>\n"


def _sentence(reason: str) -> str:
    return SENTENCES[Reason(reason)]


def _funnel(summary: DatasetSummary) -> Iterator[str]:
    steps = [
        ("sources seen", summary.sources, f"{sum(summary.failed.values())} failed"),
        ("sources that decode", summary.sources_ok, f"{summary.source_hours:.2f} h; {summary.truncated} truncated"),
        ("clip candidates", summary.clips, f"{sum(summary.dropped.values())} dropped"),
        ("clips kept", summary.kept, f"{summary.kept_hours:.2f} h"),
        ("samples encoded", summary.samples, f"{summary.encode_failed} failed, {summary.waiting} waiting"),
        ("segments", summary.segments, ", ".join(f"{n} samples in {split}" for split, n in summary.splits.items())),
        ("shards", summary.shards, f"version <code>{(summary.manifest or 'none')[:12]}</code>"),
    ]
    yield "<table>"
    yield from (f"<tr><th>{name}</th><td class=n>{number}</td><td>{note}</td></tr>" for name, number, note in steps)
    yield "</table>"


def _figures(examples: Iterable[_Example]) -> Iterator[str]:
    for example in examples:
        picture = "<div></div>"
        if example.thumbnail is not None:
            data = base64.b64encode(example.thumbnail.jpeg).decode()
            picture = f'<img alt="" src="data:image/jpeg;base64,{data}">'
        yield f"<figure>{picture}<figcaption>{escape(example.title)}</figcaption></figure>"


def _failures(dataset: Dataset, summary: DatasetSummary) -> Iterator[str]:
    yield "<h2>Failed sources</h2><table><tr><th>reason</th><th></th><th>source</th><th>message</th></tr>"
    failed = _where(inspect_table(dataset, "sources"), "status", "failed")
    for row in failed.slice(0, FAILURES).to_pylist():
        cells = (row["reason"], _sentence(row["reason"]), row["uri"], row["message"])
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table>"
    if failed.num_rows > FAILURES:
        yield f"<p>and {failed.num_rows - FAILURES} more; see <code>longtake inspect DIR sources</code></p>"
    yield from (f"<p>{number} {escape(reason)}</p>" for reason, number in summary.failed.items())
