"""A film: how its frames are made, how it is stored, and what must be decided about it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from preprocessing.reasons import Reason
from preprocessing.rendering.scenes import Frames
from preprocessing.rendering.shots import Format
from preprocessing.rendering.truth import ShotTruth, Truth
from preprocessing.samples import FRAMES_PER_SEGMENT, Transition

GRID_FPS = 24.0
"""Rate at which segments are counted (paper, 4.3)."""

SLACK_FRAMES = 13
"""Frames at 24 fps that a shot has beyond its last segment: the start frame, and room for a boundary found a little off."""


CERTAIN = 1.0
"""Score of a transition that we put there ourselves."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film that can be made at any time.

    Attributes:
        name: File name without suffix.
        codec: An encoder of `Mp4Writer`.
        make: Draws the frames.
    """

    name: str
    codec: str
    form: Format
    caption: str
    make: Callable[[np.random.Generator], Frames]
    transitions: tuple[Transition, ...]
    shots: tuple[ShotTruth, ...]

    @property
    def file(self) -> str:
        """File name."""
        return f"{self.name}.mp4"

    @property
    def truth(self) -> Truth:
        """What must be decided about it."""
        return Truth(
            file=self.file, caption=self.caption, failed_for=None, transitions=self.transitions, shots=self.shots
        )


def shot_num_frames(num_segments: int, fps: float) -> int:
    """Frames of a shot from which exactly `num_segments` segments can be cut."""
    return round((num_segments * FRAMES_PER_SEGMENT + SLACK_FRAMES) * fps / GRID_FPS)


def one_shot(num_frames: int, dropped_for: Reason | None) -> tuple[ShotTruth, ...]:
    """The truth of a film without a transition."""
    return (ShotTruth(start_frame=0, end_frame=num_frames, dropped_for=dropped_for),)
