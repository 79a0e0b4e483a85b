"""The files of a checkpoint: the record, a list of each rank's files, and what they tell of it.

``checkpoint.json`` says what the fragments belong to. Each rank lists its files with their sizes and checksums, and with a
checksum of the list: by these a whole checkpoint is told from one whose copy was cut off and from a damaged one (`state_of`).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import xxhash

from preprocessing.samples import CodecRecord
from training.disk_errors import DamagedError
from training.types import CheckpointRecord, ClipFormat

CHECKPOINT_FILE = "checkpoint.json"
LIST_PREFIX = "files-of-rank-"
STEP_PREFIX = "step-"
STEP_DIGITS = 8
READ_BYTES = 1 << 20
"""Read at once for a checksum."""

OnRead = Callable[[], None]
"""Is called after each piece of a file that was read; what takes minutes is seen to go on."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a checkpoint, as the rank that wrote it lists it.

    Attributes:
        size: In bytes.
        xxh3: Of its bytes; None from a version of longtake that kept none.
    """

    size: int
    xxh3: str | None


class _CutOffError(DamagedError):
    """A file ends before it should."""


def _list_name(rank: int) -> str:
    return f"{LIST_PREFIX}{rank:05}.json"


def write_list(folder: Path, rank: int, files: Mapping[str, StoredFile]) -> None:
    """Say which files a rank wrote, by their names, with a checksum of the list itself."""
    values = {"files": {name: asdict(file) for name, file in files.items()}}
    text = json.dumps({**values, "xxh3": _xxh3_of_list(values)}, indent=2, sort_keys=True)
    (folder / _list_name(rank)).write_text(f"{text}\n")


def _xxh3_of_list(values: Mapping[str, object]) -> str:
    """The list's checksum of all else in it."""
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())


def _listed(folder: Path, rank: int) -> dict[str, StoredFile]:
    """The files of a rank by their names. Raises what `state_of` tells apart, and ValueError for a list of another version."""
    path = folder / _list_name(rank)
    values = _json_values(path)
    has_sum = "xxh3" in values or "files" in values
    if has_sum:
        own = values.pop("xxh3", None)
        if own != _xxh3_of_list(values):
            raise DamagedError(f"{path} is not what was written")
    try:
        files = values["files"] if has_sum else values
        return {name: _file_from_value(value) for name, value in files.items()}
    except (KeyError, TypeError, AttributeError):
        if has_sum or _have_new_fields(values):
            _refuse_other_version(path)
        raise DamagedError(f"{path} is not what was written") from None


def _file_from_value(value: int | Mapping[str, Any]) -> StoredFile:
    """The first lists held sizes alone."""
    return StoredFile(size=value, xxh3=None) if isinstance(value, int) else StoredFile(**value)


def _have_new_fields(files: Mapping[str, Any]) -> bool:
    known = asdict(StoredFile(size=0, xxh3=None)).keys()
    return all(isinstance(value, dict) and value.keys() > known for value in files.values())


def _json_values(path: Path) -> dict[str, Any]:
    """An object from a file."""
    data = path.read_bytes()
    try:
        values = json.loads(data)
    except ValueError as error:
        kind = _CutOffError if _ends_early(error) else DamagedError
        raise kind(f"{path} is not what was written") from None
    if not isinstance(values, dict):
        raise DamagedError(f"{path} is not what was written")
    return values


def _ends_early(error: ValueError) -> bool:
    """Whether what was read of JSON is the beginning of some, as far as strings and numbers go."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(error.doc.rstrip(" \t\n\r")) or error.msg.startswith("Unterminated string")


def _refuse_other_version(path: Path) -> NoReturn:
    raise ValueError(f"{path} was written by another version of longtake; use a new --run") from None


def stored_file(path: Path, on_read: OnRead) -> StoredFile:
    """What a list says of a file; all of it is read."""
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
        DamagedError: If a list is not what was written.
    """
    listed = (item for rank in ranks for item in _listed(folder, rank).items())
    return [name for name, file in listed if file.xxh3 is not None and _xxh3(folder / name, on_read) != file.xxh3]


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps lies."""
    return checkpoints / f"{STEP_PREFIX}{step:0{STEP_DIGITS}}"


def step_folders(checkpoints: Path, prefix: str = "") -> list[Path]:
    """Those that are named as checkpoints are, behind a prefix, ascending; people may put other things beside them."""
    named = checkpoints.glob(f"{prefix}{STEP_PREFIX}{'[0-9]' * STEP_DIGITS}")
    return sorted(path for path in named if path.is_dir())


def newest_step(checkpoints: Path) -> int | None:
    """Steps done at the newest complete checkpoint, None where there is none."""
    return max(complete_steps(checkpoints), default=None)


def complete_steps(checkpoints: Path) -> tuple[int, ...]:
    """Steps of the checkpoints whose files of all ranks are there, whole; ascending."""
    return tuple(
        int(folder.name.removeprefix(STEP_PREFIX)) for folder in step_folders(checkpoints) if is_complete(folder)
    )


def is_complete(folder: Path) -> bool:
    """Whether every file that the ranks wrote is there in its full size, and says what was written.

    Raises:
        OSError: If the disk does not say; a checkpoint that cannot be seen just now is none that was cut off.
        ValueError: If another version of longtake wrote it.
    """
    return state_of(folder) == "whole"


def state_of(folder: Path) -> Literal["whole", "cut off", "damaged"]:
    """As far as the lists and the record tell; files of fragments are not read. Raises as `is_complete`.

    Threads of all ranks copy the files, in any order, each from its beginning. So of a copy that is under way or was cut
    off there are whole files, beginnings of files and missing ones, and never anything else, for a start puts what the last
    one left out of the way before it writes. Of the first rank's list, the record, then each rank's files, the first sign counts:

    =====================================================================  ==================================
    a list, the record or a file of fragments is missing                   cut off
    a list is the beginning of JSON                                        cut off
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
        for rank in range(_record(folder).num_ranks):
            for name, file in _listed(folder, rank).items():
                _check_size(folder / name, file)
    except (FileNotFoundError, _CutOffError):
        return "cut off"
    except DamagedError:
        return "damaged"
    return "whole"


def _check_record(folder: Path) -> None:
    """Hold the record to what the first rank's list has of it."""
    path = folder / CHECKPOINT_FILE
    written = _listed(folder, 0).get(path.name)
    if written is None:
        raise DamagedError(f"{folder / _list_name(0)} has no {path.name}")
    _check_size(path, written)
    if written.xxh3 not in (None, _xxh3(path, lambda: None)):
        raise DamagedError(f"{path} is not what was written")


def _check_size(path: Path, written: StoredFile) -> None:
    size = path.stat().st_size
    if size != written.size:
        raise (_CutOffError if size < written.size else DamagedError)(f"{path} has {size} bytes, not {written.size}")


def read_checkpoint(folder: Path) -> CheckpointRecord:
    """What a checkpoint says of itself.

    Raises:
        DamagedError: If the file is no JSON.
        ValueError: If the folder is no checkpoint, or one of another version of longtake.
    """
    try:
        return _record(folder)
    except FileNotFoundError:
        raise ValueError(f"no {CHECKPOINT_FILE} in {folder}: not a checkpoint") from None


def _record(folder: Path) -> CheckpointRecord:
    path = folder / CHECKPOINT_FILE
    try:
        values = json.loads(path.read_text())
    except ValueError:
        raise DamagedError(f"{path} is damaged: it is not what was written; choose another checkpoint") from None
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
