"""The page of the study."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.study_report import BEGIN, DRIFTS, END, GLOBAL, write_report
from benchmarks.study_rows import DATA, DIRECT, TEACHER, Figures, Point, Row, Training, append_row
from benchmarks.study_strips import strip_path, write_strip
from benchmarks.study_videos import CURVES

PAGE = f"# Title\n\nwords before\n\n{BEGIN}\nold tables\n{END}\n\nwords after\n"


def row(variant: str, drift: float) -> Row:
    figures = Figures(
        values={name: [0.5, 0.7] for name in GLOBAL},
        drifts={name: [drift, drift + 1] for name in (*DRIFTS, *(metric.name for metric in CURVES))},
        floors={},
        curves={metric.name: [(0.1, 1.0), (0.9, 2.0)] for metric in CURVES},
        seams=[1.0, 1.2],
    )
    points = [Point(steps=5, seconds=2.0, drifts=figures.drifts)]
    training = Training(steps=15, seconds=6.0, val_loss=0.5, val_loss_direct=0.6, points=points)
    return Row(variant=variant, seed=0, minutes=20, num_segments=20, training=training, figures=figures)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    for variant, drift in ((DATA, 1.0), (TEACHER, 4.0), (DIRECT, 2.0)):
        append_row(path, row(variant, drift))
        write_strip(strip_path(path, 0, variant), np.zeros((37, 64, 64, 3), np.uint8))
    return path


def test_tables_come_between_the_marks_and_the_words_stay(rows: Path, tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text(PAGE)
    for _ in range(2):
        write_report(rows, page)
        text = page.read_text()
        assert text.startswith("# Title\n\nwords before\n")
        assert text.endswith("words after\n")
        assert "old tables" not in text
    lines = [line for line in text.splitlines() if line.startswith("| Direct Forcing (= All) − MemoryPack (= A)")]
    assert [line.split("|")[2].strip() for line in lines] == ["-2 [-2, -2] p 0.5, seeds −"]
    assert any(line.startswith("| F1 w/CT") and "not run" in line for line in text.splitlines())
    for name in ("study_curves.svg", "study_steps.svg", "study_strips.jpg"):
        assert (tmp_path / "images" / name).stat().st_size > 0
        assert f"images/{name}" in text


def test_a_study_that_has_just_begun_has_a_page_too(tmp_path: Path) -> None:
    path, page = tmp_path / "rows.jsonl", tmp_path / "study.md"
    append_row(path, row(TEACHER, 4.0))
    write_strip(strip_path(path, 0, TEACHER), np.zeros((37, 64, 64, 3), np.uint8))
    page.write_text(PAGE)
    write_report(path, page)
    assert "not run" in page.read_text()


def test_a_page_without_a_place_for_tables_is_refused_as_it_is(rows: Path, tmp_path: Path) -> None:
    page = tmp_path / "study.md"
    page.write_text("words")
    with pytest.raises(ValueError, match="rows: begin"):
        write_report(rows, page)
    assert page.read_text() == "words"


def test_no_rows_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run without --report first"):
        write_report(tmp_path / "absent.jsonl", tmp_path / "study.md")
