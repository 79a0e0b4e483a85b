"""Quick fades that turn back before the picture is flat: contrast and brightness go to one colour in step, and another shot comes back.

Light that pumps or a strobe dips as well, but the same shot comes back.
"""

from collections import deque

from preprocessing.fades import Fade
from preprocessing.likeness import SmallPicture, likeness

_REACH_FRAMES = 12
"""Longest half of a dip: slower fades reach a flat picture."""
_MIN_FRAMES = 3
"""Shortest half; less is a cut."""
_DEEP = 0.45
"""Share of its contrast that a shot keeps at the bottom, at most."""
_RISES = 1.03
"""Growth of contrast from frame to frame away from the bottom, at least."""
_IN_STEP = 0.1
"""Between the shares of contrast and of the distance to black or white that are left at the bottom."""
_OTHER_SHOT = 0.58
"""Likeness of both sides, at most."""
_LEVELS = (0.0, 255.0)
_MIN_CONTRAST = 6.0
"""Standard deviation of a side, of 255."""


class DipDetector:
    """Takes every small picture in order and holds the last 25."""

    def __init__(self) -> None:
        """Start before the first frame."""
        self._recent: deque[SmallPicture] = deque(maxlen=2 * _REACH_FRAMES + 1)
        self._num_frames = 0
        self._found: list[Fade] = []

    def add(self, picture: SmallPicture) -> None:
        """The next frame."""
        self._recent.append(picture)
        self._num_frames += 1
        if len(self._recent) == 2 * _REACH_FRAMES + 1:
            self._look()

    def result(self) -> tuple[Fade, ...]:
        """The fades, in order, not overlapping."""
        return tuple(self._found)

    def _look(self) -> None:
        """Whether the second shot begins with the picture in the middle."""
        contrasts = [picture.contrast for picture in self._recent]
        first = _REACH_FRAMES
        if contrasts[first] >= _DEEP * max(contrasts[first:]) or contrasts[first - 1] >= _DEEP * max(contrasts[:first]):
            return
        out, into = _rise(contrasts[first - 1 :: -1]), _rise(contrasts[first:])
        if min(out, into) < _MIN_FRAMES:
            return
        pictures = list(self._recent)
        sides = (pictures[first - 1 - out], pictures[first - 1]), (pictures[first + into], pictures[first])
        if any(side.contrast < _MIN_CONTRAST or bottom.contrast > _DEEP * side.contrast for side, bottom in sides):
            return
        if likeness(sides[0][0], sides[1][0]) > _OTHER_SHOT or not any(_in_step(sides, level) for level in _LEVELS):
            return
        middle = self._num_frames - 1 - _REACH_FRAMES
        fade = Fade(start_frame=middle - out, end_frame=middle + into)
        if not self._found or fade.start_frame >= self._found[-1].end_frame:
            self._found.append(fade)


def _rise(contrasts: list[float]) -> int:
    """Steps for which contrast grows, from the bottom on."""
    steps = 0
    while steps + 1 < len(contrasts) and contrasts[steps + 1] > _RISES * contrasts[steps]:
        steps += 1
    return steps


def _in_step(sides: tuple[tuple[SmallPicture, SmallPicture], ...], level: float) -> bool:
    """Whether contrast and the distance of brightness to a level have shrunk to the same share on both sides."""
    return all(
        abs(bottom.contrast / side.contrast - _distance(bottom, level) / max(1.0, _distance(side, level))) <= _IN_STEP
        for side, bottom in sides
    )


def _distance(picture: SmallPicture, level: float) -> float:
    return abs(float(picture.rgb_HW3.mean()) - level)
