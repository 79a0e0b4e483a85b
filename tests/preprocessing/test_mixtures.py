import numpy as np
import pytest

from preprocessing.likeness import SmallPicture, small_picture
from preprocessing.mixtures import mixture


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (27, 48, 3)).astype(np.float64)


def small(picture: np.ndarray) -> SmallPicture:
    return small_picture(picture.round().astype(np.uint8))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_mix_is_explained_by_its_shares(share: float) -> None:
    mix = mixture(small(noise(1)), small((1 - share) * noise(1) + share * noise(2)), small(noise(2)))
    np.testing.assert_allclose((mix.before, mix.after), (1 - share, share), atol=0.01)
    assert mix.explained > 0.99
    assert mix.progress == pytest.approx(share, abs=0.01)
    assert mix.is_plain


def test_another_picture_is_not_explained() -> None:
    assert mixture(small(noise(1)), small(noise(3)), small(noise(2))).explained < 0.02


def test_one_side_alone_explains_less() -> None:
    mix = mixture(small(noise(1)), small(0.5 * noise(1) + 0.5 * noise(2)), small(noise(2)))
    assert mix.alone == pytest.approx(0.5, abs=0.05)


def test_shares_of_a_wave_between_its_neighbours_add_up_to_more() -> None:
    x = np.arange(48)
    before, middle, after = (
        small(np.broadcast_to((127 + 100 * np.sin((x + step) / 6))[None, :, None], (27, 48, 3))) for step in (-4, 0, 4)
    )
    assert not mixture(before, middle, after).is_plain


def test_sides_that_show_nothing_explain_nothing() -> None:
    assert mixture(small(noise(1) * 0), small(noise(1)), small(noise(2))) == (0, 0, 0, 0)
