"""What the signals of a source say of ranges of its frames: every score by name, rounded. Pure.

All ranges of many sources at once, since numpy's calls cost more than its work: P ranges, M measurements, N frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing.camera import WAY
from preprocessing.config import ClipsConfig
from preprocessing.pauses import black_stretches, effective_rate, frozen_stretches, new_frames
from preprocessing.samples import Signals

SCORE_DECIMALS = 4
"""Scores are rounded, so that thresholds do not hang on last bits, which differ between CPUs."""

_CONSTANT = 0.9
"""Constancy of a way that is kept; of six independent ways one in 200 reaches it."""
_SAME_S = 1e-3
"""Times closer than this are one."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The motion series of a source, or of several, one behind the other; the same for all ranges.

    Attributes:
        times_s: When each was measured, (M,).
        gaps_s: Time before each measurement that its short and long gap, and that its far gap depend on, (2, M).
        values: (R, M), rows as the properties cut them.
    """

    times_s: NDArray[np.float64]
    gaps_s: NDArray[np.float64]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, signals: Signals) -> "Motion":
        """Of one source."""
        motion, times_s = signals.motion, signals.motion_times_s
        far_span_s = np.fmax(motion["far_span_s"], motion["span_s"])
        near = np.fmin(motion["camera_short"], motion["camera_long"])
        camera = (np.fmin(near, motion["camera_far"]), near)
        net = (np.fmin(motion["camera_long"], motion["camera_far"]), motion["camera_long"])
        names = (*WAY, "own", *_MEDIANS.values())
        return cls(
            times_s=times_s,
            gaps_s=np.stack([times_s - motion["span_s"], times_s - far_span_s]) + _SAME_S,
            values=np.stack([*camera, *net, *(motion[name] for name in names)]),
        )

    @classmethod
    def joined(cls, motions: Sequence["Motion"]) -> "Motion":
        """One behind the other."""
        return cls(
            times_s=np.concatenate([one.times_s for one in motions]),
            gaps_s=np.concatenate([one.gaps_s for one in motions], axis=1),
            values=np.concatenate([one.values for one in motions], axis=1),
        )

    @property
    def camera(self) -> NDArray[np.float32]:
        """Speed of the camera by the far and by the nearer gaps, where it was measured, (2, M)."""
        return self.values[:2]

    @property
    def net(self) -> NDArray[np.float32]:
        """What of it remains over a longer time, (2, M)."""
        return self.values[2:4]

    @property
    def ways(self) -> NDArray[np.float32]:
        """The camera's ways, (4, M)."""
        return self.values[4:8]

    @property
    def own(self) -> NDArray[np.float32]:
        """Speed of things beside the camera, (M,)."""
        return self.values[8]

    @property
    def medians(self) -> NDArray[np.float32]:
        """Series of which a score is the median, in the order of `_MEDIANS`, (K, M)."""
        return self.values[9:]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What is the same for all ranges of a source.

    Attributes:
        times_s: When each frame is shown, (N,).
        black: Ranges of frames that are black for a while.
        frozen: Ranges of frames that show one picture for a while.
        before: How many of the frames before each, and before the end, are black, frozen, in motion, and new ones in motion,
            (4, N + 1).
        motion: Its series.
    """

    times_s: NDArray[np.float64]
    black: list[tuple[int, int]]
    frozen: list[tuple[int, int]]
    before: NDArray[np.int64]
    motion: Motion

    @classmethod
    def of(cls, signals: Signals, clips: ClipsConfig, *, step_s: float) -> "Measurements":
        """Computed once a source; `step_s` is the `frame_step_s` of its time stamps."""
        frozen = frozen_stretches(signals, at_least_s=clips.frozen_stretch_s)
        new_N, moving_N = new_frames(signals, step_s=step_s)
        return cls(
            times_s=signals.timestamps_s,
            black=black_stretches(signals, black_luma=clips.black_luma, at_least_s=clips.black_stretch_s),
            frozen=frozen,
            before=_counts([signals.luma < clips.black_luma, _inside(frozen, len(new_N)), moving_N, new_N & moving_N]),
            motion=Motion.of(signals),
        )


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Ranges of a source's frames, and what was measured in it.

    Attributes:
        measured: In the whole source.
        start_P: First frame of each range.
        end_P: The frame behind its last.
    """

    measured: Measurements
    start_P: NDArray[np.int64]
    end_P: NDArray[np.int64]

    @property
    def first_s(self) -> NDArray[np.float64]:
        """When the first frame of each is shown, (P,)."""
        return self.measured.times_s[self.start_P]

    @property
    def last_s(self) -> NDArray[np.float64]:
        """When the last frame of each is shown, (P,)."""
        return self.measured.times_s[self.end_P - 1]

    def counts(self) -> NDArray[np.int64]:
        """Frames in each that are black, frozen, in motion, and new ones in motion, (4, P)."""
        return self.measured.before[:, self.end_P] - self.measured.before[:, self.start_P]

    def measurements(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first measurement in each, and the one behind the last, (P,) each."""
        times_s = self.measured.motion.times_s
        return times_s.searchsorted(self.first_s), times_s.searchsorted(self.last_s, side="right")

    def shape(self) -> tuple[int, int]:
        """Number of ranges, and the most measurements in one."""
        begin_P, end_P = self.measurements()
        return len(begin_P), int(np.max(end_P - begin_P, initial=0))


def _inside(stretches: Sequence[tuple[int, int]], num_frames: int) -> NDArray[np.bool_]:
    """Which frames lie in the stretches, (N,)."""
    inside_N = np.zeros(num_frames, np.bool_)
    for start, end in stretches:
        inside_N[start:end] = True
    return inside_N


def _counts(kinds: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """How many of the frames before each, and before the end, are of each of K kinds, (K, N + 1)."""
    counts = np.zeros((len(kinds), len(kinds[0]) + 1), np.int64)
    np.cumsum(kinds, axis=1, out=counts[:, 1:])
    return counts


def scores_of(sources: Sequence[Ranges], clips: ClipsConfig) -> dict[str, NDArray[np.float64]]:
    """What the signals say of ranges of frames, of one source after the other, (P,) each; NaN of what was not measured inside one.

    black_share: share of frames darker than `clips.black_luma`.
    frozen_share: share of frames in stretches that show one picture for `clips.frozen_stretch_s`.
    effective_fps: new frames a second, told where most of the range moves.
    and those of `_motion_scores`.
    """
    black_P, frozen_P, moving_P, new_P = np.concatenate([source.counts() for source in sources], axis=1)
    frames_P = np.concatenate([source.end_P - source.start_P for source in sources])
    lasts_s = np.concatenate([source.last_s - source.first_s for source in sources])
    of_frames = {
        "black_share": black_P / frames_P,
        "frozen_share": frozen_P / frames_P,
        "effective_fps": effective_rate(new_P, moving_P, frames_P, lasts_s),
    }
    return {name: rounded(values_P, SCORE_DECIMALS) for name, values_P in of_frames.items()} | _motion_scores(
        sources, clips
    )


def rounded(values: NDArray[np.float64], decimals: int) -> NDArray[np.float64]:
    """To the nearest decimal, as Python rounds: numpy multiplies first, and is a digit off where that makes a tie."""
    return np.array([round(value, decimals) for value in values.tolist()], np.float64)


def _motion_scores(sources: Sequence[Ranges], clips: ClipsConfig) -> dict[str, NDArray[np.float64]]:
    """Scores of the measurements inside each range, from one time to another; NaN for one that holds no measurement.

    In rows of L measurements each, those behind a range's own NaN.

    dynamism: median over time of the larger of the camera's speed, which is the smallest over three gaps, and of `own_motion`.
    dynamism_spread: from the 10th to the 90th percentile over time.
    active_share: share of moments whose dynamism reaches `clips.active_dynamism`.
    long_dynamism: median of all speed over the long gap alone, true or made up.
    own_motion: median speed of things beside the camera.
    own_area: median share of the picture that such things take.
    rest_motion: median of what no shift, turn and zoom of the whole picture explains.
    camera_speed: median speed of the camera over the short gap.
    steadiness: median speed of the camera over the longer gaps, divided by that; near 0 for a shaking camera. A fast camera outruns
        the longer gaps: where it keeps its way from moment to moment, `constancy` stands instead.
    followed: median correlation of neighbours after motion compensation.
    """
    motion = Motion.joined([source.measured.motion for source in sources])
    first_P = np.concatenate([source.first_s for source in sources])
    places_PL, own_PL = _places(sources)
    near_s, far_s = motion.gaps_s
    inside_PL = own_PL & (near_s[places_PL] >= first_P[:, None])
    number_P = inside_PL.sum(axis=1)
    if not number_P.any():
        return dict.fromkeys(_OF_MOTION, np.full(len(first_P), np.nan))
    has_far_PL = far_s[places_PL] >= first_P[:, None]
    camera_PL, net_PL = (
        np.where(has_far_PL, far_M[places_PL], near_M[places_PL]) for far_M, near_M in (motion.camera, motion.net)
    )
    dynamism_PL = np.fmax(motion.own[places_PL], camera_PL)
    values_KPL = np.concatenate([dynamism_PL[None], net_PL[None], motion.medians[:, places_PL]])
    low_KP, middle_KP, high_KP = quantiles(np.where(inside_PL, values_KPL, np.nan), (0.1, 0.5, 0.9))
    found = dict(zip(_MEDIANS, middle_KP[2:], strict=True))
    kept_way_P = constancy(np.where(inside_PL, motion.ways[:, places_PL], np.nan))
    arrives_P = middle_KP[1] / np.fmax(found["camera_speed"], 1e-3)
    found |= {"dynamism": middle_KP[0], "dynamism_spread": high_KP[0] - low_KP[0]}
    found |= {"steadiness": np.where(kept_way_P >= _CONSTANT, kept_way_P, arrives_P)}
    active_PL = (dynamism_PL >= clips.active_dynamism) & inside_PL
    found |= {"active_share": np.where(number_P, active_PL.sum(axis=1) / np.maximum(number_P, 1), np.nan)}
    return {name: np.round(values_P.astype(np.float64), SCORE_DECIMALS) for name, values_P in found.items()}


def _places(sources: Sequence[Ranges]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places of the measurements in each range among those of all sources, and which are its own, (P, L) each."""
    begins, ends, behind = [], [], 0
    for source in sources:
        begin_P, end_P = source.measurements()
        begins.append(begin_P + behind)
        ends.append(end_P + behind)
        behind += len(source.measured.motion.times_s)
    begin_P, end_P = np.concatenate(begins), np.concatenate(ends)
    places_PL = begin_P[:, None] + np.arange(int(np.max(end_P - begin_P, initial=0)))
    return np.minimum(places_PL, behind - 1), places_PL < end_P[:, None]


def constancy(ways_4PL: NDArray[np.float32]) -> NDArray[np.float64]:
    """Length of the camera's mean way, as a share of the mean length of its ways, (P,); 0 where none was measured.

    1 for a pan or a zoom of any speed; about 1 / sqrt(L) for a shaking camera.
    """
    known_PL = ~np.isnan(ways_4PL).any(axis=0)
    measured_4PL = np.where(known_PL, ways_4PL, 0.0).astype(np.float64)
    number_P = np.maximum(known_PL.sum(axis=-1), 1)
    mean_4P = measured_4PL.sum(axis=-1) / number_P
    length_P = np.sqrt((measured_4PL * measured_4PL).sum(axis=0)).sum(axis=-1) / number_P
    return np.sqrt((mean_4P * mean_4P).sum(axis=0)) / np.maximum(length_P, 1e-3)


_MEDIANS = {
    "own_motion": "own",
    "own_area": "own_area",
    "rest_motion": "rest",
    "long_dynamism": "long_p95",
    "followed": "followed",
    "camera_speed": "camera_short",
}
"""Scores that are the median of a series."""

_OF_MOTION = (*_MEDIANS, "dynamism", "dynamism_spread", "steadiness", "active_share")


def quantiles(values: NDArray[np.float32], shares: Sequence[float]) -> list[NDArray[np.float64]]:
    """Over the last axis, of the values that are not NaN: one array for each share; NaN where there are none.

    numpy's own take one call, and ten times as long, for each row and share.
    """
    ordered = np.sort(values, axis=-1)  # NaN comes last
    last = np.maximum((~np.isnan(ordered)).sum(axis=-1) - 1, 0)
    flat, begin = ordered.ravel(), np.arange(last.size).reshape(last.shape) * ordered.shape[-1]
    found = []
    for share in shares:
        place = last * share
        below = place.astype(np.int64)
        lower, upper = (flat[begin + at].astype(np.float64) for at in (below, np.minimum(below + 1, last)))
        found.append(lower + (place - below) * (upper - lower))
    return found
