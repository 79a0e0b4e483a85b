from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from preprocessing.config import TransitionsConfig
from preprocessing.samples import Transition, TransitionKind
from preprocessing.transitions import Proposer, TransitionDetector

WHITE = np.full((144, 256, 3), 255, np.uint8)


def scene(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (18, 32, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def mixed(first: int, second: int, num_frames: int) -> list[NDArray[np.uint8]]:
    shares = (np.arange(num_frames) + 1) / (num_frames + 1)
    return [((1 - share) * scene(first) + share * scene(second)).astype(np.uint8) for share in shares]


def found(frames: list[NDArray[np.uint8]]) -> tuple[Transition, ...]:
    detector = TransitionDetector(TransitionsConfig())
    for frame in frames:
        detector.add(frame)
    return detector.result()


def test_the_proposer_scores_frames_and_proposes_cuts_as_the_detector_of_pyscenedetect() -> None:
    ours, theirs = Proposer(adaptive_threshold=1.2, min_scene_len=1), AdaptiveDetector(1.2, min_scene_len=1)
    frames = [*mixed(1, 2, 9), *mixed(3, 4, 9), *[WHITE] * 4, *mixed(4, 1, 9)]
    cuts = []
    for index, frame in enumerate(frames):
        time = FrameTimecode(index, 25.0)
        cuts += (found := ours.process_frame(time, frame))
        assert found == theirs.process_frame(time, frame)
        assert ours._frame_score == theirs._frame_score
    assert len(cuts) == 3


@pytest.mark.parametrize("at", [7, 30, 57])
def test_a_cut_is_the_first_frame_of_the_new_shot(at: int) -> None:
    (only,) = found([scene(1)] * at + [scene(2)] * (60 - at))
    assert (only.kind, only.start_frame, only.end_frame) == (TransitionKind.CUT, at, at)


def test_shots_of_eight_frames_are_found() -> None:
    frames = [frame for seed in range(9) for frame in [scene(seed)] * 8]
    assert [cut.start_frame for cut in found(frames)] == list(range(8, 72, 8))


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_a_flash_is_no_transition(num_frames: int) -> None:
    assert found([scene(1)] * 30 + [WHITE] * num_frames + [scene(1)] * 30) == ()


def test_a_longer_insert_is_two_cuts() -> None:
    frames = [scene(1)] * 30 + [scene(2)] * 12 + [scene(1)] * 30
    assert [cut.start_frame for cut in found(frames)] == [30, 42]


def test_cuts_and_gradual_changes_stand_in_order_and_apart() -> None:
    dimmed = [(scene(3) * (1 - (k + 1) / 13)).astype(np.uint8) for k in range(12)]
    frames = [scene(1)] * 40 + mixed(1, 2, 16) + [scene(2)] * 40 + [scene(3)] * 40 + dimmed
    kinds = [(transition.kind, transition.start_frame, transition.end_frame) for transition in found(frames)]
    assert [kind for kind, _, _ in kinds] == [TransitionKind.GRADUAL, TransitionKind.CUT, TransitionKind.GRADUAL]
    assert kinds[1][1] == 96
    np.testing.assert_allclose([kinds[0][1], kinds[0][2], kinds[2][1], kinds[2][2]], [40, 56, 136, 148], atol=2)
    assert all(first[2] <= second[1] for first, second in pairwise(kinds))


def test_a_film_of_one_frame_or_of_one_colour_has_none() -> None:
    assert found([scene(1)]) == ()
    assert found([WHITE] * 50) == ()
