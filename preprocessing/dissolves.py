"""Dissolves: between two frames of different shots lies a sum of both, and nothing that moves or cuts.

Two ways to be sure. In quiet shots the sum explains nearly all of the middle. Where things move while they are mixed it explains
less; but the middle is as flat as a mix, and flow fails to lead from one side to the other, though it hardly fails between near
frames and the camera does not go far.
Motion does not look like that: in between it shows other pictures, not sums, and what it changes it changes frame by frame.
"""

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.flow import LowResolutionFlow
from preprocessing.lettering import is_lettering
from preprocessing.likeness import HEIGHT_PX, WIDTH_PX, SmallPicture, likeness
from preprocessing.mixtures import Mixture, mixture
from preprocessing.residue import MotionResidue, Residue

_HALF_LENGTHS = (4, 6, 8, 12, 16, 24, 32)
"""Frames from the middle to either side: dissolves of up to 64 frames are seen whole."""
_STEPS = 4
"""Middles are looked at so many times in half a length."""
_MIN_CONTRAST = 6.0
"""Standard deviation of a side, of 255; less is a fade."""
_CHANGED_BY = 12.0
"""Difference of a pixel that counts, of 255."""
_MIN_CHANGED = 0.7
"""Share of pixels that differ between the sides."""
_MIN_SHARE = 0.25
"""Of the middle's way from side to side, from either end."""
_LINE = (0.15, 0.85)
"""Shares of the later side between which a straight line is laid."""

_QUIET_LIKENESS = 0.58
"""Of the sides of a quiet dissolve; more is one shot."""
_QUIET_EXPLAINED = {4: 0.84, 6: 0.84, 8: 0.84, 12: 0.84, 16: 0.9, 24: 0.9, 32: 0.9}
"""Share of the middle's variance that the sum explains; less is motion, which has more chances over a longer time."""
_MOTION = 0.94
"""Likeness of the moved sides with the middle: motion reaches 0.95, dissolves stay under 0.92."""

_LIVELY_LIKENESS = 0.45
"""Of the sides of a lively dissolve: unrelated pictures reach 0.3."""
_LIVELY_EXPLAINED = 0.14
"""Two seconds of moving footage leave 0.15 of a mix."""
_LIVELY_GAIN = 0.03
"""What the second side adds to the explanation by the first."""
_LIVELY_PART = 0.12
"""Least share of either side."""
_LIVELY_VARIANCE = (0.6, 1.25)
"""Variance of the middle in units of that of a mix, which does not mind motion: mixes 0.7 to 1.2, motion from 1.4 on."""
_LIVELY_FAILED = 0.65
"""Share of blocks for which flow does not lead from side to side."""
_LIVELY_RESIDUE = 0.45
"""What flow leaves between the sides, in units of contrast; unrelated pictures leave 0.6 to 0.9."""
_LINK_RESIDUE = 0.55
"""What flow leaves between near frames, in units of what it leaves between the sides; a cut in between leaves 1."""
_MAX_WAY = 0.3
"""Way of the camera from side to side, in picture widths; beyond it a pan shows other things anyway."""

_GRID_2HW = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)[::-1]
"""x and y of each pixel."""
_MIN_MIDDLES = 3
"""A single mixed frame is how some converters draw a cut."""
_GAP_FRAMES = 8
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
    """Takes every frame in order, as a small picture and as a gray one, and holds the last 65."""

    def __init__(self, residue: MotionResidue) -> None:
        """Start before the first frame."""
        self._recent: deque[SmallPicture] = deque(maxlen=2 * _HALF_LENGTHS[-1] + 1)
        self._grays: deque[NDArray[np.uint8]] = deque(maxlen=2 * _HALF_LENGTHS[-1] + 1)
        self._flow = LowResolutionFlow()
        self._residue = residue
        self._links: dict[tuple[int, int], Residue] = {}
        self._num_frames = 0
        self._sightings: list[_Sighting] = []

    def add(self, picture: SmallPicture, gray_HW: NDArray[np.uint8]) -> None:
        """The next frame."""
        self._recent.append(picture)
        self._grays.append(gray_HW)
        self._num_frames += 1
        for half in _HALF_LENGTHS:
            if self._num_frames > 2 * half and self._num_frames % max(1, half // _STEPS) == 0:
                self._look(half)

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

    def _look(self, half: int) -> None:
        before, middle, after = self._recent[-1 - 2 * half], self._recent[-1 - half], self._recent[-1]
        if min(before.contrast, after.contrast) < _MIN_CONTRAST:
            return
        alike = likeness(before, after)
        if alike > _QUIET_LIKENESS:
            return
        mix = mixture(before, middle, after)
        if not mix.is_plain or not _MIN_SHARE <= mix.progress <= 1 - _MIN_SHARE:
            return
        if not _changes(before, after) or is_lettering(self._grays[-1 - 2 * half], self._grays[-1]):
            return
        if self._is_quiet(half, mix) or self._is_lively(half, mix, alike):
            self._sight(half, mix, alike)

    def _is_quiet(self, half: int, mix: Mixture) -> bool:
        """Whether the sum explains the middle, and motion does not."""
        if mix.explained < _QUIET_EXPLAINED[half] or min(mix.before, mix.after) < _MIN_SHARE:
            return False
        return not self._moves(self._recent[-1 - 2 * half], self._recent[-1 - half], self._recent[-1])

    def _is_lively(self, half: int, mix: Mixture, alike: float) -> bool:
        """Whether both sides are seen in the middle, which is as flat as a mix of them, and only a mix leads from side to side."""
        if alike > _LIVELY_LIKENESS or min(mix.before, mix.after) < _LIVELY_PART:
            return False
        if mix.explained < _LIVELY_EXPLAINED or mix.explained - mix.alone < _LIVELY_GAIN:
            return False
        before, middle, after = self._recent[-1 - 2 * half], self._recent[-1 - half], self._recent[-1]
        low, high = _LIVELY_VARIANCE
        return low <= middle.contrast**2 / _mixed_variance(before, after, mix, alike) <= high and self._links_hold(half)

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

    def _links_hold(self, half: int) -> bool:
        """Whether flow fails from side to side, yet leads from each near frame to the next without a long way."""
        last = self._num_frames - 1
        ends = [self._link(last - 2 * half, last), self._link(last, last - 2 * half)]
        if any(end.failed < _LIVELY_FAILED or end.mean < _LIVELY_RESIDUE * end.contrast for end in ends):
            return False
        limit = _LINK_RESIDUE * min(end.mean for end in ends)
        step, way = max(1, half // _STEPS), np.zeros(2)
        for frame in range(last - 2 * half, last, step):
            link = self._link(frame, min(frame + step, last))
            way += link.shift
            if link.mean > limit or float(np.abs(way).max()) > _MAX_WAY:
                return False
        return True

    def _link(self, first: int, second: int) -> Residue:
        if (first, second) not in self._links:
            if len(self._links) > 4 * _HALF_LENGTHS[-1]:
                self._links.clear()
            grays = (self._grays[frame - self._num_frames] for frame in (first, second))
            self._links[first, second] = self._residue(*grays)
        return self._links[first, second]

    def _sight(self, half: int, mix: Mixture, alike: float) -> None:
        """Note a dissolve around the middle, its ends where a straight line through the shares reaches 0 and 1."""
        before, after = self._recent[-1 - 2 * half], self._recent[-1]
        newest = self._num_frames - 1
        frames = np.arange(newest - 2 * half, newest + 1)
        shares = np.array([mixture(before, self._recent[f - self._num_frames], after).progress for f in frames])
        rising = (shares > _LINE[0]) & (shares < _LINE[1])
        slope, offset = np.polyfit(frames[rising], shares[rising], 1) if rising.sum() > 1 else (0.0, 0.0)
        if slope <= 0:
            return
        start, end = int(np.floor(-offset / slope)) + 1, int(np.ceil((1 - offset) / slope))
        start = max(0, start, newest - 4 * half)
        score = round((1 - max(0.0, alike)) * mix.explained, 4)
        found = Dissolve(start_frame=start, end_frame=max(end, start + 1), score=score)
        self._sightings.append(_Sighting(middle=newest - half, dissolve=found))


def _changes(before: SmallPicture, after: SmallPicture) -> bool:
    differs_HW = np.abs(before.rgb_HW3 - after.rgb_HW3).max(axis=2) > _CHANGED_BY
    return bool(differs_HW.mean() >= _MIN_CHANGED)


def _mixed_variance(before: SmallPicture, after: SmallPicture, mix: Mixture, alike: float) -> float:
    """Of a mix that has come as far, wherever things have moved to in both."""
    first, second = (1 - mix.progress) * before.contrast, mix.progress * after.contrast
    return first * first + second * second + 2 * first * second * alike


def _groups(sightings: list[_Sighting]) -> list[list[_Sighting]]:
    groups: list[list[_Sighting]] = []
    for sighting in sightings:
        if groups and sighting.middle - groups[-1][-1].middle <= _GAP_FRAMES:
            groups[-1].append(sighting)
        else:
            groups.append([sighting])
    return groups
