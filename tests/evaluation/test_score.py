from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.config import EvaluateConfig
from evaluation.metrics.catalogue import METRICS
from evaluation.score import evaluate_folder, measure, score_metric, score_video, video_names
from evaluation.types import DriftScores, Skipped
from preprocessing.isolation import IsolatedWorker

MakeTake = Callable[..., Path]
REAL_VIDEOS = Path(__file__).parents[3] / "shared" / "videos"


def test_contrast_that_fades_away_is_drift_and_steady_contrast_is_not(tmp_path: Path, make_take: MakeTake) -> None:
    make_take(tmp_path / "fading.mp4", fade=0.02)
    make_take(tmp_path / "steady.mp4")
    drifts = [video.scores["ref/contrast"].drift for video in evaluate_folder(tmp_path, EvaluateConfig())]
    fading, steady = drifts
    assert isinstance(fading, DriftScores)
    assert isinstance(steady, DriftScores)
    assert fading.signed < -0.4 * fading.start
    assert fading.absolute > 3 * fading.floor
    assert steady.absolute < 0.2 * steady.start


def test_the_record_beside_a_video_decides_what_comes_last(tmp_path: Path, make_take: MakeTake) -> None:
    make_take(tmp_path / "a.mp4", fade=0.02, generated=[[1, 60]])
    make_take(tmp_path / "b.mp4", fade=0.02, generated=[[31, 60], [1, 31]])
    forwards, backwards = evaluate_folder(tmp_path, EvaluateConfig())
    assert forwards.provenance is not None
    assert forwards.provenance.recorded
    contrast = [video.scores["ref/contrast"].drift for video in (forwards, backwards)]
    assert isinstance(contrast[0], DriftScores)
    assert isinstance(contrast[1], DriftScores)
    assert contrast[0].signed < contrast[1].signed
    assert contrast[0].window_frames == contrast[1].window_frames == 9


def test_a_broken_video_is_a_row_with_its_reason(tmp_path: Path, make_take: MakeTake) -> None:
    make_take(tmp_path / "sub" / "-клип 100%.mp4", num_frames=3)
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.txt").write_text("ignored")
    videos = {video.name: video for video in evaluate_folder(tmp_path, EvaluateConfig())}
    assert set(videos) == {"sub/-клип 100%.mp4", "text.mp4", "empty.mp4"}
    assert videos["text.mp4"].failure.startswith("undecodable")
    assert videos["empty.mp4"].failure.startswith("undecodable")
    assert videos["text.mp4"].scores == {}
    assert videos["sub/-клип 100%.mp4"].failure == ""


def test_a_video_too_short_for_a_metric_skips_it_and_says_why(
    tmp_path: Path, make_take: MakeTake, child: IsolatedWorker
) -> None:
    make_take(tmp_path / "one.mp4", num_frames=1)
    video = score_video(tmp_path, "one.mp4", EvaluateConfig(), child)
    assert isinstance(video.scores["ref/sharpness"].value, float)
    for name in ("ref/motion", "ref/dynamic_degree", "ref/colour_consistency"):
        value = video.scores[name].value
        assert isinstance(value, Skipped)
        assert "longer video" in value.why
    assert all(isinstance(score.drift, Skipped) for score in video.scores.values())


def test_large_frames_are_scaled_and_blockiness_is_refused(
    tmp_path: Path, make_take: MakeTake, child: IsolatedWorker
) -> None:
    make_take(tmp_path / "a.mp4", num_frames=8)
    video = score_video(tmp_path, "a.mp4", EvaluateConfig(short_side_px=48), child)
    assert video.measured is not None
    assert (video.measured.facts.height_px, video.measured.facts.width_px) == (48, 64)
    assert isinstance(video.scores["ref/blockiness"].value, Skipped)


def test_scores_are_the_same_at_every_run(tmp_path: Path, make_take: MakeTake, child: IsolatedWorker) -> None:
    path = make_take(tmp_path / "a.mp4", num_frames=12)
    first, second = (measure(path, EvaluateConfig(), child) for _ in range(2))
    for name, rows in first.rows.items():
        np.testing.assert_array_equal(rows, second.rows[name])


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no video"):
        video_names(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        video_names(tmp_path / "nowhere")


def test_score_metric_needs_no_decoding(tmp_path: Path, make_take: MakeTake, child: IsolatedWorker) -> None:
    path = make_take(tmp_path / "a.mp4", generated=[[1, 60]])
    video = score_video(tmp_path, "a.mp4", EvaluateConfig(), child)
    path.unlink()
    assert video.measured is not None
    assert video.provenance is not None
    for metric in METRICS:
        again = score_metric(metric, video.measured, video.provenance, EvaluateConfig())
        assert again == video.scores[metric.name]


@pytest.mark.slow
@pytest.mark.skipif(not REAL_VIDEOS.is_dir(), reason="needs the real videos in ../shared/videos")
@pytest.mark.parametrize(
    ("name", "moves"), [("edge_frozen_still.mp4", 0), ("dashcam_1080p.mp4", 1), ("edge_all_black.mp4", 0)]
)
def test_real_videos_move_or_do_not(name: str, moves: int, child: IsolatedWorker) -> None:
    video = score_video(REAL_VIDEOS, name, EvaluateConfig(short_side_px=128), child)
    assert video.scores["ref/dynamic_degree"].value == moves
