"""The study's rows as the tables, curves and strips of a page, which keeps the words around them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.study_charts import line_chart
from benchmarks.study_pairs import PAIRS, Comparison, by_clip, compare, estimate
from benchmarks.study_rows import DATA, DIRECT, TEACHER, Row, read_rows
from benchmarks.study_strips import sheet, strip_path
from evaluation.film import encode_image

BEGIN, END = "<!-- rows: begin -->", "<!-- rows: end -->"
"""What stands between them is written by `--report`."""

TABLE_2 = ("F1 w/CT", TEACHER, "zero-MemoryPack", "Student forcing", DIRECT)
TABLE_3 = ("C", "B", TEACHER)
STAGE_2 = (DIRECT, "a step per segment", "all parameters", "no curriculum", "from scratch")
ROPE = (TEACHER, "rope f1", "rope absolute")

NAMES = {TEACHER: "MemoryPack (= A)", DIRECT: "Direct Forcing (= All)"}
"""What the paper calls them."""

GLOBAL = (
    "ref/sharpness",
    "ref/contrast",
    "ref/motion",
    "ref/motion_smoothness",
    "ref/colour_consistency",
    "ref/texture_consistency",
)
"""In the places of the paper's imaging and aesthetic quality, dynamic degree, smoothness, background and subject."""

DRIFTS = ("ref/sharpness", "ref/contrast", "ref/colour_consistency", "ref/texture_consistency")
"""In the places of the paper's four drifts."""

CURVE = "ref/contrast"


def write_report(rows_path: Path, page: Path) -> None:
    """Put the rows' tables into a page, and the pictures into ``images`` beside it.

    Raises:
        ValueError: If there are no rows, or the page has no place for them.
    """
    rows = read_rows(rows_path)
    if not rows:
        raise ValueError(f"{rows_path} holds no rows: run without --report first")
    before, after = _around(page)
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    (images / "study_curves.svg").write_text(_curves(rows), encoding="utf-8")
    (images / "study_steps.svg").write_text(_courses(rows), encoding="utf-8")
    (images / "study_strips.jpg").write_bytes(encode_image(_strips(rows_path, rows), ".jpg"))
    page.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n{END}{after}", encoding="utf-8")


def _around(page: Path) -> tuple[str, str]:
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no lines {BEGIN} and {END}: the tables go between them")
    return before, after


def tables(rows: Sequence[Row]) -> str:
    """All tables as Markdown."""
    sections = (
        ("What was run", _run(rows)),
        ("Table 2 in small", _scores(rows, TABLE_2)),
        ("Table 3 in small", _scores(rows, TABLE_3)),
        ("Direct Forcing with one thing changed", _scores(rows, STAGE_2)),
        ("Where the start image sits, and seams", _seams(rows)),
        ("Row against row", _pairs(rows)),
        ("Drift against steps and seconds", _course_table(rows)),
        ("Curves and strips", _pictures()),
    )
    return "\n".join(f"### {title}\n\n{text}\n" for title, text in sections)


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    rule = "|".join(["---"] * len(head))
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)])


def _of(rows: Iterable[Row], variant: str) -> list[Row]:
    return [row for row in rows if row.variant == variant]


def _name(variant: str) -> str:
    return NAMES.get(variant, variant)


def _run(rows: Sequence[Row]) -> str:
    """Budget, steps and what was learnt, by variant."""
    lines = [
        (_name(variant), str(len(found)), *_learnt(found))
        for variant in _variants(rows)
        if (found := _of(rows, variant))
    ]
    first = rows[0]
    head = ("row", "seeds", "optimizer steps", "seconds of one core", "held-out loss", "the same, past of one step")
    return (
        f"Budget {first.minutes:g} minutes a seed; {len(first.figures.seams)} held-out clips a seed, each continued by"
        f" {first.num_segments} segments.\n\n{_table(head, lines)}"
    )


def _variants(rows: Iterable[Row]) -> list[str]:
    """In order of their first rows."""
    return list(dict.fromkeys(row.variant for row in rows))


def _learnt(found: Sequence[Row]) -> tuple[str, ...]:
    trained = [row.training for row in found if row.training is not None]
    if not trained:
        return ("–",) * 4
    means = [fmean(values) for values in ((t.seconds for t in trained), (t.val_loss for t in trained), (t.val_loss_direct for t in trained))]  # fmt: skip
    return str(trained[0].steps), f"{means[0]:.0f}", f"{means[1]:.3f}", f"{means[2]:.3f}"


def _scores(rows: Sequence[Row], variants: Sequence[str]) -> str:
    """Global metrics as means, drifts with intervals, the real clips last."""
    lines = [
        (_name(variant), *(_value(rows, variant, name) for name in GLOBAL), *(_drift(rows, variant, n) for n in DRIFTS))
        for variant in (*variants, DATA)
    ]
    head = ("row", *(_short(name) for name in GLOBAL), *(f"Δ {_short(name)} ↓" for name in DRIFTS))
    return _table(head, lines)


def _short(metric: str) -> str:
    return metric.removeprefix("ref/").replace("_", " ")


def _value(rows: Iterable[Row], variant: str, metric: str) -> str:
    found = [value for row in _of(rows, variant) for value in row.figures.values[metric] if value is not None]
    return f"{fmean(found):.3g}" if found else "not run"


def _drift(rows: Sequence[Row], variant: str, metric: str) -> str:
    found = list(by_clip(rows, variant, metric).values())
    if not found:
        return "not run"
    mean = estimate(found)
    return f"{mean.mean:.3g} {_interval(mean.low, mean.high)}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.3g}, {high:.3g}]"


def _seams(rows: Sequence[Row]) -> str:
    lines = []
    for variant in (*ROPE, *STAGE_2, DATA):
        seams = [seam for row in _of(rows, variant) for seam in row.figures.seams]
        mean = estimate(seams) if seams else None
        shown = "not run" if mean is None else f"{mean.mean:.3f} {_interval(mean.low, mean.high)}"
        lines.append((_name(variant), shown, *(_drift(rows, variant, name) for name in DRIFTS)))
    return _table(("row", "seam", *(f"Δ {_short(name)} ↓" for name in DRIFTS)), lines)


def _pairs(rows: Sequence[Row]) -> str:
    """A line for each pair, a column for each drift."""
    lines = [
        (f"{_name(variant)} − {_name(against)}", *(_difference(compare(rows, variant, against, n)) for n in DRIFTS))
        for variant, against in PAIRS
    ]
    return _table(("pair", *(f"Δ {_short(name)}" for name in DRIFTS)), lines)


def _difference(found: Comparison | None) -> str:
    if found is None:
        return "not run"
    signs = "".join("−" if mean < 0 else "+" for mean in found.by_seed)
    mean = found.difference
    return f"{mean.mean:+.3g} {_interval(mean.low, mean.high)} p {found.p:.2g}, seeds {signs}"


def _courses_of(rows: Sequence[Row]) -> dict[str, list[tuple[float, float, float]]]:
    """By variant (steps, seconds, drift of contrast), from the teacher to the end; means over clips and seeds."""
    return {
        _name(variant): course
        for variant in ("Student forcing", DIRECT)
        if (course := _course(_of(rows, variant), _of(rows, TEACHER)))
    }


def _course(found: Sequence[Row], teachers: Sequence[Row]) -> list[tuple[float, float, float]]:
    if not found:
        return []
    start = (0.0, 0.0, _mean([row.figures.drifts[CURVE] for row in teachers]))
    on_the_way = zip(*(row.training.points for row in found if row.training is not None), strict=True)
    middle = [
        (fmean(p.steps for p in points), fmean(p.seconds for p in points), _mean([p.drifts[CURVE] for p in points]))
        for points in on_the_way
    ]
    ends = [row.training for row in found if row.training is not None]
    end = (
        fmean(t.steps for t in ends),
        fmean(t.seconds for t in ends),
        _mean([row.figures.drifts[CURVE] for row in found]),
    )
    return [start, *middle, end]


def _mean(clips: Iterable[Sequence[float | None]]) -> float:
    return fmean(value for values in clips for value in values if value is not None)


def _course_table(rows: Sequence[Row]) -> str:
    lines = [
        (name, f"{steps:.0f}", f"{seconds:.1f}", f"{drift:.3g}")
        for name, course in _courses_of(rows).items()
        for steps, seconds, drift in course
    ]
    return _table(("stage 2", "steps", "seconds of one core", f"Δ {_short(CURVE)} ↓"), lines)


def _pictures() -> str:
    return (
        "![Contrast over the generated frames](images/study_curves.svg)\n\n"
        "![Drift of contrast against seconds of training](images/study_steps.svg)\n\n"
        "Eleven frames at equal distances of the first held-out clip of seed 0:\n\n"
        "![Eleven frames of each model's video](images/study_strips.jpg)"
    )


def _curves(rows: Sequence[Row]) -> str:
    lines = {
        _name(variant): np.mean([row.figures.curves[CURVE] for row in found], axis=0).tolist()
        for variant in (DATA, *TABLE_2)
        if (found := _of(rows, variant))
    }
    return line_chart(lines, title="Contrast of the picture", x_name="share of the generated frames")


def _courses(rows: Sequence[Row]) -> str:
    courses = _courses_of(rows)
    lines = {name: [(seconds, drift) for _, seconds, drift in course] for name, course in courses.items()}
    return line_chart(lines, title="Drift of contrast", x_name="seconds of training in stage 2, one core")


def _strips(rows_path: Path, rows: Sequence[Row]) -> np.ndarray:
    names = [row.variant for row in rows if row.seed == 0]
    return sheet([_name(name) for name in names], [strip_path(rows_path, 0, name) for name in names])
