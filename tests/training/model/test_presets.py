from dataclasses import replace

import pytest
import torch

from preprocessing.samples import CodecRecord
from training.config import MemoryConfig, ModelConfig
from training.model.presets import PRESETS, Preset, build_model
from training.model.weights import weights_sha256


def test_the_full_size_is_framepack_f1(tiny_codec: CodecRecord) -> None:
    hunyuan = replace(tiny_codec, latent_channels=16, text_dim=4096, pooled_dim=768, image_dim=1152)
    model = build_model(ModelConfig(preset="framepack_f1"), hunyuan, device="meta", seed=0)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.semantic_pack is not None
    memory = sum(parameter.numel() for parameter in model.semantic_pack.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - memory == 12_874_314_816


def test_the_codec_decides_what_the_model_reads(tiny_codec: CodecRecord) -> None:
    model = build_model(ModelConfig(preset="tiny"), tiny_codec, device="cpu", seed=0)
    assert (model.config["in_channels"], model.config["out_channels"]) == (4, 4)
    assert model.config["text_embed_dim"] == 16
    assert model.config["pooled_projection_dim"] == 8
    assert model.config["image_proj_dim"] == 12


def test_weights_come_from_the_seed_and_leave_other_random_numbers_alone(tiny_codec: CodecRecord) -> None:
    def build(seed: int) -> str:
        return weights_sha256(build_model(ModelConfig(), tiny_codec, device="cpu", seed=seed).state_dict())

    torch.manual_seed(5)
    one, drawn = build(0), torch.rand(3)
    assert one == build(0) != build(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


def test_the_memory_does_not_change_the_backbone_s_weights(tiny_codec: CodecRecord) -> None:
    with_memory = build_model(ModelConfig(), tiny_codec, device="cpu", seed=0).state_dict()
    without = build_model(ModelConfig(memory=MemoryConfig(enabled=False)), tiny_codec, device="cpu", seed=0)
    assert all(torch.equal(with_memory[name], tensor) for name, tensor in without.state_dict().items())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_model(name: str, tiny_codec: CodecRecord) -> None:
    assert build_model(ModelConfig(preset=name), tiny_codec, device="meta", seed=0).num_parameters() > 100_000


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'tiny', 'demo', 'small' or 'framepack_f1'"):
        ModelConfig.model_validate({"preset": "huge"})


def test_every_preset_may_be_asked_for() -> None:
    assert [ModelConfig.model_validate({"preset": name}).preset for name in PRESETS] == list(PRESETS)


def test_rotations_must_fill_a_head() -> None:
    with pytest.raises(ValueError, match="add up to head_dim 16"):
        Preset(
            num_heads=2,
            head_dim=16,
            num_dual_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            rope_axes_dim=(4, 6, 8),
        )
