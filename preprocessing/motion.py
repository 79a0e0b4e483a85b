"""Dynamism: how fast a picture moves, whatever its size, rate and codec, measured over several times.

One gap cannot tell motion from what looks like it. Noise and flicker make flow between neighbours and less of it over a longer
time; a slide show makes flow over half a second and none between neighbours; a shaking camera runs far between neighbours and
arrives nowhere, however long one waits. And flow may be made up: it counts for things that move where the earlier picture,
moved along it, becomes the later one. `candidates` compares the series.

H, W rows and columns between the black bars; S, L short and long gap.
"""

from collections import deque
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.camera import WAY, Camera, find_camera, places, stays_inside
from preprocessing.config import MotionConfig
from preprocessing.flow import NO_MAP, LowResolutionFlow, grid
from preprocessing.letterbox import BarFinder

VERSION = 4

_MARGIN_PX = 2
"""Flow at the border is made up."""
_STRIDE_PX = 4
"""Every fourth point of the flow in both directions: DIS lays its patches four pixels apart."""
_THIN = (slice(_MARGIN_PX, -_MARGIN_PX, _STRIDE_PX), slice(_MARGIN_PX, -_MARGIN_PX, _STRIDE_PX))
_COARSE = 4
"""The camera's own flow is told from every fourth of those points."""
_FAR_EVERY = 2
"""One in so many measurements also takes the far gap."""
_REACH = 10.0
"""Way of the camera, in per cent of the diagonal, that flow can follow for sure: 29 pixels at 256 x 144."""
_FOLLOWED = 0.3
"""Correlation of the picture with the earlier one, moved along the flow, below which the flow lost its way."""
_DETAIL_PX = 15
"""Brightness of larger areas than this does not count when pictures are compared: light changes are no motion."""
_BLOCK_PX = 9
"""Pictures are compared over areas of this size."""
_EXPLAINS = 1.3
"""Times by which moving the earlier picture must bring it closer to the later one; noise is fitted to 1.1."""
_LEVELS = 0.5
"""And levels of 255 beyond that."""
_FAST_PX = 1.0
"""Shift of a thing over the short gap that is no error of the flow, at analysis size."""
_SEEN_SHARE = 0.01
"""Share of the picture that a thing covers at least, to be seen by the 99th percentile."""
_MOVED_PX = 0.5
"""Shift of a pixel over the long gap that counts as moved, at analysis size."""
_SAME_S = 1e-6
"""Times closer than this are one."""
_FLAT = 100.0
"""Product of the standard deviations of two pictures under which they show nothing."""


class _Moment(NamedTuple):
    time_s: float
    gray_HW: NDArray[np.uint8]


class _Shift(NamedTuple):
    """The flow back to an earlier moment, whole and thinned out as complex numbers, and what the camera did."""

    gap_s: float
    earlier_HW: NDArray[np.uint8]
    dense_HW2: NDArray[np.float32]
    thin_HW: NDArray[np.complex64]
    inside_HW: NDArray[np.bool_]
    camera: Camera | None


class MotionMeter:
    """Takes every frame and measures some: the flow back to a frame a short, a long and sometimes a far time before.

    The series, each one value per measurement, speeds in per cent of the diagonal per second, NaN where it was not measured:
        camera_short, camera_long, camera_far: 95th percentile over the picture of the one similarity that most of the flow follows;
            NaN where there is none, where the flow lost its way, and for the far gap where the camera went too far to follow.
        way_right, way_down, way_zoom, way_turn: of the same over the short gap, with its signs: shift, and growth and turn at the corner.
        own: 99th percentile of what moves otherwise than the camera, over the short and the long gap, or fast over the short one,
            where moving the earlier picture explains the later one: sees a small object, and neither light nor noise.
        rest: 95th percentile of the same without that condition: what no similarity explains, parallax included.
        own_area: share of the picture that moved over the long gap otherwise than the camera, confirmed, 0 to 1.
        long_p95: 95th percentile of all speed over the long gap, camera included, true or made up.
        followed: correlation with the picture a short time before, moved along the flow, -1 to 1, taken with the far gap; low in
            chaos.
        span_s, far_span_s: the long and the far gap as they were: time before the measurement that it depends on.
    """

    def __init__(self, settings: MotionConfig, bars: BarFinder) -> None:
        """Start before the first frame.

        Args:
            settings: Gaps and how often.
            bars: Is shown every frame before the meter; what lies in bars does not count.
        """
        self._settings, self._bars = settings, bars
        self._flow = LowResolutionFlow()
        self._recent: deque[_Moment] = deque()
        self._next_s = settings.long_gap_s
        self._times_s: list[float] = []
        self._rows: list[dict[str, float]] = []

    def add(self, time_s: float, gray_HW: NDArray[np.uint8]) -> None:
        """The next frame; measured if its turn has come."""
        self._recent.append(_Moment(time_s, gray_HW))
        while len(self._recent) > 2 and self._recent[1].time_s <= time_s - self._settings.far_gap_s:
            self._recent.popleft()
        if time_s >= self._next_s and len(self._recent) > 1:
            self._times_s.append(time_s)
            self._rows.append(self._measured())
            self._next_s = time_s + 1 / self._settings.samples_per_s

    def result(self) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float32]]]:
        """Times of the measurements, (M,), and the series, each (M,)."""
        series = {name: np.array([row.get(name, np.nan) for row in self._rows], np.float32) for name in SERIES}
        return np.array(self._times_s, np.float64), series

    def _measured(self) -> dict[str, float]:
        """The values of one measurement by name; what was not measured is not there."""
        area = self._bars.area()
        now_HW = np.ascontiguousarray(self._recent[-1].gray_HW[area])
        unit = 100 / float(np.hypot(*now_HW.shape))
        short, long = (
            self._shift(now_HW, area, gap) for gap in (self._settings.short_gap_s, self._settings.long_gap_s)
        )
        row = {"span_s": long.gap_s} | _camera_speed("short", short, unit) | _way(short, unit)
        row |= _things(now_HW, short, long, unit)
        if row["long_followed"] >= _FOLLOWED:
            row |= _camera_speed("long", long, unit)
        if len(self._rows) % _FAR_EVERY:
            return row
        row["followed"] = _likeness(now_HW.astype(np.float32), _moved(short).astype(np.float32))
        if self._is_far_in_reach(row):
            far = self._shift(now_HW, area, self._settings.far_gap_s)
            row |= _camera_speed("far", far, unit) | {"far_span_s": far.gap_s}
        return row

    def _is_far_in_reach(self, row: dict[str, float]) -> bool:
        has_past = self._recent[-1].time_s - self._recent[0].time_s >= self._settings.far_gap_s - _SAME_S
        speed = round(row.get("camera_long", np.inf), 4)
        return has_past and speed * self._settings.far_gap_s <= _REACH

    def _shift(self, now_HW: NDArray[np.uint8], area: tuple[slice, slice], gap_s: float) -> _Shift:
        now = self._recent[-1]
        earlier = [moment for moment in self._recent if moment.time_s <= now.time_s - gap_s + _SAME_S]
        then = earlier[-1] if earlier else self._recent[0]
        earlier_HW = np.ascontiguousarray(then.gray_HW[area])
        dense_HW2 = self._flow(now_HW, earlier_HW)
        height_px, width_px = now_HW.shape
        thin_HW = np.ascontiguousarray(dense_HW2[_THIN]).view(np.complex64)[..., 0]
        places_HW = places(height_px, width_px, _MARGIN_PX, _STRIDE_PX)
        inside_HW = stays_inside(thin_HW, places_HW, height_px, width_px)
        camera = find_camera(thin_HW, places_HW, inside_HW)
        return _Shift(now.time_s - then.time_s, earlier_HW, dense_HW2, thin_HW, inside_HW, camera)


def _camera_speed(gap: str, shift: _Shift, unit: float) -> dict[str, float]:
    if shift.camera is None:
        return {}
    speed_HW = _speed(shift.camera.flow(_places_of(shift)[::_COARSE, ::_COARSE]), shift.gap_s, unit)
    return {f"camera_{gap}": percentile(speed_HW, 95)}


def _way(shift: _Shift, unit: float) -> dict[str, float]:
    """Where the camera goes."""
    if shift.camera is None:
        return {}
    corner_px = np.hypot(*shift.earlier_HW.shape) / 2
    way = (shift.camera.shift, shift.camera.growth * corner_px)
    return dict(zip(WAY, (float(part) * unit / shift.gap_s for z in way for part in (z.real, z.imag)), strict=True))


def _things(now_HW: NDArray[np.uint8], short: _Shift, long: _Shift, unit: float) -> dict[str, float]:
    """What moves otherwise than the camera, and how well the long flow explains the picture."""
    now_detail_HW = _detail(now_HW)
    confirmed_HW, followed = _explained(now_detail_HW, long)
    apart_short_HW, apart_long_HW = _apart(short, unit), _apart(long, unit)
    apart_HW = np.minimum(apart_short_HW, apart_long_HW)
    both_HW = long.inside_HW & short.inside_HW
    moved_HW = confirmed_HW & (apart_long_HW * np.float32(long.gap_s) > _MOVED_PX * unit)
    row = {
        "own": max(percentile(apart_HW * confirmed_HW, 99), _fast_things(now_detail_HW, short, unit)),
        "own_area": float(moved_HW.mean()),
        "long_p95": percentile(_speed(long.thin_HW, long.gap_s, unit), 95),
        "long_followed": followed,
    }
    return row | ({"rest": percentile(apart_HW[both_HW], 95)} if both_HW.any() else {})


def _fast_things(now_detail_HW: NDArray[np.float32], short: _Shift, unit: float) -> float:
    """99th percentile of what moves so fast that the short gap alone is enough to tell: the long one loses small things."""
    apart_HW = _apart(short, unit)
    fast_HW = (apart_HW * np.float32(short.gap_s) > _FAST_PX * unit) & short.inside_HW
    if fast_HW.mean() <= _SEEN_SHARE:
        return 0.0
    confirmed_HW, _ = _explained(now_detail_HW, short)
    return percentile(apart_HW * (fast_HW & confirmed_HW), 99)


def _apart(shift: _Shift, unit: float) -> NDArray[np.float32]:
    """Speed of every point beside that of the camera."""
    if shift.camera is None:
        return _speed(shift.thin_HW, shift.gap_s, unit)
    return _speed(shift.thin_HW - shift.camera.flow(_places_of(shift)), shift.gap_s, unit)


def _places_of(shift: _Shift) -> NDArray[np.complex64]:
    height_px, width_px = shift.earlier_HW.shape
    return places(height_px, width_px, _MARGIN_PX, _STRIDE_PX)


def _speed(flow_HW: NDArray[np.complex64], gap_s: float, unit: float) -> NDArray[np.float32]:
    """In per cent of the diagonal per second; `unit` is one pixel in per cent of the diagonal."""
    return np.sqrt(flow_HW.real**2 + flow_HW.imag**2) * np.float32(unit / gap_s)


def _explained(now_detail_HW: NDArray[np.float32], shift: _Shift) -> tuple[NDArray[np.bool_], float]:
    """Where moving the earlier picture brings it clearly closer to this one, at the thin points, and how alike both then are."""
    then, moved = _detail(shift.earlier_HW), _detail(_moved(shift))
    before_HW, after_HW = (_over_blocks(np.abs(now_detail_HW - other)) for other in (then, moved))
    confirmed_HW = before_HW > _EXPLAINS * after_HW + _LEVELS
    return confirmed_HW[_THIN] & shift.inside_HW, _likeness(now_detail_HW, moved)


def _detail(gray_HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    picture_HW = gray_HW.astype(np.float32)
    return picture_HW - np.asarray(cv2.blur(picture_HW, (_DETAIL_PX, _DETAIL_PX)), np.float32)


def _over_blocks(values_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(values_HW, (_BLOCK_PX, _BLOCK_PX)), np.float32)


def _moved(shift: _Shift) -> NDArray[np.uint8]:
    """The earlier picture, moved along the flow to where things are now."""
    places_HW2 = grid(*shift.earlier_HW.shape) + shift.dense_HW2
    return np.asarray(cv2.remap(shift.earlier_HW, places_HW2, NO_MAP, cv2.INTER_LINEAR), np.uint8)


def percentile(values: NDArray[np.float32], percent: int) -> float:
    """`np.percentile` of finite values, to the last bit, in a sixth of its time: it takes many small steps for one number."""
    place = (values.size - 1) * (percent / 100)
    below = int(place)
    above, share = min(below + 1, values.size - 1), place - below
    ordered = np.partition(values, (below, above), axis=None)
    low, high = ordered[below], ordered[above]
    return float(high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share)


def _likeness(first_HW: NDArray[np.float32], second_HW: NDArray[np.float32]) -> float:
    """Correlation, whatever the brightness and contrast; 1 where there is nothing to see."""
    first, second = (picture_HW.ravel() - picture_HW.mean() for picture_HW in (first_HW, second_HW))
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale >= _FLAT * first.size else 1.0


SERIES = (
    "camera_short", "camera_long", "camera_far", "own", "rest", "own_area", "long_p95", "followed", "span_s", "far_span_s", *WAY,
)  # fmt: skip
