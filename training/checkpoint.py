"""What is saved, how a run goes on, and how one stage hands its weights to the next.

A checkpoint is a folder: the fragments of all ranks (`training.engine.fragments`), ``checkpoint.json``, which says what
they belong to, and a list of the files of each rank with their sizes and checksums: by the sizes a checkpoint that was cut
off while it was written is told from a whole one, by the sums, where it is read, a damaged one, which is set aside under
another name. Any number of ranks reads what any number wrote. Frozen weights are not in it; they come from where the stage began, and a hash makes sure that they
are the same. A stage ends with a model folder of plain safetensors, made from its last checkpoint, and the next stage
begins from it.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from safetensors import SafetensorError

from preprocessing.samples import CodecRecord
from training.compatibility import is_base, refuse_missing, refuse_other_model, refuse_other_run
from training.config import CheckpointConfig, ModelConfig
from training.engine.base import Engine
from training.engine.fragments import EMA, WEIGHT, StoredFragments, load_fragments, rank_file, save_fragments
from training.model.base_weights import load_base
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.model.weights import load_model, weights_sha256
from training.objectives.base import MODEL_PREFIX
from training.types import CheckpointRecord, ClipFormat

Weights = Literal["live", "ema"]
"""The weights of a step, or their moving average."""

_KINDS: Mapping[Weights, str] = {"live": WEIGHT, "ema": EMA}

CHECKPOINT_FILE = "checkpoint.json"
LIST_PREFIX = "files-of-rank-"
STEP_PREFIX = "step-"
DAMAGED_PREFIX = "damaged-"
"""Begins the names of checkpoints that were set aside: nothing looks for them, and nothing removes them."""
READ_BYTES = 1 << 20
"""Read at once for a checksum."""

OnRead = Callable[[], None]
"""Is called after each piece of a file that was read; what takes minutes is seen to go on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a checkpoint, as the rank that wrote it lists it.

    Attributes:
        size: In bytes.
        xxh3: Of its bytes; None from a version of longtake that kept none.
    """

    size: int
    xxh3: str | None


class _Unreadable(ValueError):
    """A list of files that is none."""


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
    files = {path.name: asdict(_stored_file(path, engine.has_read)) for path in written}
    (folder / _list_name(engine.rank)).write_text(json.dumps(files, indent=2, sort_keys=True) + "\n")


def _list_name(rank: int) -> str:
    return f"{LIST_PREFIX}{rank:05}.json"


def _listed(folder: Path, rank: int) -> dict[str, StoredFile]:
    """The files of a rank by their names."""
    text = (folder / _list_name(rank)).read_bytes()
    try:
        return {
            name: StoredFile(size=value, xxh3=None) if isinstance(value, int) else StoredFile(**value)
            for name, value in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError):
        raise _Unreadable(f"{folder / _list_name(rank)} is not what was written") from None


def _stored_file(path: Path, on_read: OnRead) -> StoredFile:
    return StoredFile(size=path.stat().st_size, xxh3=_xxh3(path, on_read))


def _xxh3(path: Path, on_read: OnRead) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
            on_read()
    return digest.hexdigest()


def damaged_files(folder: Path, ranks: Iterable[int], on_read: OnRead) -> list[str]:
    """Names of the files of these ranks whose bytes are not those that were written; all of them are read.

    Raises:
        OSError: If one cannot be read.
    """
    listed = (item for rank in ranks for item in _listed(folder, rank).items())
    return [name for name, file in listed if file.xxh3 is not None and _xxh3(folder / name, on_read) != file.xxh3]


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
    """Whether every file that the ranks wrote is there in its full size, and says what was written.

    Raises:
        OSError: If the disk does not say; a checkpoint that cannot be seen just now is none that was cut off.
        ValueError: If another version of longtake wrote it.
    """
    return _state(folder) == "whole"


def _state(folder: Path) -> Literal["whole", "cut off", "damaged"]:
    """As far as the lists and the record tell; files of fragments are not read. Raises as `is_complete`."""
    try:
        if not _says_what_was_written(folder):
            return "damaged"
        ranks = range(read_checkpoint(folder).num_ranks)
        whole = all(_are_there(folder, _listed(folder, rank)) for rank in ranks)
    except FileNotFoundError:
        return "cut off"
    except _Unreadable:
        return "damaged"
    return "whole" if whole else "cut off"


def _says_what_was_written(folder: Path) -> bool:
    """Whether the record has the checksum that the first rank's list has of it; true if it is shorter, and so was cut off."""
    written, path = _listed(folder, 0).get(CHECKPOINT_FILE), folder / CHECKPOINT_FILE
    if written is None or path.stat().st_size < written.size:
        return written is not None
    return written.xxh3 in (None, _xxh3(path, lambda: None))


def _are_there(folder: Path, listed: Mapping[str, StoredFile]) -> bool:
    return all((folder / name).stat().st_size == file.size for name, file in listed.items())


def remove_incomplete(checkpoints: Path) -> None:
    """Remove checkpoints that were cut off, and set aside those that say what nobody wrote; nobody may be writing one.

    Raises:
        OSError: As `is_complete`.
        ValueError: As `is_complete`; or if there are damaged ones alone.
    """
    states = {folder: _state(folder) for folder in sorted(checkpoints.glob(f"{STEP_PREFIX}*"))}
    damaged = [folder for folder, state in states.items() if state == "damaged"]
    for folder in damaged:
        logger.warning("%s is damaged and passed over: its lists are not what was written", folder)
    if damaged and "whole" not in states.values():
        raise _nothing_left(checkpoints, len(damaged))
    for folder in damaged:
        _set_aside(folder)
    for folder, state in states.items():
        if state == "cut off":
            shutil.rmtree(folder)


def _nothing_left(checkpoints: Path, num_damaged: int) -> ValueError:
    return ValueError(
        f"none of the {num_damaged} checkpoints in {checkpoints} can be read as it was written (the warnings say why):"
        " bring back their files, or remove the folder to begin the stage anew"
    )


def _set_aside(folder: Path) -> None:
    """Give a checkpoint a name under which it counts no more; its files stay for people to look at."""
    places = (folder.with_name(f"{DAMAGED_PREFIX}{n}-{folder.name}") for n in count(1))
    place = next(place for place in places if not place.exists())
    folder.rename(place)
    logger.warning("%s is now %s: it counts no more, and nothing removes it but you", folder, place.name)


def prune(checkpoints: Path, config: CheckpointConfig) -> None:
    """Remove complete checkpoints, all but the newest and, if asked, the one with the lowest held-out loss."""
    steps = complete_steps(checkpoints)
    kept = {*steps[-config.keep :], *(best_steps(checkpoints, steps) if config.keep_best else ())}
    for step in steps:
        if step not in kept:
            shutil.rmtree(step_folder(checkpoints, step))


def best_steps(checkpoints: Path, steps: Sequence[int]) -> tuple[int, ...]:
    """Of these steps the one with the lowest held-out loss, the last of equals; none if none was measured as a number."""
    losses = {step: read_checkpoint(step_folder(checkpoints, step)).val_loss for step in steps}
    measured = {step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)}
    return (min(measured, key=lambda step: (measured[step], -step)),) if measured else ()


def read_checkpoint(folder: Path) -> CheckpointRecord:
    """What a checkpoint says of itself.

    Raises:
        ValueError: If the folder is no checkpoint, or one of another version of longtake.
    """
    path = folder / CHECKPOINT_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ValueError(f"no {CHECKPOINT_FILE} in {folder}: not a checkpoint") from None
    return record_from_values(json.loads(text), path)


def record_from_values(values: Mapping[str, Any], path: Path) -> CheckpointRecord:
    """A record from the values in a file.

    Raises:
        ValueError: If they are those of another version of longtake.
    """
    try:
        return CheckpointRecord(**{**values, "clip_format": _clip_format(values.get("clip_format"))})
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{path} was written by another version of longtake; use a new --run") from None


def _clip_format(values: Mapping[str, Any] | None) -> ClipFormat | None:
    if values is None:
        return None
    sizes_px = tuple((height, width) for height, width in values["sizes_px"])
    return ClipFormat(codec=CodecRecord(**values["codec"]), fps=values["fps"], sizes_px=sizes_px)


def restore_newest(engine: Engine, checkpoints: Path, expected: CheckpointRecord, *, allow_changed: bool) -> int:
    """Bring the engine to its newest checkpoint that is whole and undamaged; returns the optimizer steps done.

    All ranks must call it. What a rank reads is progress of `engine.has_read`, so the others wait for it however long it takes.

    Args:
        engine: As it was when the stage began, frozen weights included.
        checkpoints: Folder of all checkpoints of the stage.
        expected: What this run would write now, whatever the step.
        allow_changed: See `refuse_other_run`.

    Raises:
        ValueError: If the checkpoint belongs to another run, naming every difference; or if there are some and all are damaged.
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
    damaged: list[int] = []
    while step := _newest_before(min(damaged, default=math.inf), engine, checkpoints):
        if not _is_damaged(engine, step_folder(checkpoints, step)):
            break
        damaged.append(step)
    if damaged and not step:
        raise _nothing_left(checkpoints, len(damaged))
    if engine.rank == 0:
        for newer in damaged:
            _set_aside(step_folder(checkpoints, newer))
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
    except OSError as error:
        return str(error)
    return f"{', '.join(damaged)} not what was written" if damaged else ""


def start_weights(
    config: ModelConfig, codec: CodecRecord, *, init: Path | None, seed: int
) -> MemoryPackTransformer3DModel:
    """The model that a stage begins from, on the CPU in fp32: fresh weights, a base's, or a model folder's.

    Raises:
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
