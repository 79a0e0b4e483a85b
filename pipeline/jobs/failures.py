"""Why a stage ended: one message for people, from what each of its workers met.

A worker writes down what it failed with. Some failures would only come again: then the workers that Ray starts anew
find the note and end at once, and the command fails with it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError

from preprocessing.keys import DISK_FULL
from training.batches import BrokenSampleError
from training.compatibility import OtherRunError
from training.disk_errors import DamagedError
from training.nonfinite import NonFiniteError

FOLDER = "failures"
"""In the folder of a stage."""

CPU_ALLOCATOR = "can't allocate memory"
"""How torch says that the machine has no more; a RuntimeError of no class of its own."""

MEMORY_ADVICE = (
    "set train.engine.activation_checkpointing=true, a higher train.engine.zero_stage or more workers, or"
    " train.engine.offload_optimizer=true"
)
"""How a rank does with less."""

_WOULD_COME_AGAIN = (BrokenSampleError, NonFiniteError, DamagedError, OtherRunError)
"""What says all that there is to say, whichever rank met it."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What a worker failed with.

    Attributes:
        message: For people, with what to do.
        is_final: Whether it would fail again.
    """

    message: str
    is_final: bool


def explain(error: Exception, *, rank: int) -> Failure:
    """What an exception of a worker means."""
    if isinstance(error, _WOULD_COME_AGAIN):
        return Failure(message=str(error), is_final=True)
    if _is_out_of_memory(error):
        return Failure(message=f"rank {rank} ran out of memory: {MEMORY_ADVICE} ({error})", is_final=True)
    if isinstance(error, ActorDiedError):
        message = f"rank {rank} was ended from outside. If its machine ran out of memory, {MEMORY_ADVICE} ({error})"
        return Failure(message=message, is_final=False)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = f" at {error.filename}" if error.filename else ""
        advice = "free some space and give the same command again; it goes on from the newest whole checkpoint"
        return Failure(message=f"rank {rank}: the disk is full{where}: {advice}", is_final=True)
    return Failure(message=f"rank {rank}: {type(error).__name__}: {error}", is_final=False)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError, OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)


def note(stage_folder: Path, failure: Failure, *, rank: int) -> None:
    """Write down a failure; on a disk that takes no more, Ray's own message has to do."""
    with suppress(OSError):
        path = _note(stage_folder, rank)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(failure)))


def forget(stage_folder: Path) -> None:
    """Remove the notes of an earlier command."""
    for path in (stage_folder / FOLDER).glob("*.json"):
        path.unlink()


def final_message(stage_folder: Path) -> str | None:
    """What failed for good, None if nothing has."""
    return _joined(failure for failure in _notes(stage_folder) if failure.is_final)


def message(stage_folder: Path, errors: Mapping[int, Exception]) -> str:
    """What failed: what did so for good, if anything, because other ranks only lost their company.

    Args:
        stage_folder: Where the workers left their notes.
        errors: By rank, what Ray heard of them: also of those that could leave no note.
    """
    unnoted = {rank: error for rank, error in errors.items() if not _is_explained(stage_folder, rank, error)}
    failures = [*_notes(stage_folder), *(explain(error, rank=rank) for rank, error in unnoted.items())]
    return str(_joined([failure for failure in failures if failure.is_final]) or _joined(failures))


def _is_explained(stage_folder: Path, rank: int, error: Exception) -> bool:
    """Whether a rank ended its own process, and left a note of why."""
    return isinstance(error, ActorDiedError) and _note(stage_folder, rank).is_file()


def _joined(failures: Iterable[Failure]) -> str | None:
    return "; ".join(dict.fromkeys(failure.message for failure in failures)) or None


def _notes(stage_folder: Path) -> Iterator[Failure]:
    for path in sorted((stage_folder / FOLDER).glob("*.json")):
        with suppress(ValueError):  # half of a note is none
            yield Failure(**json.loads(path.read_text()))


def _note(stage_folder: Path, rank: int) -> Path:
    return stage_folder / FOLDER / f"rank-{rank:05}.json"
