"""Dynamism: how fast a picture moves, whatever its size, rate and codec, measured over a short and a long time.

One gap cannot tell motion from what looks like it: noise and flicker make flow between neighbours and none over half a second;
a slide show makes flow over half a second and none between neighbours; a shaking camera runs far between neighbours and arrives
nowhere. Both gaps are stored, and `candidates` compares them.
"""

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocessing.config import MotionConfig
from preprocessing.flow import LowResolutionFlow

VERSION = 1

_MARGIN_PX = 2
"""Flow at the border is made up."""
_MOVED_PX = 0.5
"""Shift of a pixel over the long gap that counts as moved, at analysis size."""


class _Moment(NamedTuple):
    time_s: float
    gray_HW: NDArray[np.uint8]


class MotionMeter:
    """Takes every frame and measures some: the flow to a frame a short and a long time before.

    The series, each one value per measurement:
        short_p95, long_p95: 95th percentile of speed, which sees a small object, in per cent of the diagonal per second.
        short_median, long_median: of speed, which sees the camera, in the same unit.
        moved_area: share of pixels that moved over the long gap, 0 to 1.
        difference: mean absolute difference to the frame before, in per cent of white.
        span_s: the long gap as it was, in seconds: frames before the measurement that it depends on.
    """

    def __init__(self, settings: MotionConfig) -> None:
        """Start before the first frame."""
        self._settings = settings
        self._flow = LowResolutionFlow()
        self._recent: deque[_Moment] = deque()
        self._next_s = settings.long_gap_s
        self._times_s: list[float] = []
        self._rows: list[dict[str, float]] = []

    def add(self, time_s: float, gray_HW: NDArray[np.uint8]) -> None:
        """The next frame; measured if its turn has come."""
        self._recent.append(_Moment(time_s, gray_HW))
        while len(self._recent) > 2 and self._recent[1].time_s <= time_s - self._settings.long_gap_s:
            self._recent.popleft()
        if time_s >= self._next_s and len(self._recent) > 1:
            self._measure()
            self._next_s = time_s + 1 / self._settings.samples_per_s

    def result(self) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float32]]]:
        """Times of the measurements, (M,), and the series, each (M,)."""
        series = {name: np.array([row[name] for row in self._rows], np.float32) for name in SERIES}
        return np.array(self._times_s, np.float64), series

    def _measure(self) -> None:
        now = self._recent[-1]
        short_ago = self._latest_before(now.time_s - self._settings.short_gap_s)
        long_ago = self._recent[0]
        self._times_s.append(now.time_s)
        long = self._speed(long_ago, now)
        short = long if short_ago is long_ago else self._speed(short_ago, now)
        moved_per_s = _MOVED_PX * self._unit(now) / (now.time_s - long_ago.time_s)
        before = self._recent[-2].gray_HW
        self._rows.append(
            {
                "short_p95": float(np.percentile(short, 95)),
                "long_p95": float(np.percentile(long, 95)),
                "short_median": float(np.median(short)),
                "long_median": float(np.median(long)),
                "moved_area": float((long > moved_per_s).mean()),
                "span_s": now.time_s - long_ago.time_s,
                "difference": float(np.abs(now.gray_HW.astype(np.int16) - before).mean() / 2.55),
            }
        )

    def _latest_before(self, time_s: float) -> _Moment:
        earlier = [moment for moment in self._recent if moment.time_s <= time_s]
        return earlier[-1] if earlier else self._recent[0]

    def _speed(self, earlier: _Moment, later: _Moment) -> NDArray[np.float32]:
        """Of every pixel, in per cent of the diagonal per second."""
        flow_HW2 = self._flow(earlier.gray_HW, later.gray_HW)[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
        speed_HW = np.hypot(flow_HW2[..., 0], flow_HW2[..., 1])
        return speed_HW * np.float32(self._unit(later) / (later.time_s - earlier.time_s))

    def _unit(self, moment: _Moment) -> float:
        """One pixel in per cent of the diagonal."""
        return 100 / float(np.hypot(*moment.gray_HW.shape))


SERIES = ("short_p95", "long_p95", "short_median", "long_median", "moved_area", "difference", "span_s")
