"""Weights that others have trained: what a MemoryPack model begins from.

A base is a diffusers folder of FramePack, which has every weight of the backbone, or of HunyuanVideo, which has never
seen a history or an image's features. What a base lacks is made here, and nothing else is: the history embedders from
the base's own (as FramePack was made from HunyuanVideo), the image projection and the memory from a seed.

`from_pretrained` into our class must not be used for that: it leaves what a folder lacks on meta, or uninitialised.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel, HunyuanVideoTransformer3DModel
from diffusers.models.transformers.transformer_hunyuan_video_framepack import FramepackClipVisionProjection
from torch import Tensor, nn

from preprocessing.samples import CodecRecord
from training.config import ModelConfig
from training.disk_errors import DamagedError
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model, preset
from training.model.semantic_pack import SemanticPack
from training.model.weight_files import WHAT_TO_DO
from training.model.weights import MEMORY_PREFIX, assign_weights, backbone_config, read_weights

FRAMEPACK = ("HunyuanVideoFramepackTransformer3DModel", "HunyuanVideoTransformer3DModelPacked")
"""What FramePack is called in ``config.json``: by diffusers, and by its authors."""

HUNYUAN_VIDEO = "HunyuanVideoTransformer3DModel"

HISTORY_EMBEDDERS = {"proj": 1, "proj_2x": 2, "proj_4x": 4}
"""FramePack's history embedders, and how strongly each compresses every axis."""


def find_base(source: Path) -> Path | None:
    """The folder of a base: the given one, or its ``transformer``, as a whole pipeline has it; None if neither is."""
    folders = (source, source / "transformer")
    return next((folder for folder in folders if _class_name(folder) in (*FRAMEPACK, HUNYUAN_VIDEO)), None)


def base_fingerprint(folder: Path) -> str:
    """Tells one base from another by its settings and the sizes of its files, which costs no reading of weights."""
    sizes = sorted((path.name, path.stat().st_size) for path in folder.glob("*.safetensors"))
    return hashlib.sha256(json.dumps([_settings(folder), sizes], sort_keys=True).encode()).hexdigest()


def base_differences(folder: Path, config: ModelConfig, codec: CodecRecord) -> list[str]:
    """Where a base's settings are not those of the preset and the codec, one line each."""
    model = build_model(config, codec, device="meta", seed=0)
    ours, theirs = json.loads(json.dumps(backbone_config(model))), _settings(folder)
    names = [name for name in ours if name in theirs and theirs[name] != ours[name]]
    return [f"{name} is {theirs[name]!r}, expected {ours[name]!r}" for name in names]


def load_base(
    config: ModelConfig, codec: CodecRecord, folder: Path, *, dtype: torch.dtype, seed: int
) -> MemoryPackTransformer3DModel:
    """A model with a base's weights, every one of them, and fresh ones where the base has none; on the CPU.

    Args:
        config: Size and memory; the size must be the base's.
        codec: Whose latents the base reads.
        folder: From `find_base`.
        dtype: Of all weights.
        seed: Of the fresh weights.

    Raises:
        ValueError: If the base's sizes are not the preset's and the codec's, or its files are not whole.
    """
    differences = base_differences(folder, config, codec)
    if differences:
        raise ValueError(f"{folder} does not fit the preset and the codec: {'; '.join(differences)}")
    if _class_name(folder) == HUNYUAN_VIDEO:
        weights = read_weights(HunyuanVideoTransformer3DModel, folder, dtype=dtype)
        weights |= history_embedders(weights) | fresh_image_projection(config, codec, dtype=dtype, seed=seed)
    else:
        weights = read_weights(HunyuanVideoFramepackTransformer3DModel, folder, dtype=dtype)
    model = build_model(config, codec, device="meta", seed=seed)
    assign_weights(model, weights | fresh_memory(config, codec, dtype=dtype, seed=seed), source=str(folder))
    return model


def history_embedders(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """FramePack's history embedders from HunyuanVideo's ``x_embedder`` (FramePack's own way).

    An embedder that compresses k times is the embedder of single frames after averaging k latents along every axis.
    """
    weight, bias = weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"]
    embedders: dict[str, Tensor] = {}
    for name, factor in HISTORY_EMBEDDERS.items():
        repeated = weight
        for axis in (2, 3, 4):
            repeated = repeated.repeat_interleave(factor, dim=axis)
        embedders[f"clean_x_embedder.{name}.weight"] = repeated / factor**3
        embedders[f"clean_x_embedder.{name}.bias"] = bias.clone()
    return embedders


def fresh_image_projection(
    config: ModelConfig, codec: CodecRecord, *, dtype: torch.dtype, seed: int
) -> dict[str, Tensor]:
    """Weights of the image projection drawn from `seed`, under their names in the model."""
    size = preset(config.preset)
    width = size.num_heads * size.head_dim
    return _drawn("image_projection.", lambda: FramepackClipVisionProjection(codec.image_dim, width), dtype, seed)


def fresh_memory(config: ModelConfig, codec: CodecRecord, *, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Weights of a memory drawn from `seed`, under their names in the model; none where memory is off."""
    if not config.memory.enabled:
        return {}
    size = preset(config.preset)

    def make() -> SemanticPack:
        return SemanticPack(
            config.memory,
            in_channels=codec.latent_channels,
            text_dim=codec.text_dim,
            image_dim=codec.image_dim,
            out_features=size.num_heads * size.head_dim,
        )

    return _drawn(MEMORY_PREFIX, make, dtype, seed)


def _drawn(prefix: str, make: Callable[[], nn.Module], dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()
    return {prefix + name: tensor.to(dtype) for name, tensor in module.state_dict().items()}


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise DamagedError(f"{path} is damaged ({error}); {WHAT_TO_DO}") from None


def _class_name(folder: Path) -> object:
    return _settings(folder).get("_class_name")
