import numpy as np
import pytest

from preprocessing.rendering.textures import COLOURS, TILE_PX, Pattern, texture

SMOOTH = [pattern for pattern in Pattern if pattern is not Pattern.MOSAIC]


@pytest.mark.parametrize("pattern", Pattern)
def test_a_tile_repeats_without_a_seam(pattern: Pattern) -> None:
    tile = texture(np.random.default_rng(0), pattern, "navy", "yellow").astype(int)

    inside = np.abs(np.diff(tile, axis=1)).max()
    seam = np.abs(tile[:, 0] - tile[:, -1]).max()

    assert tile.shape == (TILE_PX, TILE_PX, 3)
    assert seam <= inside + 1


@pytest.mark.parametrize("pattern", SMOOTH)
def test_a_texture_lies_in_frequencies_that_the_codec_keeps(pattern: Pattern) -> None:
    """At 64 x 64 pixels 99 % of what is not the mean lies below 4 of 32 cycles a block of 8: a block keeps those."""
    picture = texture(np.random.default_rng(1), pattern, "navy", "yellow")[::5, ::5].mean(axis=2)

    power = np.abs(np.fft.fft2(picture - picture.mean())) ** 2
    cycles = np.abs(np.fft.fftfreq(64, 1 / 64))
    low = (cycles[:, None] < 16) & (cycles[None, :] < 16)

    assert power[low].sum() / power.sum() > 0.99


@pytest.mark.parametrize("pattern", Pattern)
def test_a_texture_has_contrast(pattern: Pattern) -> None:
    for seed in range(5):
        picture = texture(np.random.default_rng(seed), pattern, "navy", "yellow")

        assert picture.reshape(-1, 3).std(axis=0).max() > 40


def test_a_texture_stays_between_its_two_colours() -> None:
    tile = texture(np.random.default_rng(2), Pattern.CLOUDS, "navy", "white").reshape(-1, 3)

    assert (tile >= np.array(COLOURS["navy"])).all()
    assert (tile <= np.array(COLOURS["white"])).all()
