import numpy as np
import pytest

from preprocessing.codecs.hashed_features import (
    IMAGE_DIM,
    IMAGE_TOKENS,
    POOLED_DIM,
    TEXT_DIM,
    TEXT_TOKENS,
    hashed_text,
    pooled_thumbnail,
)


@pytest.mark.parametrize("caption", ["", "  ...  ", "a dog", "word " * 100, "Собака бежит 犬が走る"])
def test_every_caption_has_the_same_shape_and_at_least_one_real_token(caption: str) -> None:
    text = hashed_text(caption)
    assert text.llama_LD.shape == (TEXT_TOKENS, TEXT_DIM)
    assert text.clip_pooled_D.shape == (POOLED_DIM,)
    assert 1 <= text.mask_L.sum() <= TEXT_TOKENS
    assert np.abs(text.llama_LD[text.mask_L == 1]).max(axis=1).min() > 0
    assert np.all(text.llama_LD[text.mask_L == 0] == 0)


def test_padding_follows_the_real_tokens() -> None:
    assert hashed_text("one two three").mask_L.tolist() == [1] * 3 + [0] * 13


def test_features_are_known_numbers() -> None:
    """A hash that differs between machines or versions would silently spoil every stored dataset."""
    text = hashed_text("A dog runs")
    np.testing.assert_allclose(text.llama_LD[1, :6] * np.sqrt(5), [-3, -5, 1, 5, 1, -1], atol=1e-6)
    np.testing.assert_allclose(text.clip_pooled_D[:6] * np.sqrt(14), [-4, 2, 2, 2, -4, 0], atol=1e-6)


def test_similar_captions_are_nearer_than_unlike_ones() -> None:
    def pooled(caption: str) -> np.ndarray:
        return hashed_text(caption).clip_pooled_D / np.linalg.norm(hashed_text(caption).clip_pooled_D)

    near = pooled("a red disc moves over blue waves") @ pooled("a red disc moves over green waves")
    far = pooled("a red disc moves over blue waves") @ pooled("quickly pouring hot coffee")
    assert near > 0.5 > far


def test_case_is_ignored_and_order_is_not() -> None:
    np.testing.assert_array_equal(hashed_text("A DOG").llama_LD, hashed_text("a dog").llama_LD)
    assert not np.array_equal(hashed_text("man bites dog").clip_pooled_D, hashed_text("dog bites man").clip_pooled_D)


def test_words_past_the_last_token_still_count() -> None:
    start = " ".join(f"word{i}" for i in range(TEXT_TOKENS))
    assert not np.array_equal(hashed_text(start).llama_LD[-1], hashed_text(f"{start} dog").llama_LD[-1])


def test_features_are_of_about_unit_scale() -> None:
    text = hashed_text("a red disc and a green square move over blue waves while the camera pans")
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    image = pooled_thumbnail(noise)
    for values in (text.llama_LD[text.mask_L == 1], text.clip_pooled_D, image):
        assert 0.3 < np.sqrt((values**2).mean()) < 3


@pytest.mark.parametrize(("height_px", "width_px"), [(12, 12), (64, 64), (50, 37), (480, 832)])
def test_any_picture_gives_one_token_a_cell(height_px: int, width_px: int) -> None:
    image = pooled_thumbnail(np.zeros((height_px, width_px, 3), np.uint8))
    assert image.shape == (IMAGE_TOKENS, IMAGE_DIM)


def test_a_thumbnail_says_which_colour_is_where() -> None:
    frame = np.zeros((48, 48, 3), np.uint8)
    frame[:12, :12] = (255, 0, 0)
    image = pooled_thumbnail(frame)
    np.testing.assert_allclose(image[0, :3], [2, -2, -2], atol=1e-6)
    np.testing.assert_allclose(image[1, :3], [-2, -2, -2], atol=1e-6)
    np.testing.assert_allclose(image[:, 27:30], 0, atol=1e-6)


def test_a_picture_too_small_for_a_thumbnail_is_refused() -> None:
    with pytest.raises(ValueError, match="12 x 12"):
        pooled_thumbnail(np.zeros((8, 64, 3), np.uint8))
