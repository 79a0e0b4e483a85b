"""Whether a proposed cut is one: what motion and exposure leave of it stands out from the frames around it, and stays.

Within a take neighbours differ by what flow cannot explain, and about equally from frame to frame: much where leaves blow or a train
passes, hardly at all from a tripod. A cut, also a jump within one scene, leaves more than its neighbours. A flash or something that
passes leaves more as well, but the picture from before comes back. Lettering that appears leaves more and stays, but all that
changes takes one colour while the rest goes on.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preprocessing.config import TransitionsConfig
from preprocessing.lettering import is_lettering
from preprocessing.residue import MotionResidue, Residue

REACH_FRAMES = 6
"""Frames on either side that a cut is compared with."""
_NEIGHBOURS = 3
"""Pairs of neighbours on either side, of those that differ at all: doubled frames of a converted film say nothing."""
_DOUBLED = 0.3
"""Mean difference of two frames, of 255, under which the second is the first again."""
_REST = 0.4
"""Added to the neighbours' residue, of 255: the noise of an encoder."""
_MIN_RESIDUE = 2.5
"""Of a cut for which too few blocks show enough to fail, of 255: night."""
_MIN_RELATIVE = 0.5
"""The same in units of contrast."""
_WHOLE = 0.5
"""Share of blocks that fail where the whole picture changes."""

Grays = Sequence[NDArray[np.uint8]]


def cut_score(grays: Grays, at: int, settings: TransitionsConfig, residue: MotionResidue) -> float | None:
    """How sure a cut is, 0 to 1; None if it is none.

    Args:
        grays: Consecutive frames, as `small_gray` makes them; 6 on either side of the cut, or as many as there are.
        at: Index of the first frame of the new shot.
        settings: Thresholds.
        residue: Compares two frames.
    """
    if not _is_peak(grays, at):
        return None
    found = residue(grays[at - 1], grays[at])
    if not _is_change(found, settings):
        return None
    usual = max((residue(grays[i - 1], grays[i]).mean for i in _neighbours(grays, at)), default=0.0)
    ratio = settings.cut_ratio if _is_whole(found) else settings.jump_ratio
    if found.mean < ratio * (usual + _REST):
        return None
    if _comes_back(grays, at, found, settings, residue) or is_lettering(grays[at - 1], grays[at]):
        return None
    return round(1 - (usual + _REST) / found.mean, 4)


def _is_change(found: Residue, settings: TransitionsConfig) -> bool:
    dark = found.mean >= max(_MIN_RESIDUE, _MIN_RELATIVE * found.contrast)
    return dark or found.failed >= settings.cut_failed_share


def _is_whole(found: Residue) -> bool:
    """Whether the whole picture changes, and not some things in it, which a fast hand does as well."""
    return found.failed >= _WHOLE or found.mean >= _MIN_RELATIVE * found.contrast


def _is_peak(grays: Grays, at: int) -> bool:
    """Whether the frame changes more than those beside it."""
    around = [_difference(grays[i - 1], grays[i]) for i in (at - 1, at + 1) if 1 <= i < len(grays)]
    return _difference(grays[at - 1], grays[at]) >= max(around, default=0.0)


def _neighbours(grays: Grays, at: int) -> list[int]:
    """Second frames of the nearest pairs that differ, on either side."""
    before = [i for i in range(max(1, at - REACH_FRAMES), at) if _difference(grays[i - 1], grays[i]) > _DOUBLED]
    after = [
        i
        for i in range(at + 1, min(len(grays), at + REACH_FRAMES + 1))
        if _difference(grays[i - 1], grays[i]) > _DOUBLED
    ]
    return before[-_NEIGHBOURS:] + after[:_NEIGHBOURS]


def _difference(first_HW: NDArray[np.uint8], second_HW: NDArray[np.uint8]) -> float:
    return float(np.abs(first_HW.astype(np.int16) - second_HW).mean())


def _comes_back(grays: Grays, at: int, found: Residue, settings: TransitionsConfig, residue: MotionResidue) -> bool:
    """Whether a later frame continues the one before, or the first of the new shot continues an earlier one."""
    limit = settings.same_take * found.mean
    for step in range(1, settings.max_flash_frames + 1):
        if at + step < len(grays) and residue(grays[at - 1], grays[at + step]).mean < limit:
            return True
        if at - 1 - step >= 0 and residue(grays[at - 1 - step], grays[at]).mean < limit:
            return True
    return False
