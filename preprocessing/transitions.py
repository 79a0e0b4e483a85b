"""Where one shot becomes the next. Home of PySceneDetect.

Its detector proposes cuts, generously; `cuts` certifies them by what motion and exposure leave unexplained; dissolves and fades,
which it does not see, come from `dissolves` and `fades`.

Frames are counted by us: a cut is the index of the first frame of the new shot.
"""

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from preprocessing.config import TransitionsConfig
from preprocessing.cuts import REACH_FRAMES, cut_score
from preprocessing.dips import DipDetector
from preprocessing.dissolves import DissolveDetector
from preprocessing.fades import Fade, find_fades
from preprocessing.likeness import small_picture
from preprocessing.residue import GRAY_PX, MotionResidue, small_gray
from preprocessing.samples import Transition, TransitionKind

VERSION = 3

_ANY_RATE = 25.0
"""PySceneDetect wants time codes; ours count frames, and every setting of its detector is in frames."""
_FADE_SCORE = 1.0
"""Score of a fade: its end is a picture of one colour."""


class TransitionDetector:
    """Takes every frame in order and finds the transitions between them; of pictures it holds a bounded number."""

    def __init__(self, settings: TransitionsConfig) -> None:
        """Start before the first frame."""
        self._settings = settings
        self._proposer = Proposer(
            adaptive_threshold=settings.adaptive_threshold,
            min_content_val=settings.min_content_val,
            window_width=settings.window_width,
            min_scene_len=1,
        )
        self._residue = MotionResidue()
        self._dissolves = DissolveDetector(self._residue)
        self._dips = DipDetector()
        self._num_frames = 0
        self._grays: deque[NDArray[np.uint8]] = deque(maxlen=2 * REACH_FRAMES + settings.window_width + 2)
        self._proposed: list[int] = []
        self._cuts: list[Transition] = []
        self._contrast: list[float] = []
        self._luma: list[float] = []

    def add(self, rgb_HWC: NDArray[np.uint8]) -> None:
        """The next frame, at analysis size."""
        half_HWC = _half(rgb_HWC)
        timecode = FrameTimecode(self._num_frames, _ANY_RATE)
        cuts = self._proposer.process_frame(timecode, cv2.cvtColor(half_HWC, cv2.COLOR_RGB2BGR))
        self._proposed += [cut.frame_num for cut in cuts]
        self._grays.append(small_gray(half_HWC))
        picture = small_picture(half_HWC)
        self._dissolves.add(picture, self._grays[-1])
        self._dips.add(picture)
        self._luma.append(float(picture.rgb_HW3.mean()))
        self._contrast.append(picture.contrast)
        self._num_frames += 1
        while self._proposed and self._proposed[0] + REACH_FRAMES < self._num_frames:
            self._certify(self._proposed.pop(0))

    def result(self) -> tuple[Transition, ...]:
        """The transitions, in order, not overlapping. Call once, after the last frame."""
        for cut in self._proposed:
            self._certify(cut)
        fades = find_fades(np.array(self._contrast), np.array(self._luma))
        gradual = [
            _gradual(fade.start_frame, fade.end_frame, _FADE_SCORE) for fade in fades if not self._is_flash(fade)
        ]
        dips = [_gradual(fade.start_frame, fade.end_frame, _FADE_SCORE) for fade in self._dips.result()]
        gradual += [dip for dip in dips if not any(_touch(dip, other) for other in gradual)]
        for found in self._dissolves.result():
            change = _gradual(found.start_frame, min(found.end_frame, self._num_frames), found.score)
            if not any(_touch(change, other) for other in gradual):
                gradual.append(change)
        cuts = [cut for cut in self._cuts if not any(_touch(cut, change) for change in gradual)]
        return tuple(sorted([*cuts, *gradual], key=lambda transition: transition.start_frame))

    def _certify(self, cut: int) -> None:
        """Keep a proposed cut if it is one."""
        first = self._num_frames - len(self._grays)
        start, end = max(first, cut - REACH_FRAMES - 1), cut + REACH_FRAMES + 1
        grays = [gray for index, gray in enumerate(self._grays, first) if start <= index < end]
        score = cut_score(grays, cut - start, self._settings, self._residue)
        if score is not None:
            self._cuts.append(Transition(kind=TransitionKind.CUT, start_frame=cut, end_frame=cut, score=score))

    def _is_flash(self, fade: Fade) -> bool:
        inside = fade.start_frame > 0 and fade.end_frame < self._num_frames
        return inside and fade.end_frame - fade.start_frame <= self._settings.max_flash_frames


class Proposer(AdaptiveDetector):
    """PySceneDetect's detector with the same score of a frame in a quarter of the time: three channels are compared at once.

    It takes the weights that the detector has by itself, and keeps no statistics.
    """

    _hsv_HW3: NDArray[np.uint8] | None = None

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: NDArray[np.uint8]) -> float:
        """Mean over hue, saturation and brightness of how much a pixel changed, 0 for the first frame."""
        before_HW3, self._hsv_HW3 = self._hsv_HW3, np.asarray(cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV), np.uint8)
        if before_HW3 is None:
            return 0.0
        sums = cv2.sumElems(cv2.absdiff(self._hsv_HW3, before_HW3))
        hue, saturation, brightness = (total / (frame_img.shape[0] * frame_img.shape[1]) for total in sums[:3])
        return (hue + saturation + brightness) / 3.0


def _half(rgb_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture at the size of all comparisons: content changes show, and cost a quarter."""
    scale = GRAY_PX / max(rgb_HWC.shape[:2])
    if scale >= 1:
        return rgb_HWC
    size = (max(1, round(rgb_HWC.shape[1] * scale)), max(1, round(rgb_HWC.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)


def _gradual(start_frame: int, end_frame: int, score: float) -> Transition:
    return Transition(kind=TransitionKind.GRADUAL, start_frame=start_frame, end_frame=end_frame, score=score)


def _touch(first: Transition, second: Transition) -> bool:
    """Whether no frame lies between them."""
    return first.start_frame <= second.end_frame and second.start_frame <= first.end_frame
