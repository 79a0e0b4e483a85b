"""Weights: the base model's, ours on disk, and what unmodified diffusers code can load.

A model folder is a diffusers folder (``config.json``, ``diffusion_pytorch_model*.safetensors``: the backbone alone)
with two files more: ``memory.safetensors`` (SemanticPack, where there is one) and ``longtake.json`` (`ModelRecord`).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel, ModelMixin
from safetensors.torch import save_file
from torch import Tensor

from preprocessing.samples import CodecRecord
from training.config import ModelConfig
from training.disk_errors import DamagedError, disk_errors
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.model.weight_files import WHAT_TO_DO, backbone_files, mapped_weights, refuse_damaged_files

RECORD_FILE, MEMORY_FILE = "longtake.json", "memory.safetensors"
MEMORY_PREFIX = "semantic_pack."
FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What a model folder says of itself (``longtake.json``).

    Attributes:
        codec: Whose latents and features the model reads.
        model: Size, memory and positions.
        fps: Frames a second of the training clips.
        sizes_px: (height, width) of the training clips.
        weights_sha256: Of the weights, see `weights_sha256`.
    """

    codec: CodecRecord
    model: ModelConfig
    fps: float
    sizes_px: tuple[tuple[int, int], ...]
    weights_sha256: str


def record_to_json(record: ModelRecord) -> str:
    """The record as JSON text."""
    values = asdict(record) | {"model": record.model.model_dump(), "format_version": FORMAT_VERSION}
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def record_from_json(data: bytes, path: Path) -> ModelRecord:
    """The record from JSON text.

    Args:
        data: The text in UTF-8.
        path: Where it was read.

    Raises:
        DamagedError: If it is not what was written.
        ValueError: If it was written in another format.
    """
    try:
        values = json.loads(data)
        version = values["format_version"]
        if version == FORMAT_VERSION:
            return ModelRecord(
                codec=CodecRecord(**values["codec"]),
                model=ModelConfig.model_validate(values["model"], strict=False),
                fps=values["fps"],
                sizes_px=tuple((height, width) for height, width in values["sizes_px"]),
                weights_sha256=values["weights_sha256"],
            )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is damaged ({error!r}); export the model again") from None
    raise ValueError(f"{path} has format {version!r}; this code reads {FORMAT_VERSION}")


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, whatever the order or the files they lie in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def backbone_config(model: MemoryPackTransformer3DModel) -> dict[str, Any]:
    """The backbone's settings, all explicit: diffusers puts its own defaults where a name is in `_use_default_values`."""
    return {name: value for name, value in model.config.items() if name != "memory" and not name.startswith("_")}


def as_diffusers(model: MemoryPackTransformer3DModel) -> HunyuanVideoFramepackTransformer3DModel:
    """The backbone as the diffusers class, sharing the weights."""
    with torch.device("meta"):
        backbone = HunyuanVideoFramepackTransformer3DModel(**backbone_config(model))
    shared = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(MEMORY_PREFIX)}
    backbone.load_state_dict(shared, assign=True)
    return backbone


def save_model(
    model: MemoryPackTransformer3DModel,
    folder: Path,
    *,
    config: ModelConfig,
    codec: CodecRecord,
    fps: float,
    sizes_px: tuple[tuple[int, int], ...],
) -> ModelRecord:
    """Write a model folder; its record comes last, so that a folder without one is not finished.

    Args:
        model: On any device.
        folder: Made if it is missing.
        config: What the model was built from.
        codec: Whose latents it reads.
        fps: Of the training clips.
        sizes_px: Of the training clips, (height, width).

    Raises:
        OSError: If the disk takes no more.
    """
    (folder / RECORD_FILE).unlink(missing_ok=True)
    with disk_errors(folder):
        as_diffusers(model).save_pretrained(folder, safe_serialization=True)
        if model.semantic_pack is not None:
            memory = {name: tensor.cpu().contiguous() for name, tensor in model.semantic_pack.state_dict().items()}
            save_file(memory, folder / MEMORY_FILE)
    record = ModelRecord(
        codec=codec, model=config, fps=fps, sizes_px=sizes_px, weights_sha256=weights_sha256(model.state_dict())
    )
    (folder / RECORD_FILE).write_text(record_to_json(record))
    return record


def export_diffusers(
    model: MemoryPackTransformer3DModel,
    out: Path,
    *,
    config: ModelConfig,
    codec: CodecRecord,
    fps: float,
    sizes_px: tuple[tuple[int, int], ...],
) -> ModelRecord:
    """Write a model folder that is there whole or not at all, and replaces an older one; see `save_model`.

    Raises:
        ValueError: If `out` exists and is something else.
    """
    refuse_other_folder(out)
    temporary = out.with_name(out.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    record = save_model(model, temporary, config=config, codec=codec, fps=fps, sizes_px=sizes_px)
    if out.exists():
        shutil.rmtree(out)
    temporary.replace(out)
    return record


def refuse_other_folder(out: Path) -> None:
    """Raise where a model folder would replace something else.

    Raises:
        ValueError: If `out` exists and is no model folder.
    """
    if out.exists() and not (out / RECORD_FILE).is_file():
        raise ValueError(f"{out} exists and is not a model folder; nothing was overwritten")


def check_export_folder(source: Path, out: Path) -> None:
    """Raise where `export_folder` would, as far as can be seen without loading weights.

    Raises:
        ValueError: If `source` is no model folder or lacks a file, or `out` exists and is something else.
    """
    refuse_damaged_model(source)
    refuse_other_folder(out)


def export_folder(source: Path, out: Path) -> ModelRecord:
    """`export_diffusers` of a model folder, in fp32.

    Raises:
        ValueError: If `source` is no model folder or is damaged, or `out` exists and is something else.
    """
    check_export_folder(source, out)
    model, record = load_model(source, dtype=torch.float32)
    return export_diffusers(
        model, out, config=record.model, codec=record.codec, fps=record.fps, sizes_px=record.sizes_px
    )


def read_record(folder: Path) -> ModelRecord:
    """What a model folder says of itself.

    Raises:
        ValueError: If the folder is not a finished model folder.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        raise ValueError(f"no {RECORD_FILE} in {folder}: not a model folder; make one with longtake export")
    return record_from_json(path.read_bytes(), path)


def refuse_damaged_model(folder: Path) -> None:
    """Refuse a model folder with a file of weights that is missing or ends too early; no weights are read.

    Raises:
        DamagedError: Naming the file.
        ValueError: If the folder is not a finished model folder.
    """
    refuse_damaged_files(_weight_files(folder, read_record(folder)))


def load_model(folder: Path, *, dtype: torch.dtype) -> tuple[MemoryPackTransformer3DModel, ModelRecord]:
    """The model in a folder written by `save_model`, on the CPU, and its record.

    The weights are held to the record's hash as they are stored, which is right for every `dtype`. That reads all of them,
    and they are read again, from the system's cache if it has room, where they are converted or used. The hash takes a
    second or two for each GB: one to two minutes for the 52 GB of 13 billion parameters in fp32. No second copy is held.

    Args:
        folder: The model folder.
        dtype: Of all weights.

    Raises:
        DamagedError: If a file is missing or damaged, or the weights are not those that the record is of.
        ValueError: If the folder is not a model folder, or its weights are not the model's.
    """
    record = read_record(folder)
    weights = _stored_weights(folder, record)
    _refuse_other_weights(folder, record, weights)
    model = build_model(record.model, record.codec, device="meta", seed=0)
    assign_weights(model, {name: tensor.to(dtype) for name, tensor in weights.items()}, source=str(folder))
    return model, record


def _refuse_other_weights(folder: Path, record: ModelRecord, weights: Mapping[str, Tensor]) -> None:
    found = weights_sha256(weights)
    if found != record.weights_sha256:
        raise DamagedError(
            f"{folder} is damaged: its weights have the hash {found[:16]}, and {RECORD_FILE} is of those with"
            f" {record.weights_sha256[:16]}; {WHAT_TO_DO}"
        )


def _stored_weights(folder: Path, record: ModelRecord) -> dict[str, Tensor]:
    """All weights by their names in the model, as they are stored."""
    return {
        (MEMORY_PREFIX if path.name == MEMORY_FILE else "") + name: tensor
        for path in _weight_files(folder, record)
        for name, tensor in mapped_weights(path).items()
    }


def _weight_files(folder: Path, record: ModelRecord) -> tuple[Path, ...]:
    memory = (folder / MEMORY_FILE,) if record.model.memory.enabled else ()
    return (*backbone_files(folder), *memory)


def read_weights(backbone: type[ModelMixin], folder: Path, *, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights of a diffusers folder, on the CPU.

    Args:
        backbone: The class that the folder is of.
        folder: With ``config.json`` and safetensors.
        dtype: Of all weights.

    Raises:
        DamagedError: If a file is missing or damaged, or the folder lacks a weight, or has one more: diffusers would go
            on with an uninitialised one.
    """
    refuse_damaged_files(backbone_files(folder))
    loaded: Any = backbone.from_pretrained(
        folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    model, found = loaded  # diffusers declares the model alone
    wrong = {kind: sorted(map(str, names))[:5] for kind, names in found.items() if names}
    if wrong:
        raise DamagedError(f"{folder} does not hold the weights of a {backbone.__name__}: {wrong}; download it again")
    return dict(model.state_dict())


def load_for_generate(
    folder: Path, codec: CodecRecord, *, dtype: torch.dtype
) -> tuple[MemoryPackTransformer3DModel, ModelRecord]:
    """The model in a folder, if it reads what the codec writes.

    Raises:
        ValueError: If it doesn't, with every difference.
    """
    differences = codec_differences(read_record(folder).codec, codec)
    if differences:
        raise ValueError(f"{folder} was trained with another codec: {'; '.join(differences)}")
    return load_model(folder, dtype=dtype)


def codec_differences(trained: CodecRecord, given: CodecRecord) -> list[str]:
    """What two codec records disagree on, one line each; the length of a prompt may differ."""
    ours, theirs = (json.loads(json.dumps(asdict(record))) for record in (trained, given))
    names = [name for name in ours if name != "text_tokens" and ours[name] != theirs[name]]
    return [f"{name} was {ours[name]!r} and is {theirs[name]!r}" for name in names]


def assign_weights(model: MemoryPackTransformer3DModel, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Give a model on meta its weights, all of them and no others.

    Raises:
        ValueError: If names or shapes are not the model's.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if wrong:
        shown = "; ".join(f"{name}: expected {expected.get(name)}, got {given.get(name)}" for name in wrong[:5])
        raise ValueError(f"{source} does not fit the preset and the codec: {len(wrong)} weights differ: {shown}")
    model.load_state_dict(weights, assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
