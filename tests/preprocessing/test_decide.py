import pytest

from preprocessing.config import DecideConfig
from preprocessing.decide import decide, decisions
from preprocessing.reasons import Reason
from preprocessing.rows import candidates_table
from preprocessing.samples import ClipCandidate, Decision, Verdict

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


def decide_one(clip: ClipCandidate, settings: DecideConfig) -> Decision:
    (decision,) = decisions([clip], settings)
    return decision


def test_a_good_clip_is_kept() -> None:
    decision = decide_one(candidate(), DecideConfig())
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
        ({"active_share": 0.1, "truncated": 1.0}, (Reason.TRUNCATED,)),
        ({"active_share": 0.1, "truncated": 0.0}, (Reason.STATIC,)),
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
    decision = decide_one(candidate(**changed), DecideConfig())
    assert (decision.verdict, decision.reasons) == (Verdict.DROP, reasons)


def test_a_shaking_camera_before_moving_people_is_worth_it() -> None:
    assert decide_one(candidate(camera_speed=25.0, steadiness=0.1), DecideConfig()).verdict is Verdict.KEEP


def test_what_moves_in_a_source_that_broke_off_is_used() -> None:
    assert decide_one(candidate(truncated=1.0), DecideConfig()).verdict is Verdict.KEEP


def test_a_film_of_a_low_rate_that_repeats_nothing_is_judged_by_its_rate_alone() -> None:
    assert decide_one(candidate(source_fps=12.0, effective_fps=12.0), DecideConfig()).verdict is Verdict.KEEP


def test_a_still_under_a_pan_is_named_as_such_unless_that_is_off() -> None:
    flat, slow_pan = candidate(rest_motion=0.17), candidate(rest_motion=0.28)
    assert decide_one(flat, DecideConfig()).reasons == (Reason.STILL_IMAGE,)
    assert decide_one(flat, DecideConfig(min_rest_motion=0)).verdict is Verdict.KEEP
    assert decide_one(slow_pan, DecideConfig()).verdict is Verdict.KEEP


def test_hdr_is_dropped_only_where_one_asks_for_it() -> None:
    flat = candidate(hdr=1.0)
    assert decide_one(flat, DecideConfig()).verdict is Verdict.KEEP
    assert decide_one(flat, DecideConfig(keep_hdr=False)).reasons == (Reason.HDR,)
    assert decide_one(candidate(hdr=0.0), DecideConfig(keep_hdr=False)).verdict is Verdict.KEEP


def test_a_still_camera_does_not_shake() -> None:
    assert decide_one(candidate(camera_speed=0.2, steadiness=0.0), DecideConfig()).verdict is Verdict.KEEP


def test_motion_that_was_not_measured_is_not_static() -> None:
    unmeasured = candidate(num_segments=1)
    scores = {name: GOOD[name] for name in ("transitions", "height_px", "source_fps", "black_share")}
    unmeasured = ClipCandidate(**{**vars(unmeasured), "scores": scores})
    assert decide_one(unmeasured, DecideConfig()).verdict is Verdict.KEEP


@pytest.mark.parametrize("min_dynamism", [0.0, 5.9, 6.1, 100.0])
def test_a_threshold_is_where_it_says(min_dynamism: float) -> None:
    kept = decide_one(candidate(), DecideConfig(min_dynamism=min_dynamism)).verdict is Verdict.KEEP
    assert kept == (min_dynamism <= 6.0)


def test_a_clip_is_decided_alone_as_among_others() -> None:
    clips = [candidate(), candidate(dynamism=0.0), candidate(num_segments=0, black_share=0.9), candidate(height_px=8.0)]
    together = decisions(clips, DecideConfig())
    assert together == tuple(decide_one(clip, DecideConfig()) for clip in clips)
    assert [decision.reasons for decision in together] == [
        (),
        (Reason.STATIC,),
        (Reason.TOO_SHORT, Reason.BLACK),
        (Reason.TOO_SMALL,),
    ]


def test_no_clips_give_no_decisions() -> None:
    assert decide(candidates_table([]), DecideConfig()).num_rows == 0


def test_a_score_without_a_column_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"scores \['charm'\] have no column"):
        candidates_table([candidate(charm=1.0)])
