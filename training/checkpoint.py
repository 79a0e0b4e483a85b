"""What is saved, how a run goes on, and how one stage hands its weights to the next.

A checkpoint is a folder: the fragments of all ranks (`training.engine.fragments`), and beside them what says whose they are and
whether they are whole (`training.checkpoint_files`). Any number of ranks reads what any number wrote. Frozen weights are not
in it; they come from where the stage began, and a hash makes sure that they are the same. A stage ends with a model folder
of plain safetensors, made from its last checkpoint, and the next stage begins from it.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from preprocessing.samples import CodecRecord
from training.checkpoint_files import (
    CHECKPOINT_FILE,
    complete_steps,
    damaged_files,
    read_checkpoint,
    step_folder,
    stored_file,
    write_list,
)
from training.compatibility import is_base, refuse_missing, refuse_other_model, refuse_other_run
from training.config import ModelConfig
from training.disk_errors import DamagedError
from training.engine.base import Engine
from training.engine.fragments import EMA, WEIGHT, StoredFragments, load_fragments, rank_file, save_fragments
from training.model.base_weights import load_base
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.model.weights import load_model, weights_sha256
from training.objectives.base import MODEL_PREFIX
from training.retention import nothing_left, remove_cut_off, set_aside, set_aside_incomplete
from training.types import CheckpointRecord

Weights = Literal["live", "ema"]
"""The weights of a step, or their moving average."""

_KINDS: Mapping[Weights, str] = {"live": WEIGHT, "ema": EMA}

logger = logging.getLogger(__name__)


def write_checkpoint(engine: Engine, folder: Path, record: CheckpointRecord) -> None:
    """Write this rank's share and a list of its files; rank 0 adds the record. All ranks must call it.

    Args:
        engine: What to save.
        folder: Exists; one for each rank, or one for all. Their files may be merged in any order.
        record: What the checkpoint says of itself.
    """
    mine = engine.fragments if engine.rank == 0 or not engine.replicated else ()
    save_fragments(rank_file(folder, engine.rank), mine)
    written = [rank_file(folder, engine.rank)]
    if engine.rank == 0:
        written.append(folder / CHECKPOINT_FILE)
        written[-1].write_text(json.dumps(asdict(record), indent=2, sort_keys=True) + "\n")
    files = {path.name: stored_file(path, engine.has_read) for path in written}
    write_list(folder, engine.rank, files)


def restore_newest(engine: Engine, checkpoints: Path, expected: CheckpointRecord, *, allow_changed: bool) -> int:
    """Bring the engine to its newest checkpoint that is whole and undamaged; returns the optimizer steps done.

    All ranks must call it. What a rank reads is progress of `engine.has_read`, so the others wait for it however long it takes.

    Args:
        engine: As it was when the stage began, frozen weights included.
        checkpoints: Folder of all checkpoints of the stage.
        expected: What this run would write now, whatever the step.
        allow_changed: See `refuse_other_run`.

    Raises:
        OtherRunError: If the checkpoint belongs to another run, naming every difference.
        DamagedError: If there are some and all are damaged.
    """
    step = _newest_undamaged(engine, checkpoints)
    if not step:
        return 0
    folder = step_folder(checkpoints, step)
    stored = read_checkpoint(folder)
    refuse_other_run(folder, stored, expected, allow_changed=allow_changed)
    fragments = StoredFragments(folder, num_ranks=stored.num_ranks)
    for fragment in engine.fragments:
        load_fragments(fragments, (fragment,))
        engine.has_read()
    engine.restore_num_updates(stored.num_updates)
    engine.publish()
    return step


def _newest_undamaged(engine: Engine, checkpoints: Path) -> int:
    """Steps done at it, 0 where there is none at all; the ranks share the reading, and rank 0 sets aside the damaged ones."""
    if engine.rank == 0:  # also where the workers alone began again; the others wait for the first sum
        set_aside_incomplete(checkpoints)
    damaged: list[int] = []
    while step := _newest_before(min(damaged, default=math.inf), engine, checkpoints):
        if not _is_damaged(engine, step_folder(checkpoints, step)):
            break
        damaged.append(step)
    if damaged and not step:
        raise nothing_left(checkpoints, len(damaged))
    if engine.rank == 0:
        for newer in damaged:
            set_aside(step_folder(checkpoints, newer))
        remove_cut_off(checkpoints, step)
    return step


def _newest_before(limit: float, engine: Engine, checkpoints: Path) -> int:
    """Steps done at the newest complete checkpoint of fewer, 0 where there is none; the same on all ranks."""
    # rank 0 looks: a checkpoint that a dying predecessor completes just now must not be seen by some ranks only
    steps = complete_steps(checkpoints) if engine.rank == 0 else ()
    found = max((step for step in steps if step < limit), default=0)
    return int(*engine.sum_over_ranks([float(found)]))


def _is_damaged(engine: Engine, folder: Path) -> bool:
    """Whether a rank finds its share of the files so; the same on all ranks."""
    damage = _damage_of_share(engine, folder)
    if damage:
        logger.warning("%s is damaged and passed over: %s", folder, damage)
    return any(engine.sum_over_ranks([float(bool(damage))]))


def _damage_of_share(engine: Engine, folder: Path) -> str:
    """What is wrong with this rank's share of the files of a checkpoint; empty if nothing is."""
    try:
        ranks = range(read_checkpoint(folder).num_ranks)[engine.rank :: engine.num_ranks]
        damaged = damaged_files(folder, ranks, engine.has_read)
    except (OSError, DamagedError) as error:
        return str(error)
    return f"{', '.join(damaged)} not what was written" if damaged else ""


def start_weights(
    config: ModelConfig, codec: CodecRecord, *, init: Path | None, seed: int
) -> MemoryPackTransformer3DModel:
    """The model that a stage begins from, on the CPU in fp32: fresh weights, a base's, or a model folder's.

    Raises:
        DamagedError: If a file of the folder is missing or damaged.
        ValueError: If the folder is not there, or its model has another size or reads another codec.
    """
    refuse_missing(init)
    if init is None:
        return build_model(config, codec, device="cpu", seed=seed)
    if is_base(init):
        return load_base(config, codec, init, dtype=torch.float32, seed=seed)
    refuse_other_model(init, config, codec)
    return load_model(init, dtype=torch.float32)[0]


def load_weights(model: MemoryPackTransformer3DModel, folder: Path, weights: Weights) -> None:
    """Give a model that a stage began from the weights of one of its checkpoints, in fp32.

    Args:
        model: As the stage began, on the CPU.
        folder: The checkpoint.
        weights: Which of those in it.

    Raises:
        ValueError: If the model is not what the stage began from, no average was kept, or the checkpoint is damaged.
    """
    record = read_checkpoint(folder)
    damaged = damaged_files(folder, range(record.num_ranks), lambda: None)
    if damaged:
        raise ValueError(f"{folder} is damaged: {', '.join(damaged)} not what was written; choose another by --step")
    if weights_sha256(model.state_dict()) != record.base_sha256:
        raise ValueError(f"{folder} is not of a stage that began from these weights: their hash is another")
    stored, kind = stored_weights(folder, weights), _KINDS[weights]
    for name in stored.parameters:
        parameter = model.get_parameter(name.removeprefix(MODEL_PREFIX))
        stored.fill(parameter.detach().view(-1), kind=kind, name=name, start=0)


def stored_weights(folder: Path, weights: Weights) -> StoredFragments:
    """Those of a checkpoint; nothing is loaded yet.

    Raises:
        ValueError: If no average was kept, or a file is damaged where it says what is in it.
    """
    try:
        stored = StoredFragments(folder, num_ranks=read_checkpoint(folder).num_ranks)
    except SafetensorError as error:
        raise ValueError(f"{folder} is damaged ({error}); choose another by --step") from None
    if not stored.has(_KINDS[weights]):
        raise ValueError(f"{folder} holds no moving average: it is kept where train.ema_decay is set")
    return stored
