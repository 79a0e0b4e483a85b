import pytest

from preprocessing.config import DecideConfig
from preprocessing.decide import decide
from preprocessing.reasons import Reason
from preprocessing.samples import ClipCandidate, Verdict

GOOD = {
    "transitions": 0.0,
    "height_px": 480.0,
    "source_fps": 24.0,
    "black_share": 0.0,
    "dynamism": 6.0,
    "long_dynamism": 6.0,
    "active_share": 1.0,
    "camera_speed": 4.0,
    "steadiness": 0.9,
    "own_motion": 5.0,
    "rest_motion": 3.0,
    "followed": 0.95,
    "effective_fps": 24.0,
    "frozen_share": 0.0,
}


def candidate(num_segments: int = 2, **changed: float) -> ClipCandidate:
    return ClipCandidate(
        clip_id="a-000-000-0-73-24000",
        source_id="a",
        shot_index=0,
        clip_index=0,
        start_frame=0,
        end_frame=73,
        start_s=0.0,
        end_s=3.0,
        fps=24.0,
        num_segments=num_segments,
        scores=GOOD | changed,
    )


def test_a_good_clip_is_kept() -> None:
    decision = decide(candidate(), DecideConfig())
    assert (decision.verdict, decision.reasons) == (Verdict.KEEP, ())


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({"transitions": 1.0, "num_segments": 0, "dynamism": 0.0}, (Reason.TRANSITION_INSIDE,)),
        ({"num_segments": 0}, (Reason.TOO_SHORT,)),
        ({"source_fps": 10.0, "dynamism": 0.0, "long_dynamism": 0.0}, (Reason.LOW_FRAME_RATE, Reason.STATIC)),
        ({"effective_fps": 12.0}, (Reason.LOW_FRAME_RATE,)),
        ({"height_px": 48.0}, (Reason.TOO_SMALL,)),
        ({"black_share": 0.9, "dynamism": 0.0, "long_dynamism": 0.0}, (Reason.BLACK, Reason.STATIC)),
        ({"dynamism": 0.1, "long_dynamism": 0.2}, (Reason.STATIC,)),
        ({"active_share": 0.1}, (Reason.STATIC,)),
        (
            {"dynamism": 0.0, "long_dynamism": 9.0, "effective_fps": 2.0},
            (Reason.LOW_FRAME_RATE, Reason.SLIDESHOW, Reason.STATIC),
        ),
        ({"frozen_share": 1.0, "dynamism": 0.0, "long_dynamism": 0.0}, (Reason.STATIC, Reason.FROZEN)),
        ({"black_share": 1.0, "num_segments": 0}, (Reason.TOO_SHORT, Reason.BLACK)),
        ({"camera_speed": 25.0, "steadiness": 0.1, "own_motion": 0.3}, (Reason.SHAKY,)),
        ({"followed": 0.1}, (Reason.TOO_FAST,)),
        ({"camera_speed": 130.0}, (Reason.TOO_FAST,)),
        ({"dynamism": 400.0}, (Reason.TOO_FAST,)),
    ],
)
def test_what_is_wrong_is_said_in_order_of_importance(changed: dict, reasons: tuple[Reason, ...]) -> None:
    decision = decide(candidate(**changed), DecideConfig())
    assert (decision.verdict, decision.reasons) == (Verdict.DROP, reasons)


def test_a_shaking_camera_before_moving_people_is_worth_it() -> None:
    assert decide(candidate(camera_speed=25.0, steadiness=0.1), DecideConfig()).verdict is Verdict.KEEP


def test_a_film_of_a_low_rate_that_repeats_nothing_is_judged_by_its_rate_alone() -> None:
    assert decide(candidate(source_fps=12.0, effective_fps=12.0), DecideConfig()).verdict is Verdict.KEEP


def test_a_still_under_a_pan_is_dropped_only_where_one_asks_for_it() -> None:
    flat = candidate(rest_motion=0.2)
    assert decide(flat, DecideConfig()).verdict is Verdict.KEEP
    assert decide(flat, DecideConfig(min_rest_motion=0.5)).reasons == (Reason.STILL_IMAGE,)


def test_a_still_camera_does_not_shake() -> None:
    assert decide(candidate(camera_speed=0.2, steadiness=0.0), DecideConfig()).verdict is Verdict.KEEP


def test_motion_that_was_not_measured_is_not_static() -> None:
    unmeasured = candidate(num_segments=1)
    scores = {name: GOOD[name] for name in ("transitions", "height_px", "source_fps", "black_share")}
    unmeasured = ClipCandidate(**{**vars(unmeasured), "scores": scores})
    assert decide(unmeasured, DecideConfig()).verdict is Verdict.KEEP


@pytest.mark.parametrize("min_dynamism", [0.0, 5.9, 6.1, 100.0])
def test_a_threshold_is_where_it_says(min_dynamism: float) -> None:
    kept = decide(candidate(), DecideConfig(min_dynamism=min_dynamism)).verdict is Verdict.KEEP
    assert kept == (min_dynamism <= 6.0)
