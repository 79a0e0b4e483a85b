import numpy as np
import pytest

from evaluation.drift import drift, drift_curve, window_length
from evaluation.types import DriftScores, FrameNumbers, Skipped


def mean_of(values_N: np.ndarray) -> "object":
    return lambda frames_N: float(values_N[frames_N].mean())


def measured(values_N: np.ndarray, generated: FrameNumbers | None = None) -> DriftScores:
    order = np.arange(len(values_N)) if generated is None else generated
    scores = drift(mean_of(values_N), order, window_share=0.15, curve_share=0.05, min_frames=1)  # type: ignore[arg-type]
    assert isinstance(scores, DriftScores)
    return scores


def test_equation_8_with_known_numbers() -> None:
    # 20 frames: V_start is frames 0, 1, 2 and V_end frames 17, 18, 19.
    quality = np.array([10.0, 11, 12, 9, 9, 9, *[5.0] * 11, 1, 2, 3])
    scores = measured(quality)
    assert scores.window_frames == 3
    assert (scores.start, scores.end) == (11, 2)
    assert scores.absolute == 9
    assert scores.signed == -9
    assert scores.floor == 2


@pytest.mark.parametrize(("frames", "k"), [(240, 36), (720, 108), (1440, 216), (20, 3), (21, 4), (1, 1)])
def test_windows_round_up_and_never_by_floating_point(frames: int, k: int) -> None:
    assert window_length(0.15, frames) == k


def test_v_end_is_what_was_generated_last_not_what_comes_last() -> None:
    brightness = np.arange(100, dtype=np.float64)
    backwards = np.concatenate([np.arange(60, 100), np.arange(20, 60)])  # frames 0 to 19 were given
    scores = measured(brightness, backwards)
    assert scores.window_frames == 12
    assert scores.start == pytest.approx(65.5)
    assert scores.end == pytest.approx(53.5)
    assert scores.signed == pytest.approx(-12)


def test_a_video_without_drift_has_none_and_a_floor_of_none() -> None:
    scores = measured(np.full(60, 7.0))
    assert scores.absolute == scores.floor == 0
    assert {value for _, value in scores.curve} == {7}


def test_windows_that_meet_or_cannot_be_measured_are_skipped_with_a_reason() -> None:
    for num_frames, min_frames, share in ((1, 1, 0.15), (20, 4, 0.15), (5, 1, 0.5)):
        scores = drift(
            mean_of(np.zeros(99)), np.arange(num_frames), window_share=share, curve_share=0.05, min_frames=min_frames
        )  # type: ignore[arg-type]
        assert isinstance(scores, Skipped)
        assert "longer video" in scores.why
    nothing = drift(lambda _: float("nan"), np.arange(99), window_share=0.15, curve_share=0.05, min_frames=1)
    assert isinstance(nothing, Skipped)


def test_the_curve_slides_from_the_first_frame_to_the_last() -> None:
    values = np.arange(100, dtype=np.float64)
    curve = drift_curve(mean_of(values), np.arange(100), share=0.05, min_frames=1)  # type: ignore[arg-type]
    shares, scores = zip(*curve, strict=True)
    assert shares[0] == pytest.approx(0.025)
    assert shares[-1] == pytest.approx(0.975)
    assert scores[0] == pytest.approx(2)
    assert scores[-1] == pytest.approx(97)
    assert list(scores) == sorted(scores)
