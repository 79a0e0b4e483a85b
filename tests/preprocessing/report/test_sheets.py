from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from preprocessing import rows
from preprocessing.dataset import Dataset
from preprocessing.report.changes import changes, render_changes
from preprocessing.report.charts import histogram_svg
from preprocessing.report.histograms import Histogram, histograms
from preprocessing.report.sheets import Border, borders, cards, kept_rows, reason_rows
from tests.preprocessing.report.test_write import SETTINGS, Page, dataset  # noqa: F401 - a fixture
from tests.preprocessing.test_ledger import A

SCORES = ("active_share", "dynamism", "source_fps")


def table(dynamism: list[float | None], reasons: list[list[str]]) -> pa.Table:
    """Clips of source A with these scores; those with reasons are dropped."""
    columns = {
        "clip_id": [f"c{i}" for i in range(len(dynamism))],
        "source_id": [A.source_id] * len(dynamism),
        "num_segments": [1] * len(dynamism),
        "scores": [{"dynamism": value, "source_fps": 24.0} for value in dynamism],
        "decision": ["drop" if one else "keep" for one in reasons],
        "reasons": reasons,
    }
    scores = pa.struct([(name, pa.float64()) for name in SCORES])
    fields = [pa.field(name, scores) if name == "scores" else rows.CLIPS.field(name) for name in columns]
    return pa.table(columns, schema=pa.schema(fields))


def border(clips: pa.Table, setting: str, number: int = 2) -> Border:
    return next(found for found in borders(clips, SETTINGS, number) if found.threshold.setting == setting)


def test_at_a_threshold_stand_the_nearest_clips_from_both_sides() -> None:
    values = [9.0, 1.3, 1.4, 1.1, 0.2, 1.0, 1.19, None]
    reasons = [[], [], [], ["static"], ["black", "static"], ["static"], ["slideshow"], []]
    found = border(table(values, reasons), "decide.min_dynamism")
    assert found.kept.tolist() == [1, 2]
    assert found.dropped.tolist() == [3, 5]  # 1.19 was dropped for another reason


def test_a_clip_that_another_threshold_dropped_is_not_at_this_one() -> None:
    found = border(table([50.0, 0.1], [["static"], ["static"]]), "decide.min_dynamism")
    assert found.dropped.tolist() == [1]


def test_however_many_clips_there_are_few_are_shown_and_from_everywhere() -> None:
    clips = table([2.0] * 1000 + [0.1] * 500, [[]] * 1000 + [["static"]] * 500)
    assert kept_rows(clips, 4).tolist() == [0, 250, 500, 750]
    assert {name: rows.tolist() for name, rows in reason_rows(clips, 2).items()} == {"static": [1000, 1250]}


def histogram(clips: pa.Table, score: str) -> Histogram:
    return next(found for found in histograms(clips, SETTINGS) if found.view.score == score)


def test_every_clip_is_in_a_bar_or_unmeasured_and_the_threshold_is_drawn() -> None:
    rng = np.random.default_rng(0)
    values = [*rng.lognormal(1, 1, 300), 0.0, 5000.0, None]
    clips = table(values, [[] if value is None or value >= 1.2 else ["static"] for value in values])
    found = histogram(clips, "dynamism")
    assert sum(found.kept) + sum(found.dropped) == 302
    assert found.unmeasured == 1
    assert found.edges[0] <= 1.2 <= found.edges[-1]
    assert "min_dynamism 1.2" in histogram_svg(found)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [3.0], [1e-9, 1e9]])
def test_odd_values_are_drawn_too(values: list[float | None]) -> None:
    clips = table(values, [[]] * len(values))
    assert all("nan" not in histogram_svg(found) for found in histograms(clips, SETTINGS))


def test_a_score_that_nobody_measured_has_no_histogram() -> None:
    assert "active_share" not in [found.view.score for found in histograms(table([1.0], [[]]), SETTINGS)]


def test_pictures_lie_inside_their_clip_where_there_are_any(dataset: Dataset) -> None:  # noqa: F811
    clips = dataset.ledger.clips()
    first = cards(dataset, clips.slice(0, 1))[0]
    assert first.uri == "videos/a.mp4"
    assert len(first.pictures) == 1  # frames 0, 50 and 100 have pictures, the clip ends at 37
    other = cards(dataset, clips.filter(pa.compute.equal(clips["source_id"], "b000000000000000")))[0]
    assert other.pictures


def test_the_page_of_changes_shows_who_changes_sides_and_why(dataset: Dataset, tmp_path: Path) -> None:  # noqa: F811
    before = dataset.ledger.clips()
    verdicts = ["drop", "keep", "keep", "drop", "keep"]
    after = before.set_column(before.schema.get_field_index("decision"), "decision", pa.array(verdicts))
    after = after.set_column(
        after.schema.get_field_index("reasons"), rows.CLIPS.field("reasons"),
        pa.array([["shaky"] if verdict == "drop" else [] for verdict in verdicts], pa.list_(pa.string())),
    )  # fmt: skip
    changed = changes(before, after)
    assert changed.now_kept.num_rows == changed.now_dropped.num_rows == 1
    text = render_changes(dataset, changed, overrides=["decide.min_dynamism=<b>"])
    page = Page(text)
    assert "not now: 1 clip" in text
    assert "kept now: 1 clip" in text
    assert "shaky" in text
    assert "&lt;b&gt;" in text
    assert page.tags.count("figure") == 2
    assert page.pictures


def test_a_clip_that_is_cut_otherwise_says_so(dataset: Dataset) -> None:  # noqa: F811
    text = render_changes(
        dataset, changes(dataset.ledger.clips(), rows.CLIPS.empty_table()), overrides=["clips.fps=12"]
    )
    assert "kept now: 3 clips" in text
    assert "cut otherwise" in text
