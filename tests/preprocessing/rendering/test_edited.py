import numpy as np
import pytest

from preprocessing.reasons import Reason
from preprocessing.rendering.edited import Joint, Piece, Splice, edited_films, shots_of, transitions_of
from preprocessing.rendering.films import Film
from preprocessing.rendering.shots import Shot
from preprocessing.rendering.textures import Pattern
from preprocessing.samples import Transition, TransitionKind

SHOT = Shot(pattern=Pattern.CLOUDS, dark="navy", light="white", camera="stands still", things=())


def test_transitions_and_shots_fill_the_film() -> None:
    pieces = [Piece(shot=SHOT, num_pure=n) for n in (100, 60, 20, 80)]
    splices = [
        Splice(joint=Joint.CUT),
        Splice(joint=Joint.DISSOLVE, num_mixed=12),
        Splice(joint=Joint.FADE, num_mixed=10),
    ]

    assert transitions_of(pieces, splices) == (
        Transition(kind=TransitionKind.CUT, start_frame=100, end_frame=100, score=1.0),
        Transition(kind=TransitionKind.GRADUAL, start_frame=160, end_frame=172, score=1.0),
        Transition(kind=TransitionKind.GRADUAL, start_frame=192, end_frame=212, score=1.0),
    )
    assert [(s.start_frame, s.end_frame) for s in shots_of(pieces, splices)] == [
        (0, 100), (100, 160), (172, 192), (212, 292),
    ]  # fmt: skip
    assert [s.dropped_for for s in shots_of(pieces, splices)] == [None, None, Reason.TOO_SHORT, None]


@pytest.mark.parametrize("film", edited_films(), ids=lambda film: film.name)
def test_the_pictures_change_where_the_truth_says(film: Film) -> None:
    """Across a transition pictures differ; within a shot neighbours are alike, and a mixed frame is neither shot's."""
    frames = film.make(np.random.default_rng(0)).astype(int)
    steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))

    inside = max(steps[shot.start_frame : shot.end_frame - 1].max() for shot in film.shots)
    for transition in film.transitions:
        around = steps[max(transition.start_frame - 1, 0) : transition.end_frame]
        if transition.kind is TransitionKind.CUT:
            assert around.max() > 4 * inside
        else:
            across = np.abs(
                frames[max(transition.start_frame - 1, 0)] - frames[min(transition.end_frame, len(frames) - 1)]
            )
            assert across.mean() > 4 * inside
            assert around.max() < across.mean() / 2
