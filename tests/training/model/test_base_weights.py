import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import HunyuanVideoFramepackTransformer3DModel, HunyuanVideoTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from preprocessing.samples import CodecRecord
from training.config import ModelConfig
from training.disk_errors import DamagedError
from training.model.base_weights import base_differences, base_fingerprint, find_base, load_base
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.weights import weights_sha256

SIZES = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1,
    "num_single_layers": 1, "num_refiner_layers": 1, "text_embed_dim": 16, "pooled_projection_dim": 8,
    "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
"""The preset `tiny` with the tests' codec, in diffusers' words."""


@pytest.fixture
def framepack(tmp_path: Path) -> Path:
    folder = tmp_path / "framepack"
    torch.manual_seed(7)
    HunyuanVideoFramepackTransformer3DModel(
        **SIZES, has_image_proj=True, image_proj_dim=12, has_clean_x_embedder=True
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def hunyuan(tmp_path: Path) -> Path:
    """A whole pipeline's folder, as HunyuanVideo is published."""
    folder = tmp_path / "hunyuan"
    torch.manual_seed(8)
    HunyuanVideoTransformer3DModel(**SIZES).save_pretrained(folder / "transformer")
    return folder


def load(folder: Path, config: ModelConfig, codec: CodecRecord, seed: int = 0) -> MemoryPackTransformer3DModel:
    return load_base(config, codec, folder, dtype=torch.float32, seed=seed)


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def test_every_weight_of_framepack_is_loaded_and_only_the_memory_is_new(
    framepack: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    model, base = load(framepack, tiny_config, tiny_codec), stored(framepack)
    weights = model.state_dict()
    assert all(torch.equal(weights[name], base[name]) for name in base)
    assert all(name.startswith("semantic_pack.") for name in weights.keys() - base.keys())
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert all(torch.isfinite(tensor).all() and tensor.abs().max() < 10 for tensor in weights.values())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_memory_comes_from_the_seed(framepack: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord) -> None:
    one, same, other = (
        weights_sha256(load(framepack, tiny_config, tiny_codec, seed).state_dict()) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_hunyuan_video_keeps_its_weights_and_gets_what_framepack_has_more(
    hunyuan: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    folder = find_base(hunyuan)
    assert folder == hunyuan / "transformer"
    weights, base = load(folder, tiny_config, tiny_codec).state_dict(), stored(folder)
    assert all(torch.equal(weights[name], base[name]) for name in base)
    new = {name.split(".")[0] for name in weights.keys() - base.keys()}
    assert new == {"clean_x_embedder", "image_projection", "semantic_pack"}
    assert all(torch.isfinite(tensor).all() and not tensor.is_meta for tensor in weights.values())


def test_history_embedders_begin_as_hunyuan_video_s_embedder_of_averaged_latents(
    hunyuan: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    model = load(hunyuan / "transformer", tiny_config, tiny_codec)
    embed, history = model.x_embedder.proj, model.clean_x_embedder
    assert history is not None
    x = torch.randn(1, 4, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(history.proj(x), embed(x))
        torch.testing.assert_close(history.proj_2x(x), embed(F.avg_pool3d(x, 2)))
        torch.testing.assert_close(history.proj_4x(x), embed(F.avg_pool3d(x, 4)))


def test_a_base_of_another_size_is_refused_with_what_differs(
    framepack: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    config = tiny_config.model_copy(update={"preset": "small"})
    with pytest.raises(ValueError, match="num_layers is 1, expected 2"):
        load(framepack, config, tiny_codec)


def test_a_base_with_other_positions_has_the_same_shapes_and_is_refused(
    framepack: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    path = framepack / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 10000.0}))
    assert base_differences(framepack, tiny_config, tiny_codec) == ["rope_theta is 10000.0, expected 256.0"]


def test_a_base_with_a_file_that_was_cut_off_is_refused_and_the_file_is_named(
    framepack: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        os.truncate(framepack / name, (framepack / name).stat().st_size // 2)
        with pytest.raises(DamagedError, match=rf"/{name} is damaged .*; copy or download the folder again"):
            load(framepack, tiny_config, tiny_codec)


def test_pickled_weights_of_a_base_are_not_read(
    framepack: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    torch.save(stored(framepack), framepack / "diffusion_pytorch_model.bin")
    (framepack / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"/diffusion_pytorch_model\.safetensors is missing"):
        load(framepack, tiny_config, tiny_codec)


def test_hunyuan_video_s_own_image_to_video_model_is_refused(
    hunyuan: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    path = hunyuan / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_condition_type": "token_replace"}))
    with pytest.raises(ValueError, match="image_condition_type is 'token_replace', expected None"):
        load(hunyuan / "transformer", tiny_config, tiny_codec)


def test_the_authors_name_of_framepack_is_known_and_other_folders_are_no_base(framepack: Path, tmp_path: Path) -> None:
    path = framepack / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"_class_name": "HunyuanVideoTransformer3DModelPacked"}))
    assert find_base(framepack) == framepack
    path.write_text(json.dumps(settings | {"_class_name": "WanTransformer3DModel"}))
    assert find_base(framepack) is None
    assert find_base(tmp_path) is None


def test_the_fingerprint_of_a_base_follows_its_settings_and_files(framepack: Path, hunyuan: Path) -> None:
    before = base_fingerprint(framepack)
    assert before == base_fingerprint(framepack) != base_fingerprint(hunyuan / "transformer")
    (framepack / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    assert base_fingerprint(framepack) != before
