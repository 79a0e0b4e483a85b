"""What counts as motion, from file to decision, on videos of known speed; on all shared videos: `test_shared_videos`."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.dynamism import Film, format_films, kind_films, measure
from preprocessing.candidates import Footage, candidates_of
from preprocessing.config import ClipsConfig, DecideConfig, MotionConfig, ScanConfig, TransitionsConfig
from preprocessing.decide import decisions
from preprocessing.reasons import Reason
from preprocessing.samples import PictureArea, Verdict
from preprocessing.scan import ScanSettings, measure_file
from tests.preprocessing.shared_videos import shared_video

SETTINGS = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())
NOTHING_MOVES = {Reason.STATIC, Reason.SLIDESHOW, Reason.BLACK, Reason.TOO_SHORT}
STILLS = ("edge_frozen_still.mp4", "edge_flicker_still.mp4", "edge_noise_still.mp4", "edge_all_black.mp4")


def scanned(path: Path) -> tuple[PictureArea | None, list[tuple[Verdict, tuple[Reason, ...]]]]:
    """Black bars, and what is decided about every clip."""
    *_, measured = measure_file(str(path), SETTINGS, with_decord=True)
    assert measured is not None
    shown = measured.picture or measured.probe
    found = candidates_of(
        Footage(
            source_id="a1",
            num_frames=len(measured.signals.timestamps_s),
            height_px=shown.height_px,
            width_px=shown.width_px,
            transitions=measured.transitions,
            signals=measured.signals,
        ),
        ClipsConfig(),
    )
    decided = decisions(found, DecideConfig())
    return measured.picture, [(decision.verdict, decision.reasons) for decision in decided]


def check_dropped(name: str) -> None:
    _, decided = scanned(shared_video(name))
    assert decided
    for verdict, reasons in decided:
        assert verdict is Verdict.DROP
        assert NOTHING_MOVES & set(reasons), f"{name}: {reasons}"


def check_kept(name: str) -> None:
    _, decided = scanned(shared_video(name))
    assert any(verdict is Verdict.KEEP for verdict, _ in decided), f"{name}: {decided}"


@pytest.mark.parametrize("name", STILLS)
def test_a_still_in_disguise_is_dropped(name: str) -> None:
    check_dropped(name)


def test_a_fixed_camera_before_people_is_kept() -> None:
    check_kept("-edge_leading_dash.mp4")


def test_a_pillarboxed_film_with_doubled_frames_is_kept_without_its_bars() -> None:
    picture, decided = scanned(shared_video("chaplin_bw.mp4"))
    assert picture is not None
    assert 70 <= picture.left_px <= 76
    assert 494 <= picture.width_px <= 500
    assert (picture.top_px, picture.height_px) == (0, 360)
    assert (Verdict.KEEP, ()) in decided


def film(name: str) -> Film:
    (found,) = (film for film in kind_films() if film.name == name)
    return replace(found, height_px=180)


def dynamism(name: str) -> float:
    found = measure(film(name)).dynamism
    assert found is not None
    return found


def test_what_looks_like_motion_stays_below_a_slow_pan_and_that_below_a_fast_one() -> None:
    still = dynamism("static")
    decoys = [dynamism(name) for name in ("flicker", "grain", "shake")]
    slow, fast = dynamism("slow pan"), dynamism("fast pan")
    assert still <= min(decoys)
    assert max(decoys) < 0.7 * slow
    assert 2 * slow < fast


@pytest.mark.parametrize(
    ("name", "decision"),
    [
        ("strong shake", "shaky"),
        ("small object", "keep"),
        ("chaos", "too_fast"),
        ("pan, 8 frames in 24", "low_frame_rate"),
        ("pan, 12 frames in 24", "low_frame_rate"),
    ],
)
def test_a_kind_of_motion_is_told_from_another(name: str, decision: str) -> None:
    assert measure(film(name)).decision.partition(",")[0] == decision


@pytest.mark.slow
def test_codecs_rates_and_sizes_agree_within_ten_per_cent() -> None:
    found = {film.name: measure(film).dynamism for film in format_films()}
    assert len(found) >= 5
    first = next(iter(found.values()))
    assert found == {name: pytest.approx(first, rel=0.1) for name in found}
