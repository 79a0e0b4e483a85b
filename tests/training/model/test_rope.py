import logging

import pytest
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_hunyuan_video_framepack import HunyuanVideoFramepackRotaryPosEmbed
from torch import Tensor

from training.model.rope import longest_wavelength, start_index, temporal_indices, warn_if_positions_repeat

CPU = "cpu"


def rotate(x: Tensor, index: float) -> Tensor:
    """The temporal rotation of the backbone, applied to a vector of 16 features."""
    cos, sin = get_1d_rotary_pos_embed(16, torch.tensor([float(index)]), 256.0, use_real=True)
    partner = torch.stack([-x[1::2], x[::2]], dim=-1).flatten()
    return x * cos[0] + partner * sin[0]


def test_f1_uses_the_same_29_indices_for_every_segment() -> None:
    for segment_index in (0, 3, 40):
        indices = temporal_indices(segment_index, "f1", device=CPU)
        assert indices.flat().tolist() == list(range(29))


def test_relative_start_keeps_the_segment_where_f1_has_it_and_moves_the_start_image() -> None:
    for segment_index, start in ((0, 19), (1, 10), (2, 1), (3, -8), (39, -332)):
        indices = temporal_indices(segment_index, "relative_start", device=CPU)
        assert indices.segment.tolist() == list(range(20, 29))
        assert indices.clean.tolist() == [start, 19]
        assert start_index(segment_index, "relative_start") == start


def test_absolute_counts_latent_frames_of_the_video() -> None:
    indices = temporal_indices(2, "absolute", device=CPU)
    assert indices.segment.tolist() == list(range(19, 28))
    assert indices.flat().tolist() == [0, *range(28)]


@pytest.mark.parametrize("segment_index", [0, 1, 2, 7, 39])
def test_relative_start_and_absolute_agree_on_the_distance_of_any_two_latents(segment_index: int) -> None:
    relative = temporal_indices(segment_index, "relative_start", device=CPU).flat()
    absolute = temporal_indices(segment_index, "absolute", device=CPU).flat()
    assert torch.equal(relative[:, None] - relative, absolute[:, None] - absolute)


def test_equation_2_a_score_depends_on_the_distance_alone() -> None:
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for m, n in ((20.0, 19.0), (5.0, -332.0)):
        score = rotate(query, m) @ rotate(key, n)
        for shift in (-19.0, 37.0):
            torch.testing.assert_close(rotate(query, m + shift) @ rotate(key, n + shift), score, rtol=1e-4, atol=1e-4)
        assert abs(rotate(query, m) @ rotate(key, n + 1) - score) > 1e-3


def test_the_backbone_takes_negative_indices() -> None:
    rope = HunyuanVideoFramepackRotaryPosEmbed(2, 1, [16, 56, 56], 256.0)
    cos, sin = rope(torch.tensor([-332.0, 332.0]), 4, 4, torch.device(CPU))
    before, after = cos.chunk(2)[0], cos.chunk(2)[1]
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(sin.chunk(2)[0][:, :16], -sin.chunk(2)[1][:, :16])


def test_the_slowest_rotation_of_framepack_repeats_after_804_latent_frames() -> None:
    assert round(longest_wavelength(16, 256.0)) == 804


def test_positions_that_repeat_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_positions_repeat(89, "relative_start", temporal_dim=16, theta=256.0)
        warn_if_positions_repeat(400, "f1", temporal_dim=16, theta=256.0)
    assert not caplog.records
    warn_if_positions_repeat(90, "relative_start", temporal_dim=16, theta=256.0)
    assert "ambiguous" in caplog.text
