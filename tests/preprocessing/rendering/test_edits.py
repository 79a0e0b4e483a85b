import numpy as np

from preprocessing.rendering.edits import dissolve, fade_in, fade_out, flicker, grain, hold, shake
from preprocessing.rendering.textures import Pattern, texture

RED = np.full((10, 4, 4, 3), (200, 0, 0), np.uint8)
BLUE = np.full((10, 4, 4, 3), (0, 0, 200), np.uint8)


def test_a_dissolve_mixes_as_many_frames_as_it_says_and_no_other() -> None:
    film = dissolve(RED, BLUE, 4)

    reds = film[:, 0, 0, 0]
    assert len(film) == 16
    assert (reds[:6] == 200).all()
    assert (np.diff(reds[5:11].astype(int)) < 0).all()
    assert (reds[10:] == 0).all()
    assert ((film[6:10, 0, 0, 0] > 0) & (film[6:10, 0, 0, 2] > 0)).all()


def test_a_fade_out_darkens_only_the_end() -> None:
    reds = fade_out(RED, 4)[:, 0, 0, 0]

    assert reds.tolist() == [200] * 6 + [160, 120, 80, 40]


def test_a_fade_in_is_a_fade_out_backwards() -> None:
    np.testing.assert_array_equal(fade_in(RED, 4), fade_out(RED, 4)[::-1])


def test_flicker_changes_brightness_but_nothing_else() -> None:
    frames = hold(texture(np.random.default_rng(0), Pattern.CLOUDS, "navy", "white")[:64, :64], 20)

    flickering = flicker(frames, depth=0.5, rng=np.random.default_rng(0)).astype(float)

    brightness = flickering.mean(axis=(1, 2, 3))
    assert brightness.std() > 5
    normalised = flickering / brightness[:, None, None, None]
    assert np.abs(normalised - normalised[0]).max() < 0.05


def test_shake_goes_nowhere_on_average() -> None:
    tile = texture(np.random.default_rng(0), Pattern.PATCHES, "navy", "white")

    frames = shake(tile, num_frames=50, width_px=64, height_px=64, sigma_px=2.0, rng=np.random.default_rng(0))

    halves = np.abs(frames[:25].mean(axis=0) - frames[25:].mean(axis=0)).mean()
    neighbours = np.abs(frames[1:].astype(float) - frames[:-1]).mean()
    assert frames.shape == (50, 64, 64, 3)
    assert halves < neighbours / 2


def test_grain_has_the_deviation_that_it_says() -> None:
    frames = grain(np.full((20, 32, 32, 3), 128, np.uint8), sigma=5.0, rng=np.random.default_rng(0))

    assert abs(frames.std() - 5.0) < 0.2
    assert not (frames[0] == frames[1]).all()
