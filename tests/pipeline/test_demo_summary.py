from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo_summary import DemoSummary, PictureFigures, Step, picture_figures, psnr_db
from preprocessing.reasons import Reason
from preprocessing.rendering.truth import Totals
from preprocessing.samples import clip_num_frames
from training.types import StageSummary

START = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def _stage(name: str, at_start: Mapping[str, float], at_end: Mapping[str, float]) -> StageSummary:
    return StageSummary(
        stage=name, steps=7, num_clips=3, num_unused_clips=0, num_validation_clips=1,
        at_start=at_start, at_end=at_end, base_sha256="", weights_sha256="",
    )  # fmt: skip


def _summary(differences: tuple[str, ...] | None, steps: tuple[Step, ...] = ()) -> DemoSummary:
    return DemoSummary(
        out=Path("runs/demo"),
        steps=steps,
        totals=Totals(kept=5, dropped={Reason.STATIC: 2, Reason.TOO_SHORT: 1}, failed={Reason.UNDECODABLE: 1}),
        differences=differences,
        teacher=_stage("teacher", {"val_loss": 2.0}, {"val_loss": 0.5}),
        direct=_stage("direct", {}, {}),
        prompt="A disc.",
        held_out=True,
        pictures=PictureFigures(num_segments=10, psnr_db=23.456, contrast=(0.9, 0.75)),
        figures={"eval/ref/sharpness": 3.0, "eval/ref/sharpness/drift": 0.25},
        files={"video": Path("generated.mp4")},
        curves="longtake ui --tracking-uri sqlite:////elsewhere/mlflow.db",
    )


def test_psnr_of_an_error_of_one_level_is_48_db() -> None:
    left = np.full((4, 4, 3), 100, np.uint8)

    assert psnr_db(left, left + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
    assert psnr_db(left, left) == float("inf")


def test_a_video_of_nothing_but_its_start_image_is_perfect() -> None:
    figures = picture_figures(START, np.repeat(START[None], clip_num_frames(3), axis=0))

    assert figures.num_segments == 3
    assert figures.psnr_db == float("inf")
    assert figures.contrast == pytest.approx((1.0, 1.0, 1.0))


def test_the_worst_of_the_first_five_frames_and_every_segment_count() -> None:
    frames = np.repeat(START[None], clip_num_frames(2), axis=0)
    frames[4] = 255 - START
    frames[37:] = 128 + (START.astype(int) - 128) // 2

    figures = picture_figures(START, frames)

    assert figures.psnr_db == pytest.approx(psnr_db(START, frames[4]))
    assert figures.contrast == pytest.approx((1.0, 0.5), abs=0.01)


def test_a_summary_says_when_decisions_are_as_the_truth_has_them() -> None:
    lines = _summary(()).lines()

    assert lines[1] == (
        "clips: 5 kept, 3 dropped (2 static, 1 too_short); videos that failed: 1 (1 undecodable): as the truth has it"
    )


def test_a_summary_names_what_was_decided_otherwise() -> None:
    lines = _summary(("a.mp4: 1 kept; must be 2 kept",)).lines()

    assert lines[1].endswith("the truth is another:")
    assert lines[2] == "  a.mp4: 1 kept; must be 2 kept"


def test_a_summary_of_own_videos_knows_no_truth() -> None:
    assert _summary(None).lines()[1].endswith("1 (1 undecodable)")


def test_a_summary_says_what_was_there_already() -> None:
    steps = (Step(name="render", seconds=0.1, reused=True), Step(name="teacher", seconds=61.2, reused=False))

    assert _summary(None, steps).lines()[:2] == ["already there: render", "time: render 0 s, teacher 61 s"]


def test_a_summary_gives_losses_pictures_and_drift() -> None:
    text = "\n".join(_summary(None).lines())

    assert "teacher, 7 steps: held-out loss with the true past 2.000 -> 0.500" in text
    assert "direct, 7 steps: no held-out clip, so no held-out loss" in text
    assert "at least 23.5 dB" in text
    assert "at least 0.75" in text
    assert "sharpness 0.250" in text
    assert text.endswith("curves and parameters: longtake ui --tracking-uri sqlite:////elsewhere/mlflow.db")
