"""What is saved, how a run goes on, and how one stage hands its weights to the next.

A checkpoint is a folder: the fragments of all ranks (`training.engine.fragments`), ``checkpoint.json``, which says what
they belong to, and a list of the files of each rank with their sizes and checksums, and with a checksum of its own: by
these a whole checkpoint is told from one whose copy was cut off and from a damaged one (`_state`), and neither is removed
where it may be the newest (`remove_incomplete`). Any number of ranks reads what any number wrote. Frozen weights are not
in it; they come from where the stage began, and a hash makes sure that they are the same. A stage ends with a model folder
of plain safetensors, made from its last checkpoint, and the next stage begins from it.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, NoReturn

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
CUT_OFF_PREFIX = "cut-off-"
"""Begins the names of those that are not whole and were set aside until one as late is."""
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


class _CutOff(ValueError):
    """A file ends before it should."""


class _Damaged(ValueError):
    """A file says what nobody wrote."""


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
    values = {"files": files, "xxh3": _xxh3_of_list({"files": files})}
    (folder / _list_name(engine.rank)).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _list_name(rank: int) -> str:
    return f"{LIST_PREFIX}{rank:05}.json"


def _xxh3_of_list(values: Mapping[str, object]) -> str:
    """The list's checksum of all else in it."""
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())


def _listed(folder: Path, rank: int) -> dict[str, StoredFile]:
    """The files of a rank by their names. Raises what `_state` tells apart, and ValueError for a list of another version."""
    path = folder / _list_name(rank)
    values = _json_values(path)
    has_sum = "xxh3" in values or "files" in values
    if has_sum:
        own = values.pop("xxh3", None)
        if own != _xxh3_of_list(values):
            raise _Damaged(f"{path} is not what was written")
    try:
        files = values["files"] if has_sum else values
        return {name: _file_from_value(value) for name, value in files.items()}
    except (KeyError, TypeError, AttributeError):
        if has_sum or _have_new_fields(values):
            _refuse_other_version(path)
        raise _Damaged(f"{path} is not what was written") from None


def _file_from_value(value: int | Mapping[str, Any]) -> StoredFile:
    """The first lists held sizes alone."""
    return StoredFile(size=value, xxh3=None) if isinstance(value, int) else StoredFile(**value)


def _have_new_fields(files: Mapping[str, Any]) -> bool:
    known = asdict(StoredFile(size=0, xxh3=None)).keys()
    return all(isinstance(value, dict) and value.keys() > known for value in files.values())


def _json_values(path: Path) -> dict[str, Any]:
    """An object from a file; the beginning of one lacks the last line."""
    text = path.read_bytes()
    try:
        values = json.loads(text)
    except ValueError:
        raise (_Damaged if text.endswith(b"\n}\n") else _CutOff)(f"{path} is not what was written") from None
    if not isinstance(values, dict):
        raise _Damaged(f"{path} is not what was written")
    return values


def _refuse_other_version(path: Path) -> NoReturn:
    raise ValueError(f"{path} was written by another version of longtake; use a new --run") from None


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
    """As far as the lists and the record tell; files of fragments are not read. Raises as `is_complete`.

    Threads of all ranks copy the files, in any order, each from its beginning. So of a copy that is under way or was cut
    off there are whole files, beginnings of files and missing ones, and never anything else, for a start clears what the last
    one left before it writes. Of the first rank's list, the record, then each rank's files, the first sign counts:

    =====================================================================  ==================================
    a list, the record or a file of fragments is missing                   cut off
    a list is no JSON and lacks its last line                              cut off
    a list is other JSON, or none, or is not what its own checksum says    damaged
    a list has a right checksum and other fields, or more fields a file    another version's: ValueError
    the record or a file of fragments is shorter than listed               cut off
    one of them is longer than listed                                      damaged
    the record is as long as listed and has another checksum, or no JSON   damaged
    the record is what was written and has other fields                    another version's: ValueError
    =====================================================================  ==================================

    A file that was lost or shortened after the copy looks like a copy that was cut off, and so does a size that grew or a
    name that changed in a list of an older version, which has no checksum of its own.
    """
    try:
        _check_record(folder)
        for rank in range(read_checkpoint(folder).num_ranks):
            for name, file in _listed(folder, rank).items():
                _check_size(folder / name, file)
    except (FileNotFoundError, _CutOff):
        return "cut off"
    except _Damaged:
        return "damaged"
    return "whole"


def _check_record(folder: Path) -> None:
    """Hold the record to what the first rank's list has of it."""
    path = folder / CHECKPOINT_FILE
    written = _listed(folder, 0).get(path.name)
    if written is None:
        raise _Damaged(f"{folder / _list_name(0)} has no {path.name}")
    _check_size(path, written)
    if written.xxh3 not in (None, _xxh3(path, lambda: None)):
        raise _Damaged(f"{path} is not what was written")


def _check_size(path: Path, written: StoredFile) -> None:
    size = path.stat().st_size
    if size != written.size:
        raise (_CutOff if size < written.size else _Damaged)(f"{path} has {size} bytes, not {written.size}")


def remove_incomplete(checkpoints: Path) -> None:
    """Leave whole checkpoints alone; nobody may be writing one. What may have been whole is removed for a later one only.

    One that was set aside as cut off and whose files were brought back counts again.

    A damaged one is set aside for good. One that is cut off is removed where a later one is whole. Else it is set aside until
    a checkpoint as late as it is whole, or a second copy of that step is cut off as well: a disk without room fills no further.

    Raises:
        OSError: As `is_complete`.
        ValueError: As `is_complete`; or if there are damaged ones alone.
    """
    _take_back_whole(checkpoints)
    states = {folder: _state(folder) for folder in sorted(checkpoints.glob(f"{STEP_PREFIX}*"))}
    damaged, cut_off, whole = (
        [folder for folder, state in states.items() if state == which] for which in ("damaged", "cut off", "whole")
    )
    for folder in damaged:
        logger.warning(
            "%s is damaged and passed over: its lists, its record or a file's size are not what was written", folder
        )
    if damaged and not whole:
        raise _nothing_left(checkpoints, len(damaged))
    for folder in damaged:
        _set_aside(folder)
    for folder in cut_off:
        if not whole or folder > whole[-1]:
            _set_aside_cut_off(folder)
    if whole:
        _remove_no_later([*cut_off, *_cut_off_aside(checkpoints)], whole[-1])


def _set_aside_cut_off(folder: Path) -> None:
    """Give it a name under which it counts no more; where one of its step has that name, both go."""
    place = folder.with_name(CUT_OFF_PREFIX + folder.name)
    if place.exists():
        logger.warning("%s is not whole, a second time at this step: it and %s are removed", folder, place.name)
        shutil.rmtree(place)
        shutil.rmtree(folder)
        return
    folder.rename(place)
    logger.warning(
        "%s is not whole: its copy was cut off, or it lost files or their ends later. It is now %s until a checkpoint as late as"
        " it is whole; bring its files back and it counts again, or remove it if the disk has no room for both",
        folder, place.name,
    )  # fmt: skip


def _take_back_whole(checkpoints: Path) -> None:
    for folder in _cut_off_aside(checkpoints):
        place = folder.with_name(folder.name.removeprefix(CUT_OFF_PREFIX))
        if not place.exists() and _state(folder) == "whole":
            folder.rename(place)


def _cut_off_aside(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob(f"{CUT_OFF_PREFIX}{STEP_PREFIX}{'[0-9]' * 8}"))


def _remove_no_later(cut_off: Iterable[Path], whole: Path) -> None:
    """Remove those of these that are no later than a whole one."""
    for folder in cut_off:
        if folder.name.removeprefix(CUT_OFF_PREFIX) <= whole.name:
            logger.warning("%s is not whole, and removed: %s is", folder, whole.name)
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
    """Remove complete checkpoints, all but the newest and, if asked, the one with the lowest held-out loss.

    One whose copy is under way stays as it is; one that was set aside as cut off goes where one as late is complete.
    """
    steps = complete_steps(checkpoints)
    kept = {*steps[-config.keep :], *(best_steps(checkpoints, steps) if config.keep_best else ())}
    for step in steps:
        if step not in kept:
            shutil.rmtree(step_folder(checkpoints, step))
    if steps:
        _remove_no_later(_cut_off_aside(checkpoints), step_folder(checkpoints, steps[-1]))


def best_steps(checkpoints: Path, steps: Sequence[int]) -> tuple[int, ...]:
    """Of these steps the one with the lowest held-out loss, the last of equals; none if none was measured as a number."""
    losses = {step: read_checkpoint(step_folder(checkpoints, step)).val_loss for step in steps}
    measured = {step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)}
    return (min(measured, key=lambda step: (measured[step], -step)),) if measured else ()


def read_checkpoint(folder: Path) -> CheckpointRecord:
    """What a checkpoint says of itself.

    Raises:
        ValueError: If the folder is no checkpoint, or one of another version of longtake, or the file is no JSON.
    """
    path = folder / CHECKPOINT_FILE
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"no {CHECKPOINT_FILE} in {folder}: not a checkpoint") from None
    except ValueError:
        raise _Damaged(f"{path} is damaged: it is not what was written; choose another checkpoint") from None
    return record_from_values(values, path)


def record_from_values(values: Mapping[str, Any], path: Path) -> CheckpointRecord:
    """A record from the values in a file.

    Raises:
        ValueError: If they are those of another version of longtake.
    """
    try:
        return CheckpointRecord(**{**values, "clip_format": _clip_format(values.get("clip_format"))})
    except (TypeError, KeyError, AttributeError):
        _refuse_other_version(path)


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
    if engine.rank == 0:  # also where the workers alone began again; the others wait for the first sum
        remove_incomplete(checkpoints)
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
