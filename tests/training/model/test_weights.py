import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from safetensors.torch import load_file, save_file

from preprocessing.samples import CodecRecord
from tests.training.small_checkpoint import flip
from training.config import MemoryConfig, ModelConfig
from training.disk_errors import DamagedError
from training.model.memory_pack import MemoryPackTransformer3DModel, first_context, next_context, predict_velocity
from training.model.presets import build_model
from training.model.weights import (
    as_diffusers,
    check_export_folder,
    export_diffusers,
    export_folder,
    load_for_generate,
    load_model,
    read_weights,
    refuse_damaged_model,
    save_model,
    weights_sha256,
)
from training.types import Condition


@pytest.fixture
def folder(
    tmp_path: Path, tiny_model: MemoryPackTransformer3DModel, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> Path:
    save_model(tiny_model, tmp_path, config=tiny_config, codec=tiny_codec, fps=24.0, sizes_px=((32, 48),))
    return tmp_path


def test_a_saved_model_comes_back_to_the_bit(
    folder: Path, tiny_model: MemoryPackTransformer3DModel, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    model, record = load_model(folder, dtype=torch.float32)
    assert weights_sha256(model.state_dict()) == weights_sha256(tiny_model.state_dict()) == record.weights_sha256
    assert (record.model, record.codec) == (tiny_config, tiny_codec)
    assert (record.fps, record.sizes_px) == (24.0, ((32, 48),))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_unmodified_diffusers_loads_the_folder_and_computes_the_same(
    folder: Path, tiny_model: MemoryPackTransformer3DModel, condition_of: Callable[[list[int]], Condition]
) -> None:
    theirs, unused = HunyuanVideoFramepackTransformer3DModel.from_pretrained(folder, output_loading_info=True)
    assert not any(unused.values())
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "HunyuanVideoFramepackTransformer3DModel"
    rng = torch.Generator().manual_seed(0)
    start, noise = torch.randn(1, 4, 1, 4, 6, generator=rng), torch.randn(1, 4, 9, 4, 6, generator=rng)
    condition = condition_of([3])
    ours = predict_velocity(
        tiny_model, noise, torch.tensor([0.3]), first_context(start), condition, guidance_scale=6.0, rope_mode="f1"
    )
    indices = torch.arange(29)
    output = theirs(
        hidden_states=noise,
        timestep=torch.tensor([700.0]),
        encoder_hidden_states=condition.text_BLD,
        encoder_attention_mask=condition.text_mask_BL,
        pooled_projections=condition.pooled_BD,
        image_embeds=condition.image_BND,
        indices_latents=indices[20:],
        guidance=torch.tensor([6000.0]),
        latents_clean=start.expand(-1, -1, 2, -1, -1),
        indices_latents_clean=indices[[0, 19]],
        latents_history_2x=torch.zeros(1, 4, 2, 4, 6),
        indices_latents_history_2x=indices[17:19],
        latents_history_4x=torch.zeros(1, 4, 16, 4, 6),
        indices_latents_history_4x=indices[1:17],
    ).sample
    torch.testing.assert_close(ours, -output, rtol=0, atol=1e-6)


def test_an_export_replaces_a_model_folder_whole_and_nothing_else(
    tmp_path: Path, tiny_model: MemoryPackTransformer3DModel, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    def export(name: str) -> None:
        export_diffusers(
            tiny_model, tmp_path / name, config=tiny_config, codec=tiny_codec, fps=24.0, sizes_px=((32, 32),)
        )

    export("model")
    (tmp_path / "model" / "left_over").touch()
    (tmp_path / "model.part").mkdir()
    export("model")
    expected = ["config.json", "diffusion_pytorch_model.safetensors", "longtake.json", "memory.safetensors"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "holidays").mkdir()
    with pytest.raises(ValueError, match="nothing was overwritten"):
        export("holidays")


def test_a_folder_that_lacks_a_weight_is_refused(folder: Path) -> None:
    """Diffusers itself would go on with an uninitialised one."""
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["proj_out.weight"]
    save_file(weights, file)
    with pytest.raises(DamagedError, match=r"missing_keys.*proj_out\.weight"):
        read_weights(HunyuanVideoFramepackTransformer3DModel, folder, dtype=torch.float32)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "memory.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_a_flipped_bit_is_not_loaded_in_any_type(folder: Path, name: str, dtype: torch.dtype) -> None:
    load_model(folder, dtype=dtype)
    flip(folder / name, -4)  # the lowest bit of an fp32 number, which bf16 does not keep
    with pytest.raises(DamagedError, match=rf"{folder} is damaged: its weights have the hash .*; copy or download"):
        load_model(folder, dtype=dtype)


def test_a_model_with_a_flipped_bit_is_not_exported_under_a_new_hash(folder: Path, tmp_path: Path) -> None:
    flip(folder / "diffusion_pytorch_model.safetensors", -4)
    with pytest.raises(DamagedError, match="is damaged"):
        export_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_memory_of_another_model_is_not_taken_for_this_one_s(
    folder: Path, tiny_config: ModelConfig, tiny_codec: CodecRecord
) -> None:
    other = build_model(tiny_config, tiny_codec, device="cpu", seed=1)
    assert other.semantic_pack is not None
    save_file(other.semantic_pack.state_dict(), folder / "memory.safetensors")
    with pytest.raises(DamagedError, match="is damaged"):
        load_model(folder, dtype=torch.float32)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "memory.safetensors"])
def test_a_model_folder_with_a_file_that_was_cut_off_or_is_missing_is_refused_before_it_is_loaded_too(
    folder: Path, name: str
) -> None:
    file = folder / name
    for change, said in (
        (lambda: os.truncate(file, file.stat().st_size // 2), "is damaged"),
        (file.unlink, "is missing"),
    ):
        change()
        for use in (
            refuse_damaged_model,
            lambda folder: load_model(folder, dtype=torch.bfloat16),
            lambda folder: check_export_folder(folder, folder / "out"),
        ):
            with pytest.raises(DamagedError, match=rf"/{name} {said}"):
                use(folder)


def test_a_model_in_several_files_comes_back_and_each_of_them_must_be_there(
    folder: Path, tiny_model: MemoryPackTransformer3DModel
) -> None:
    as_diffusers(tiny_model).save_pretrained(folder, max_shard_size="200KB")
    first, *more = sorted(folder.glob("diffusion_pytorch_model-*.safetensors"))
    assert more
    refuse_damaged_model(folder)
    model, record = load_model(folder, dtype=torch.float32)
    assert weights_sha256(model.state_dict()) == record.weights_sha256
    first.unlink()
    with pytest.raises(DamagedError, match=rf"/{first.name} is missing"):
        refuse_damaged_model(folder)


def test_a_model_without_memory_has_one_file_less(
    tmp_path: Path, plain_model: MemoryPackTransformer3DModel, tiny_codec: CodecRecord
) -> None:
    config = ModelConfig(preset="tiny", memory=MemoryConfig(enabled=False))
    record = save_model(plain_model, tmp_path, config=config, codec=tiny_codec, fps=24.0, sizes_px=((32, 48),))
    refuse_damaged_model(tmp_path)
    model, _ = load_model(tmp_path, dtype=torch.float32)
    assert weights_sha256(model.state_dict()) == record.weights_sha256


@pytest.mark.parametrize("kept", [b"", b'{"codec": {', b'{"codec": "\xff"}', b"[]"])
def test_a_record_that_is_damaged_is_named(folder: Path, kept: bytes) -> None:
    path = folder / "longtake.json"
    path.write_bytes(kept)
    with pytest.raises(DamagedError, match=rf"{path} is damaged"):
        refuse_damaged_model(folder)


def test_another_codec_is_refused_with_what_differs(folder: Path, tiny_codec: CodecRecord) -> None:
    load_for_generate(folder, replace(tiny_codec, text_tokens=99), dtype=torch.float32)
    other = replace(tiny_codec, codec_id="dct", latent_channels=16)
    with pytest.raises(ValueError, match="codec_id was 'tiny' and is 'dct'; latent_channels was 4 and is 16"):
        load_for_generate(folder, other, dtype=torch.float32)


def test_a_folder_without_a_record_is_no_model_folder(folder: Path) -> None:
    (folder / "longtake.json").unlink()
    with pytest.raises(ValueError, match="not a model folder"):
        load_model(folder, dtype=torch.float32)


def test_the_hash_of_weights_knows_names_values_and_types_but_no_order() -> None:
    one, two = torch.ones(2), torch.zeros(3)
    expected = weights_sha256({"a": one, "b": two})
    assert weights_sha256({"b": two, "a": one}) == expected
    others = ({"a": one, "c": two}, {"a": one.bfloat16(), "b": two}, {"a": one, "b": two + 1}, {"a": one})
    assert all(weights_sha256(other) != expected for other in others)


def test_the_backbone_is_shared_and_not_copied(tiny_model: MemoryPackTransformer3DModel) -> None:
    backbone = as_diffusers(tiny_model)
    assert backbone.proj_out.weight.data_ptr() == tiny_model.proj_out.weight.data_ptr()


def test_save_pretrained_and_from_pretrained_of_the_class_itself_agree(
    tmp_path: Path, tiny_model: MemoryPackTransformer3DModel, condition_of: Callable[[list[int]], Condition]
) -> None:
    tiny_model.save_pretrained(tmp_path)
    again = MemoryPackTransformer3DModel.from_pretrained(tmp_path)
    x_t, t = torch.randn(1, 4, 9, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])
    condition = condition_of([6])
    with torch.no_grad():
        outputs = []
        for model in (tiny_model, again):
            context = next_context(model, first_context(x_t[:, :, :1]), condition, x_t)
            outputs.append(
                predict_velocity(model, x_t, t, context, condition, guidance_scale=1.0, rope_mode="relative_start")
            )
    assert torch.equal(*outputs)
