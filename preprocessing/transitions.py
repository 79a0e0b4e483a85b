"""Where one shot becomes the next. Home of PySceneDetect, which proposes cuts; a comparison of pictures refuses flashes.

Frames are counted by us: a cut is the index of the first frame of the new shot.
"""

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from preprocessing.config import TransitionsConfig
from preprocessing.samples import Transition, TransitionKind

VERSION = 1

_SMALL = (48, 27)
_ANY_RATE = 25.0
"""PySceneDetect wants time codes; ours count frames, and every setting of its detector is in frames."""


class TransitionDetector:
    """Takes every frame in order and finds the transitions between them, with a bounded memory."""

    def __init__(self, settings: TransitionsConfig) -> None:
        """Start before the first frame."""
        self._settings = settings
        self._proposer = AdaptiveDetector(
            adaptive_threshold=settings.adaptive_threshold,
            min_content_val=settings.min_content_val,
            window_width=settings.window_width,
            min_scene_len=settings.min_shot_frames,
        )
        self._num_frames = 0
        self._pictures: deque[tuple[int, NDArray[np.float32]]] = deque(
            maxlen=2 * settings.max_flash_frames + settings.window_width + 3
        )
        self._proposed: list[int] = []
        self._found: list[Transition] = []

    def add(self, rgb_HWC: NDArray[np.uint8], gray_HW: NDArray[np.uint8]) -> None:
        """The next frame, at analysis size."""
        timecode = FrameTimecode(self._num_frames, _ANY_RATE)
        cuts = self._proposer.process_frame(timecode, cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2BGR))
        self._proposed += [cut.frame_num for cut in cuts]
        self._pictures.append((self._num_frames, _standardised(gray_HW)))
        self._num_frames += 1
        while self._proposed and self._proposed[0] + self._settings.max_flash_frames < self._num_frames:
            self._certify(self._proposed.pop(0))

    def result(self) -> tuple[Transition, ...]:
        """The transitions, in order. Call once, after the last frame."""
        for cut in self._proposed:
            self._certify(cut)
        return tuple(self._found)

    def _certify(self, cut: int) -> None:
        """Keep a proposed cut unless the picture before it comes back, or the picture after it was there before."""
        span = self._settings.max_flash_frames
        before = [small for index, small in self._pictures if cut - 1 - span <= index < cut]
        after = [small for index, small in self._pictures if cut <= index <= cut + span]
        likeness = max(_correlation(before[-1], later) for later in after)
        likeness = max(likeness, *(_correlation(earlier, after[0]) for earlier in before))
        if likeness < self._settings.same_picture:
            score = round(1 - max(0.0, likeness), 4)
            self._found.append(Transition(kind=TransitionKind.CUT, start_frame=cut, end_frame=cut, score=score))


def _standardised(gray_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A small picture of mean 0 and length 1; a flat one has length 0."""
    small = cv2.resize(gray_HW, _SMALL, interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1.0)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float((a * b).sum())
