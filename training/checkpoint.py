"""What is saved, how a run goes on, and how one stage hands its weights to the next.

A checkpoint is a folder: the engine's files of all ranks, ``checkpoint.json``, which says what they belong to, and a
list of the files of each rank, by which a checkpoint that was cut off while it was written is told from a whole one.
Frozen weights are not in it; they come from where the stage began, and a hash makes sure that they are the same. A
stage ends with a model folder of plain safetensors, and the next stage begins from it: DeepSpeed cannot load a
checkpoint of one set of trained parameters into an engine with another.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from preprocessing.samples import CodecRecord
from training.config import ModelConfig
from training.engine.base import Engine
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.model.weights import codec_differences, load_model, read_record, save_model
from training.types import CheckpointRecord

CHECKPOINT_FILE = "checkpoint.json"
LIST_PREFIX = "files-of-rank-"
STEP_PREFIX = "step-"


def write_checkpoint(engine: Engine, folder: Path, record: CheckpointRecord) -> None:
    """Write this rank's share and a list of its files; rank 0 adds the record. All ranks must call it.

    Args:
        engine: What to save.
        folder: Exists and is empty; one for each rank, or one for all. Their files may be merged in any order.
        record: What the checkpoint says of itself.
    """
    engine.save(folder)
    if engine.rank == 0:
        (folder / CHECKPOINT_FILE).write_text(json.dumps(asdict(record), indent=2, sort_keys=True) + "\n")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(LIST_PREFIX))
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / _list_name(engine.rank)).write_text(json.dumps(sizes, indent=2, sort_keys=True) + "\n")


def _list_name(rank: int) -> str:
    return f"{LIST_PREFIX}{rank:05}.json"


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps lies."""
    return checkpoints / f"{STEP_PREFIX}{step:08}"


def newest_step(checkpoints: Path) -> int | None:
    """Steps done at the newest complete checkpoint, None where there is none."""
    return max(complete_steps(checkpoints), default=None)


def complete_steps(checkpoints: Path) -> tuple[int, ...]:
    """Steps of the checkpoints whose files of all ranks are there, whole; ascending."""
    folders = sorted(checkpoints.glob(f"{STEP_PREFIX}*"))
    return tuple(int(folder.name.removeprefix(STEP_PREFIX)) for folder in folders if is_complete(folder))


def is_complete(folder: Path) -> bool:
    """Whether every file that the ranks wrote is there in its full size."""
    try:
        ranks = range(read_checkpoint(folder).num_ranks)
        sizes = [json.loads((folder / _list_name(rank)).read_text()) for rank in ranks]
        return all((folder / name).stat().st_size == size for files in sizes for name, size in files.items())
    except (OSError, ValueError):
        return False


def prune(checkpoints: Path, keep: int) -> None:
    """Remove incomplete checkpoints and all complete ones but the newest `keep`; nobody else may be writing."""
    kept = {step_folder(checkpoints, step) for step in complete_steps(checkpoints)[-keep:]}
    for folder in checkpoints.glob(f"{STEP_PREFIX}*"):
        if folder not in kept:
            shutil.rmtree(folder)


def read_checkpoint(folder: Path) -> CheckpointRecord:
    """What a checkpoint says of itself.

    Raises:
        ValueError: If the folder is no checkpoint.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise ValueError(f"no {CHECKPOINT_FILE} in {folder}: not a checkpoint")
    return CheckpointRecord(**json.loads(path.read_text()))


def restore_newest(engine: Engine, checkpoints: Path, expected: CheckpointRecord) -> int:
    """Bring the engine to its newest complete checkpoint; returns the optimizer steps done. All ranks must call it.

    Args:
        engine: As it was when the stage began, frozen weights included.
        checkpoints: Folder of all checkpoints of the stage.
        expected: What this run would write now, whatever the step.

    Raises:
        ValueError: If the checkpoint belongs to another run, naming every difference.
    """
    # rank 0 looks: a checkpoint that a dying predecessor completes just now must not be seen by some ranks only
    found = newest_step(checkpoints) if engine.rank == 0 else None
    (step,) = (int(total) for total in engine.sum_over_ranks([float(found or 0)]))
    if step == 0:
        return 0
    folder = step_folder(checkpoints, step)
    refuse_other_run(folder, read_checkpoint(folder), expected)
    engine.load(folder)
    return step


def refuse_other_run(folder: Path, stored: CheckpointRecord, expected: CheckpointRecord) -> None:
    """Refuse to go on from what another run left.

    Raises:
        ValueError: Naming every difference.
    """
    differences = checkpoint_differences(stored, expected)
    if differences:
        raise ValueError(
            f"{folder} belongs to another run: {'; '.join(differences)}; use a new --run, or the settings it began with"
        )


def checkpoint_differences(stored: CheckpointRecord, expected: CheckpointRecord) -> list[str]:
    """Why a run cannot go on from a checkpoint, one line each; a different step is no reason."""
    meaning = {
        "stage": "stage",
        "plan_hash": "clips, seed or order (plan_hash)",
        "base_sha256": "weights it began from (base_sha256)",
        "recipe_fingerprint": "model or optimizer settings (recipe_fingerprint)",
        "num_ranks": "number of ranks (train.engine.num_workers)",
        "zero_stage": "ZeRO stage (train.engine.zero_stage)",
    }
    pairs = [(text, getattr(stored, name), getattr(expected, name)) for name, text in meaning.items()]
    return [f"{text} was {old!r} and is {new!r}" for text, old, new in pairs if old != new]


def start_weights(
    config: ModelConfig, codec: CodecRecord, *, init: Path | None, seed: int
) -> MemoryPackTransformer3DModel:
    """The model that a stage begins from, on the CPU in fp32: a model folder's, or fresh weights.

    Raises:
        ValueError: If the folder's model has another size or reads another codec.
    """
    if init is None:
        return build_model(config, codec, device="cpu", seed=seed)
    refuse_other_model(init, config, codec)
    return load_model(init, dtype=torch.float32)[0]


def refuse_other_model(init: Path, config: ModelConfig, codec: CodecRecord) -> None:
    """Refuse to begin from a model folder of another size or codec; positions may differ.

    Raises:
        ValueError: Naming every difference.
    """
    record = read_record(init)
    differences = [*codec_differences(record.codec, codec), *_model_differences(record.model, config)]
    if differences:
        raise ValueError(f"cannot begin from {init}: {'; '.join(differences)}")


def _model_differences(trained: ModelConfig, given: ModelConfig) -> list[str]:
    ours, theirs = (_flat(config.model_dump(exclude={"rope_mode"})) for config in (trained, given))
    return [f"model.{name} was {ours[name]!r} and is {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Settings by their dotted names."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def export_model(
    engine: Engine,
    model: MemoryPackTransformer3DModel,
    folder: Path,
    *,
    config: ModelConfig,
    codec: CodecRecord,
    fps: float,
    sizes_px: tuple[tuple[int, int], ...],
) -> None:
    """Write the model folder of a finished stage: whole or not at all. All ranks must call it; rank 0 writes."""
    with engine.whole_parameters():
        if engine.rank == 0:
            temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
            save_model(model, temporary, config=config, codec=codec, fps=fps, sizes_px=sizes_px)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    engine.sum_over_ranks([0.0])  # nobody goes on before it is there
