"""Without Ray: what a task does, and what the driver makes of that."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import load_recipe
from pipeline.jobs.sampled_videos import SampledVideos, ScoredVideo, make_video, stored_scores
from preprocessing.codecs.dct import DctCodec
from training.sampled_video import SampledVideo, save_video

RECIPE = load_recipe("embedded")


def sampled(step: int, *, rows: int = 8) -> SampledVideo:
    """One segment of 64 pixels' width: every frame as the last, and a little noise."""
    rng = torch.Generator().manual_seed(step)
    start = torch.randn(16, 1, rows, 8, generator=rng)
    segments = start + 0.1 * torch.randn(16, 9, rows, 8, generator=rng)
    return SampledVideo(
        step=step, clip_id="clip00", prompt="", seed=0, fps=24.0, codec_id=DctCodec().record.codec_id,
        start_latent_CTHW=start, segments_CTHW=segments,
    )  # fmt: skip


def test_latents_become_a_video_with_scores_and_drift(tmp_path: Path) -> None:
    latents = save_video(sampled(500), tmp_path)
    scored = make_video(latents, RECIPE)
    assert (scored.step, scored.failure) == (500, "")
    assert {"sample/ref/sharpness", "sample/ref/sharpness/drift", "sample/ref/dynamic_degree"} <= scored.figures.keys()
    assert "sample/ref/dynamic_degree/drift" not in scored.figures  # it is 0 or 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000500.json", "step-00000500.mp4", "step-00000500.safetensors", "step-00000500.scores.json",
    ]  # fmt: skip


def test_a_video_is_done_until_its_latents_or_settings_are_others(tmp_path: Path) -> None:
    latents = save_video(sampled(1), tmp_path)
    assert stored_scores(latents, RECIPE) is None
    scored = make_video(latents, RECIPE)
    assert stored_scores(latents, RECIPE) == scored
    assert stored_scores(latents, load_recipe("embedded", ["evaluate.short_side_px=32"])) is None
    save_video(replace(sampled(2), step=1), tmp_path)
    assert stored_scores(latents, RECIPE) is None


def test_a_resumed_run_hands_over_what_is_done_in_order_and_makes_nothing_again(tmp_path: Path) -> None:
    for step in (1000, 500):
        make_video(save_video(sampled(step), tmp_path), RECIPE)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    seen: list[tuple[Path, ScoredVideo]] = []
    videos = SampledVideos(tmp_path, RECIPE, lambda video, scored: seen.append((video, scored)))
    videos.look()
    videos.finish()
    assert [(video.name, scored.step) for video, scored in seen] == [
        ("step-00000500.mp4", 500), ("step-00001000.mp4", 1000)
    ]  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_video_that_cannot_be_scored_is_handed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(save_video(sampled(0, rows=2), tmp_path), RECIPE)
    seen: list[ScoredVideo] = []
    with caplog.at_level(logging.WARNING):
        SampledVideos(tmp_path, RECIPE, lambda _video, scored: seen.append(scored)).finish()
    assert [scored.figures for scored in seen] == [{}]
    assert "no scores of" in caplog.text
    assert "64 x 16 pixels" in caplog.text
