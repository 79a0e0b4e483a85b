"""Which checkpoints of a stage stay, which are set aside, and which go.

One that is not whole is set aside first. Those that were cut off go later, when one as late is there or is cut off again.
"""

import logging
import math
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from training.checkpoint_files import complete_steps, read_checkpoint, state_of, step_folder, step_folders
from training.config import CheckpointConfig
from training.disk_errors import DamagedError

DAMAGED_PREFIX = "damaged-"
"""Begins the names of checkpoints that were set aside: nothing looks for them, and nothing removes them."""
CUT_OFF_PREFIX = "cut-off-"
"""Begins the names of those that are not whole and were set aside until one as late is."""

logger = logging.getLogger(__name__)


def set_aside_incomplete(checkpoints: Path) -> None:
    """Leave none to count but whole ones; nobody may be writing one.

    A damaged one is set aside for good. One that is cut off is set aside until one as late was read (`remove_cut_off`) or
    written (`prune`); but where a second copy of its step is cut off as well, both are removed: a disk without room fills no
    further. One that was set aside as cut off and whose files were brought back counts again.

    Raises:
        OSError: As `is_complete`.
        DamagedError: If there are damaged ones alone.
        ValueError: As `is_complete`.
    """
    _take_back_whole(checkpoints)
    states = {folder: state_of(folder) for folder in step_folders(checkpoints)}
    damaged = [folder for folder, state in states.items() if state == "damaged"]
    for folder in damaged:
        logger.warning(
            "%s is damaged and passed over: its lists, its record or a file's size are not what was written", folder
        )
    if damaged and "whole" not in states.values():
        raise nothing_left(checkpoints, len(damaged))
    for folder, state in states.items():
        if state == "damaged":
            set_aside(folder)
        elif state == "cut off":
            _set_aside_cut_off(folder)


def _take_back_whole(checkpoints: Path) -> None:
    """What stands in its place meanwhile gives way, unless it is whole."""
    for aside in step_folders(checkpoints, CUT_OFF_PREFIX):
        place = _place_of(aside)
        if state_of(aside) != "whole" or (place.exists() and state_of(place) == "whole"):
            continue
        if place.exists():
            set_aside(place)
        aside.rename(place)


def _set_aside_cut_off(folder: Path) -> None:
    """Give it a name under which it counts no more; where one of its step has that name, both go."""
    aside = folder.with_name(CUT_OFF_PREFIX + folder.name)
    if aside.exists() and state_of(aside) == "damaged":
        set_aside(aside)
    if aside.exists():
        logger.warning("%s is not whole, a second time at this step: it and %s are removed", folder, aside.name)
        shutil.rmtree(aside)
        shutil.rmtree(folder)
        return
    folder.rename(aside)
    logger.warning(
        "%s is not whole: its copy was cut off, or it lost files or their ends later. It is now %s until a checkpoint as late as"
        " it is whole; bring its files back and it counts again, or remove it if the disk has no room for both",
        folder, aside.name,
    )  # fmt: skip


def _place_of(aside: Path) -> Path:
    return aside.with_name(aside.name.removeprefix(CUT_OFF_PREFIX))


def remove_cut_off(checkpoints: Path, step: int) -> None:
    """Remove those that were set aside as cut off and are no later than a step whose checkpoint is there."""
    for aside in step_folders(checkpoints, CUT_OFF_PREFIX):
        if _place_of(aside) <= step_folder(checkpoints, step):
            logger.warning("%s is removed: there is a checkpoint of step %d", aside, step)
            shutil.rmtree(aside)


def nothing_left(checkpoints: Path, num_damaged: int) -> DamagedError:
    """What to raise where all checkpoints are damaged."""
    whole = [aside for aside in step_folders(checkpoints, CUT_OFF_PREFIX) if state_of(aside) == "whole"]
    advice = "".join(
        f" remove {_place_of(aside).name}, and {aside.name}, which is whole, counts again;" for aside in whole
    )
    return DamagedError(
        f"none of the {num_damaged} checkpoints in {checkpoints} can be read as it was written (the warnings say why):"
        f"{advice} bring back their files, or remove the folder to begin the stage anew"
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
        remove_cut_off(checkpoints, steps[-1])


def best_steps(checkpoints: Path, steps: Sequence[int]) -> tuple[int, ...]:
    """Of these steps the one with the lowest held-out loss, the last of equals; none if none was measured as a number."""
    losses = {step: read_checkpoint(step_folder(checkpoints, step)).val_loss for step in steps}
    measured = {step: loss for step, loss in losses.items() if loss is not None and math.isfinite(loss)}
    return (min(measured, key=lambda step: (measured[step], -step)),) if measured else ()
