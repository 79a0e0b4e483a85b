import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.members import decode_sample, encode_sample, from_bfloat16, stored_num_segments, to_bfloat16
from preprocessing.samples import LatentSample, TextFeatures


def make_sample(key: str, *, num_segments: int = 1, seed: int = 0) -> LatentSample:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return from_bfloat16(to_bfloat16(rng.standard_normal(shape).astype(np.float32)))

    return LatentSample(
        key=key,
        latents_CTHW=normal(16, 1 + 9 * num_segments, 4, 4),
        start_latent_CTHW=normal(16, 1, 4, 4),
        text=TextFeatures(llama_LD=normal(5, 8), mask_L=np.array([1, 1, 1, 0, 0], np.int64), clip_pooled_D=normal(6)),
        siglip_ND=normal(3, 7),
        metadata={"uri": "videos/клип 100%.mp4", "start_frame": 0, "scores": {"dynamism": 1.5}},
    )


def assert_equal_samples(left: LatentSample, right: LatentSample) -> None:
    assert left.key == right.key
    assert left.metadata == right.metadata
    for a, b in [
        (left.latents_CTHW, right.latents_CTHW),
        (left.start_latent_CTHW, right.start_latent_CTHW),
        (left.text.llama_LD, right.text.llama_LD),
        (left.text.mask_L, right.text.mask_L),
        (left.text.clip_pooled_D, right.text.clip_pooled_D),
        (left.siglip_ND, right.siglip_ND),
    ]:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_rounding_to_bfloat16_is_torchs(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array.copy()).to(torch.bfloat16)
    np.testing.assert_array_equal(to_bfloat16(array), expected.view(torch.uint16).numpy())
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(array)), expected.float().numpy())


def test_a_tie_rounds_to_the_even_neighbour() -> None:
    ties = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    np.testing.assert_array_equal(to_bfloat16(ties), [0x3F80, 0x3F82])


def test_a_sample_comes_back_bit_for_bit() -> None:
    sample = make_sample("clip-1", num_segments=2)
    assert_equal_samples(decode_sample("clip-1", encode_sample(sample)), sample)


def test_arrays_that_are_not_contiguous_are_stored_as_they_look() -> None:
    sample = make_sample("clip-1")
    flipped = LatentSample(
        key=sample.key, latents_CTHW=sample.latents_CTHW[..., ::-1], start_latent_CTHW=sample.start_latent_CTHW,
        text=sample.text, siglip_ND=sample.siglip_ND.T, metadata={},
    )  # fmt: skip
    assert_equal_samples(decode_sample("clip-1", encode_sample(flipped)), flipped)


def test_the_header_tells_the_number_of_segments() -> None:
    assert stored_num_segments(encode_sample(make_sample("a", num_segments=3))["latents.safetensors"]) == 3


def test_a_nan_is_refused_by_name() -> None:
    sample = make_sample("clip-1")
    sample.latents_CTHW[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="clip-1 cannot be stored: a value is not finite"):
        encode_sample(sample)


@pytest.mark.parametrize("key", ["a.b", "A", "../a", "", "клип"])
def test_a_key_that_webdataset_or_tar_would_misread_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not a clip id"):
        encode_sample(make_sample(key))


def test_members_that_are_missing_or_broken_are_named() -> None:
    members = encode_sample(make_sample("a"))
    with pytest.raises(ValueError, match=r"lacks json, text\.safetensors"):
        decode_sample("a", {name: data for name, data in members.items() if name not in ("json", "text.safetensors")})
    with pytest.raises(ValueError, match="broken safetensors"):
        decode_sample("a", {**members, "latents.safetensors": members["latents.safetensors"][:-1]})
