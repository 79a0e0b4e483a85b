"""Dissolves, from small pictures: the middle is a sum of what was some frames before and what is as many frames after.

The two sides must have little in common, and nearly all of the picture must differ: lettering that appears over a shot is no
transition. Motion does not look like that: in between it shows other pictures, not sums.
"""

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.flow import LowResolutionFlow
from preprocessing.likeness import HEIGHT_PX, WIDTH_PX, SmallPicture, likeness

_HALF_LENGTHS = (4, 6, 8, 12, 16, 24, 32)
"""Frames from the middle to either side: dissolves of up to 64 frames are seen whole."""
_MAX_LIKENESS = 0.58
"""Likeness of the sides; more is one shot."""
_MIN_EXPLAINED = {4: 0.84, 6: 0.84, 8: 0.84, 12: 0.84, 16: 0.9, 24: 0.9, 32: 0.9}
"""Share of the middle's variance that the sum of the sides explains; less is motion, which has more chances over a longer time."""
_MIN_CHANGED = 0.7
"""Share of pixels that differ between the sides."""
_CHANGED_BY = 12.0
"""Difference of a pixel that counts, of 255."""
_MIN_CONTRAST = 6.0
"""Standard deviation of a side, of 255; less is a fade."""
_MIN_SHARE = 0.25
"""Of either side in the middle."""
_MAX_SUM = 1.06
"""Of both shares, which is 1 in a dissolve. A pan over waves is a sum as well, sin(x) = (sin(x - d) + sin(x + d)) / 2 cos d: 1 / cos d."""
_EXACT_EXCESS = 0.02
"""Over 1, of a sum that explains all: a mix of still pictures stays under 0.01."""
_EXCESS_A_RESIDUE = 0.2
"""More for each unit of the residue's relative size: what the sides do not explain also blurs their shares."""
_LINE = (0.15, 0.85)
"""Shares of the later side between which a straight line is laid."""
_MOTION = 0.94
"""Likeness of the moved sides with the middle: motion reaches 0.95, dissolves stay under 0.92."""
_GRID_2HW = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)[::-1]
"""x and y of each pixel."""
_MIN_MIDDLES = 3
"""A single mixed frame is how some converters draw a cut."""
_GAP_FRAMES = 4
"""Middles this close belong to one dissolve."""


@dataclass(frozen=True, kw_only=True)
class Dissolve:
    """The half-open range of mixed frames.

    Attributes:
        score: Up to 1: how different the sides are, and how well they explain what lies between.
    """

    start_frame: int
    end_frame: int
    score: float


@dataclass(frozen=True, kw_only=True)
class _Sighting:
    middle: int
    dissolve: Dissolve


class DissolveDetector:
    """Takes every small picture in order and holds the last 65."""

    def __init__(self) -> None:
        """Start before the first frame."""
        self._recent: deque[SmallPicture] = deque(maxlen=2 * _HALF_LENGTHS[-1] + 1)
        self._flow = LowResolutionFlow()
        self._num_frames = 0
        self._sightings: list[_Sighting] = []

    def add(self, picture: SmallPicture) -> None:
        """The next frame."""
        self._recent.append(picture)
        self._num_frames += 1
        for half in _HALF_LENGTHS:
            if self._num_frames > 2 * half and self._looks_mixed(half):
                self._sight(half)

    def result(self) -> tuple[Dissolve, ...]:
        """The dissolves, in order, not overlapping."""
        found: list[Dissolve] = []
        for group in _groups(sorted(self._sightings, key=lambda sighting: sighting.middle)):
            if len({sighting.middle for sighting in group}) < _MIN_MIDDLES:
                continue
            best = max((sighting.dissolve for sighting in group), key=lambda dissolve: dissolve.score)
            if not found or best.start_frame >= found[-1].end_frame:
                found.append(best)
        return tuple(found)

    def _looks_mixed(self, half: int) -> bool:
        before, middle, after = self._recent[-1 - 2 * half], self._recent[-1 - half], self._recent[-1]
        if min(before.contrast, after.contrast) < _MIN_CONTRAST or likeness(before, after) > _MAX_LIKENESS:
            return False
        shares, explained = _as_sum(before, after, middle)
        if explained < _MIN_EXPLAINED[half] or shares.sum() > _max_sum(explained):
            return False
        if shares.min() < _MIN_SHARE or shares.max() > 1 - _MIN_SHARE:
            return False
        differs_HW = np.abs(before.rgb_HW3 - after.rgb_HW3).max(axis=2) > _CHANGED_BY
        return bool(differs_HW.mean() >= _MIN_CHANGED) and not self._moves(before, middle, after)

    def _moves(self, before: SmallPicture, middle: SmallPicture, after: SmallPicture) -> bool:
        """Whether both sides, moved along the optical flow, become the middle."""
        return all(self._moved_likeness(side, middle) > _MOTION for side in (before, after))

    def _moved_likeness(self, side: SmallPicture, middle: SmallPicture) -> float:
        grays = [cv2.cvtColor(p.rgb_HW3.astype(np.uint8), cv2.COLOR_RGB2GRAY) for p in (middle, side)]
        flow_HW2 = self._flow(np.asarray(grays[0], np.uint8), np.asarray(grays[1], np.uint8))
        x_HW, y_HW = (_GRID_2HW[axis] + flow_HW2[..., axis] for axis in (0, 1))
        moved_HW3 = np.asarray(cv2.remap(side.rgb_HW3, x_HW, y_HW, cv2.INTER_LINEAR), np.float32)
        seen_HW = (x_HW >= 0) & (x_HW <= WIDTH_PX - 1) & (y_HW >= 0) & (y_HW <= HEIGHT_PX - 1)
        first, second = (
            moved_HW3[seen_HW] - moved_HW3[seen_HW].mean(0),
            middle.rgb_HW3[seen_HW] - middle.rgb_HW3[seen_HW].mean(0),
        )
        lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
        return float((first * second).sum()) / lengths if lengths else 0.0

    def _sight(self, half: int) -> None:
        """Note a dissolve around the middle, its ends where a straight line through the shares reaches 0 and 1."""
        before, middle, after = self._recent[-1 - 2 * half], self._recent[-1 - half], self._recent[-1]
        newest = self._num_frames - 1
        frames = np.arange(newest - 2 * half, newest + 1)
        shares = np.array([_share_of_after(before, after, self._recent[frame - self._num_frames]) for frame in frames])
        rising = (shares > _LINE[0]) & (shares < _LINE[1])
        slope, offset = np.polyfit(frames[rising], shares[rising], 1) if rising.sum() > 1 else (0.0, 0.0)
        if slope <= 0:
            return
        start, end = int(np.floor(-offset / slope)) + 1, int(np.ceil((1 - offset) / slope))
        start = max(0, start, newest - 4 * half)
        _, explained = _as_sum(before, after, middle)
        score = round((1 - max(0.0, likeness(before, after))) * explained, 4)
        found = Dissolve(start_frame=start, end_frame=max(end, start + 1), score=score)
        self._sightings.append(_Sighting(middle=newest - half, dissolve=found))


def _groups(sightings: list[_Sighting]) -> list[list[_Sighting]]:
    groups: list[list[_Sighting]] = []
    for sighting in sightings:
        if groups and sighting.middle - groups[-1][-1].middle <= _GAP_FRAMES:
            groups[-1].append(sighting)
        else:
            groups.append([sighting])
    return groups


def _as_sum(before: SmallPicture, after: SmallPicture, middle: SmallPicture) -> tuple[NDArray[np.float64], float]:
    """Shares of both sides in the middle by least squares, (2,), and the part of its variance that they explain."""
    sides_2P = np.stack([before.centred_P, after.centred_P]).astype(np.float64)
    gram_22, seen_2 = sides_2P @ sides_2P.T, sides_2P @ middle.centred_P
    shares_2 = np.asarray(np.linalg.lstsq(gram_22, seen_2, rcond=None)[0], np.float64)
    total = middle.contrast**2 * middle.centred_P.size
    return shares_2, float(shares_2 @ seen_2) / total if total else 0.0


def _max_sum(explained: float) -> float:
    """Of the shares in a dissolve: the better the sides explain the middle, the closer to 1."""
    residue = max(0.0, 1 - explained) ** 0.5
    return min(_MAX_SUM, 1 + _EXACT_EXCESS + _EXCESS_A_RESIDUE * residue)


def _share_of_after(before: SmallPicture, after: SmallPicture, picture: SmallPicture) -> float:
    """How far from before to after a picture is: 0 to 1."""
    shares, _ = _as_sum(before, after, picture)
    return float(shares[1] / shares.sum()) if shares.sum() > 0 else 0.0
