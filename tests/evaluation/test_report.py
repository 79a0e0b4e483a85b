import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.config import EvaluateConfig
from evaluation.page import curve_svg
from evaluation.report import headline, stored_figures, stored_weights, write_report
from evaluation.score import evaluate_folder
from evaluation.statistics import summarise

MakeTake = Callable[..., Path]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, make_take: MakeTake) -> Path:
    videos, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("report")
    make_take(videos / "a <b>.mp4", generated=[[1, 60]])
    make_take(videos / "short.mp4", num_frames=2)
    (videos / "broken.mp4").write_text("no video")
    write_report(evaluate_folder(videos, EvaluateConfig()), out, EvaluateConfig(), fingerprint="f1")
    return out


def test_results_hold_every_video_with_values_or_reasons(report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    made, broken, short = results["videos"]
    assert made["order"] == "recorded"
    assert made["origin"] == "codec dct"
    assert made["metrics"]["ref/contrast"]["drift"]["window_frames"] == 9
    assert short["order"] == "assumed"
    assert "longer video" in short["metrics"]["ref/motion"]["value"]["skipped"]
    assert broken["status"] == "failed"
    assert broken["reason"].startswith("undecodable")
    assert results["summary"]["ref/sharpness"]["value"]["n"] == 2
    assert results["summary"]["ref/contrast"]["drift"]["n"] == 1
    assert "skipped" in results["summary"]["ref/dynamic_degree"]["drift"]
    assert set(results["not_computed"]) >= {"vbench/imaging_quality", "vbench/subject_consistency"}


def test_rows_of_all_frames_are_kept(report: Path) -> None:
    with np.load(report / "features" / "00000.npz") as features:
        assert features["exposure"].shape == (60, 3)
        assert features["exposure"][:, 1].mean() == pytest.approx(
            json.loads((report / "results.json").read_text())["videos"][0]["metrics"]["ref/contrast"]["value"], rel=1e-5
        )


def test_the_page_stands_alone_and_says_what_it_rests_on(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", page)
    assert "<script" not in page
    assert "http" not in page
    assert "a &lt;b&gt;.mp4" in page
    assert page.count("data:image/jpeg;base64,") == 11 + 2
    assert page.count('class="start"') >= 1
    assert page.count('class="end"') >= 1
    assert 'class="given"' in page  # frame 0 is the start image
    assert "<svg" in page
    assert "not comparable with VBench" in page
    assert "assumed: there is no short.json" in page
    assert "recorded in a &lt;b&gt;.json" in page
    assert "codec dct" in page
    assert "vbench/aesthetic_quality: skipped" in page


def test_the_headline_names_what_could_be_measured(tmp_path: Path, make_take: MakeTake) -> None:
    make_take(tmp_path / "a.mp4")
    numbers = headline(summarise(evaluate_folder(tmp_path, EvaluateConfig()), EvaluateConfig()))
    assert numbers["eval/ref/contrast"] > 0
    assert numbers["eval/ref/contrast/drift"] == abs(numbers["eval/ref/contrast/drift_signed"])
    assert "eval/ref/dynamic_degree/drift" not in numbers


def test_a_report_is_known_again_by_what_it_was_made_of(report: Path, tmp_path: Path) -> None:
    figures = stored_figures(report, "f1")
    assert figures is not None
    assert figures["eval/ref/contrast"] > 0
    assert stored_figures(report, "f2") is None
    assert stored_figures(tmp_path, "f1") is None


def test_all_weights_that_made_the_videos_are_named_once(tmp_path: Path, make_take: MakeTake) -> None:
    make_take(tmp_path / "a.mp4", num_frames=2)
    (unknown,) = evaluate_folder(tmp_path, EvaluateConfig())
    assert unknown.provenance is not None
    known = [
        replace(unknown, provenance=replace(unknown.provenance, details={"model.weights_sha256": weights}))
        for weights in ("bb", "aa", "bb")
    ]
    write_report([*known, unknown], tmp_path, EvaluateConfig(), fingerprint="f1")
    assert stored_weights(tmp_path) == ("aa", "bb")


def test_a_flat_curve_is_a_line_in_the_middle() -> None:
    assert 'points="11.0,40.0 209.0,40.0"' in curve_svg([(0.05, 3.0), (0.95, 3.0)])
