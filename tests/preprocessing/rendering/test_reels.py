import numpy as np
import pytest

from preprocessing.rendering.footage import footage, random_place, seconds
from preprocessing.rendering.leaves import palette
from preprocessing.rendering.reels import Recipe, recipes, recipes_over
from preprocessing.samples import TransitionKind

QUICK = [
    "cut, bright",
    "cut, jump within a scene",
    "dissolve of 6, static",
    "fade through white, 6 + 6 + 6",
    "fade in and out, 8",
    "whip pan",
    "flash of 1 to 5 frames",
]


def recipe(kind: str) -> Recipe:
    return next(each for each in recipes() if each.kind == kind)


@pytest.mark.parametrize("kind", QUICK)
def test_a_reel_holds_what_its_recipe_says(kind: str) -> None:
    reel = recipe(kind).make(np.random.default_rng(1))
    assert len(reel.transitions) == (0 if reel.is_decoy else recipe(kind).events)
    assert reel.frames_NHW3.dtype == np.uint8
    assert reel.frames_NHW3.shape[1:] == (144, 256, 3)
    assert all(0 <= change.start_frame <= change.end_frame <= len(reel.frames_NHW3) for change in reel.transitions)


def test_the_same_seed_gives_the_same_frames() -> None:
    first, second = (recipe("cut, bright").make(np.random.default_rng(2)).frames_NHW3 for _ in range(2))
    assert np.array_equal(first, second)


def test_a_cut_changes_the_picture_more_than_any_frame_beside_it() -> None:
    reel = recipe("cut, bright").make(np.random.default_rng(3))
    change = np.abs(np.diff(reel.frames_NHW3[..., 1].astype(np.int16), axis=0)).mean(axis=(1, 2))
    for cut in reel.transitions:
        assert cut.kind is TransitionKind.CUT
        assert change[cut.start_frame - 1] > max(change[cut.start_frame - 2], change[cut.start_frame])


def test_every_kind_has_a_name_of_its_own_and_decoys_are_of_a_hundred_at_eight_each() -> None:
    kinds = [each.kind for each in recipes()]
    assert len(set(kinds)) == len(kinds)
    assert len([each for each in recipes() if each.events == 1]) * 8 >= 100


def test_takes_of_others_are_spliced_alike() -> None:
    rng = np.random.default_rng(4)
    takes = [footage(random_place(rng, palette(rng), speed=0.0, num_walkers=0), seconds(180)) for _ in range(3)]
    reel = next(each for each in recipes_over(takes) if each.kind == "dissolve of 12, real").make(rng)
    assert [change.end_frame - change.start_frame for change in reel.transitions] == [12] * 4
