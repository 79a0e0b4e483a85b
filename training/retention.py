"""Which checkpoints of a stage stay, which are set aside, and which go.

Neither a damaged one nor one whose copy was cut off is removed where it may be the newest.
"""

import logging
import math
import shutil
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

from training.checkpoint_files import STEP_PREFIX, complete_steps, read_checkpoint, state_of, step_folder
from training.config import CheckpointConfig

DAMAGED_PREFIX = "damaged-"
"""Begins the names of checkpoints that were set aside: nothing looks for them, and nothing removes them."""
CUT_OFF_PREFIX = "cut-off-"
"""Begins the names of those that are not whole and were set aside until one as late is."""

logger = logging.getLogger(__name__)


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
    states = {folder: state_of(folder) for folder in sorted(checkpoints.glob(f"{STEP_PREFIX}*"))}
    damaged, cut_off, whole = (
        [folder for folder, state in states.items() if state == which] for which in ("damaged", "cut off", "whole")
    )
    for folder in damaged:
        logger.warning(
            "%s is damaged and passed over: its lists, its record or a file's size are not what was written", folder
        )
    if damaged and not whole:
        raise nothing_left(checkpoints, len(damaged))
    for folder in damaged:
        set_aside(folder)
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
        if not place.exists() and state_of(folder) == "whole":
            folder.rename(place)


def _cut_off_aside(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob(f"{CUT_OFF_PREFIX}{STEP_PREFIX}{'[0-9]' * 8}"))


def _remove_no_later(cut_off: Iterable[Path], whole: Path) -> None:
    """Remove those of these that are no later than a whole one."""
    for folder in cut_off:
        if folder.name.removeprefix(CUT_OFF_PREFIX) <= whole.name:
            logger.warning("%s is not whole, and removed: %s is", folder, whole.name)
            shutil.rmtree(folder)


def nothing_left(checkpoints: Path, num_damaged: int) -> ValueError:
    """What to raise where all checkpoints are damaged."""
    return ValueError(
        f"none of the {num_damaged} checkpoints in {checkpoints} can be read as it was written (the warnings say why):"
        " bring back their files, or remove the folder to begin the stage anew"
    )


def set_aside(folder: Path) -> None:
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
