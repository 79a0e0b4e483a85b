from pathlib import Path

from preprocessing.reasons import Reason
from preprocessing.rendering.truth import (
    Outcome,
    ShotTruth,
    Totals,
    Truth,
    differences,
    expected,
    read_truth,
    totals,
    write_truth,
)
from preprocessing.samples import Transition, TransitionKind

CUT = Transition(kind=TransitionKind.CUT, start_frame=50, end_frame=50, score=1.0)
EDITED = Truth(
    file="edited.mp4",
    caption="Two shots.",
    failed_for=None,
    transitions=(CUT,),
    shots=(
        ShotTruth(start_frame=0, end_frame=50, dropped_for=None),
        ShotTruth(start_frame=50, end_frame=60, dropped_for=Reason.TOO_SHORT),
    ),
)
BROKEN = Truth(file="broken.mp4", caption="", failed_for=Reason.UNDECODABLE, transitions=(), shots=())


def test_totals_count_clips_by_first_reason_and_sources_that_failed() -> None:
    assert totals([expected(EDITED), expected(EDITED), expected(BROKEN)]) == Totals(
        kept=2, dropped={Reason.TOO_SHORT: 2}, failed={Reason.UNDECODABLE: 1}
    )


def test_a_run_that_decides_as_it_must_has_no_differences() -> None:
    assert differences([EDITED, BROKEN], [expected(BROKEN), expected(EDITED)]) == ()


def test_every_file_that_was_decided_otherwise_is_named() -> None:
    kept_all = Outcome(file="edited.mp4", failed_for=None, kept=2, dropped={})
    stranger = Outcome(file="stranger.mp4", failed_for=None, kept=1, dropped={})

    assert differences([EDITED, BROKEN], [kept_all, stranger]) == (
        "broken.mp4: no row",
        "stranger.mp4: a row that nobody expects",
        "edited.mp4: 2 kept, dropped: none; must be 1 kept, dropped: 1 too_short",
    )


def test_truth_comes_back_from_its_file(tmp_path: Path) -> None:
    write_truth((EDITED, BROKEN), tmp_path / "truth.json")

    assert read_truth(tmp_path / "truth.json") == (EDITED, BROKEN)
