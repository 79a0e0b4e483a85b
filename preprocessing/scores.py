"""What the signals of a source say of a range of its frames: every score by name, rounded. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing.camera import WAY
from preprocessing.config import ClipsConfig
from preprocessing.pauses import black_stretches, effective_rate, frozen_stretches, new_frames, share_inside
from preprocessing.samples import Signals

SCORE_DECIMALS = 4
"""Scores are rounded, so that thresholds do not hang on last bits, which differ between CPUs."""

_CONSTANT = 0.9
"""Constancy of a way that is kept; of six independent ways one in 200 reaches it."""
_SAME_S = 1e-3
"""Times closer than this are one."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What is the same for all pieces of a source: M measurements, N frames.

    Attributes:
        black: Ranges of frames that are black for a while.
        frozen: Ranges of frames that show one picture for a while.
        dark_N: Which frames are black.
        new_N: Which frames are new ones.
        moving_N: Of which frames one can tell.
        near_s: Time before each measurement that its short and long gap depend on, (M,).
        far_s: The same of its far gap, (M,).
        camera: Speed of the camera by the far and by the nearer gaps, where it was measured, (2, M).
        net: What of it remains over a longer time, (2, M).
        own: Speed of things beside the camera, (M,).
        medians: Series of which a score is the median, in the order of `_MEDIANS`, (K, M).
        ways: The camera's ways, (4, M).
    """

    black: list[tuple[int, int]]
    frozen: list[tuple[int, int]]
    dark_N: NDArray[np.bool_]
    new_N: NDArray[np.bool_]
    moving_N: NDArray[np.bool_]
    near_s: NDArray[np.float64]
    far_s: NDArray[np.float64]
    camera: NDArray[np.float32]
    net: NDArray[np.float32]
    own: NDArray[np.float32]
    medians: NDArray[np.float32]
    ways: NDArray[np.float32]

    @classmethod
    def of(cls, signals: Signals, clips: ClipsConfig) -> "Measurements":
        """Computed once a source."""
        motion, times_s = signals.motion, signals.motion_times_s
        new_N, moving_N = new_frames(signals)
        near = np.fmin(motion["camera_short"], motion["camera_long"])
        return cls(
            black=black_stretches(signals, black_luma=clips.black_luma, at_least_s=clips.black_stretch_s),
            frozen=frozen_stretches(signals, at_least_s=clips.frozen_stretch_s),
            dark_N=signals.luma < clips.black_luma,
            new_N=new_N,
            moving_N=moving_N,
            near_s=times_s - motion["span_s"] + _SAME_S,
            far_s=times_s - np.fmax(motion["far_span_s"], motion["span_s"]) + _SAME_S,
            camera=np.stack([np.fmin(near, motion["camera_far"]), near]),
            net=np.stack([np.fmin(motion["camera_long"], motion["camera_far"]), motion["camera_long"]]),
            own=motion["own"],
            medians=np.stack([motion[name] for name in _MEDIANS.values()]),
            ways=np.stack([motion[name] for name in WAY]),
        )


def scores_of(signals: Signals, series: Measurements, frames: range, clips: ClipsConfig) -> dict[str, float]:
    """What the signals say of a range of frames; a score of what was not measured inside it is not there.

    black_share: share of frames darker than `clips.black_luma`.
    frozen_share: share of frames in stretches that show one picture for `clips.frozen_stretch_s`.
    effective_fps: new frames a second, told where most of the range moves.
    and those of `_motion_scores`.
    """
    part = slice(frames.start, frames.stop)
    rate = effective_rate(series.new_N[part], series.moving_N[part], signals.timestamps_s[part])
    scores = {
        "black_share": np.count_nonzero(series.dark_N[part]) / len(frames),
        "frozen_share": share_inside(series.frozen, frames.start, frames.stop),
    } | ({} if rate is None else {"effective_fps": rate})
    first_s, last_s = signals.timestamps_s[frames.start], signals.timestamps_s[frames.stop - 1]
    begin = int(np.searchsorted(signals.motion_times_s, first_s))
    inside = np.arange(begin, int(np.searchsorted(signals.motion_times_s, last_s, side="right")))
    inside = inside[series.near_s[inside] >= first_s]
    if len(inside):
        scores |= _motion_scores(series, inside, series.far_s[inside] < first_s, clips)
    return {name: round(value, SCORE_DECIMALS) for name, value in scores.items()}


def _motion_scores(
    series: Measurements,
    inside: NDArray[np.int64],
    without_far: NDArray[np.bool_],
    clips: ClipsConfig,
) -> dict[str, float]:
    """Scores of the measurements inside a range; `without_far` are those whose far gap begins before it.

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
    camera, net = (np.where(without_far, both[1, inside], both[0, inside]) for both in (series.camera, series.net))
    dynamism = np.fmax(series.own[inside], camera)
    values_KM = np.concatenate([dynamism[None], net[None], series.medians[:, inside]])
    low, middle, high = quantiles(values_KM, (0.1, 0.5, 0.9))
    dynamism_now, net_now, *medians = middle
    found = dict(zip(_MEDIANS, medians, strict=True))
    found |= {"dynamism": dynamism_now, "dynamism_spread": high[0] - low[0]}
    kept_way = constancy(series.ways[:, inside])
    arrives = net_now / max(found["camera_speed"], 1e-3)
    found |= {"steadiness": kept_way if kept_way >= _CONSTANT else arrives}
    found |= {"active_share": np.count_nonzero(dynamism >= clips.active_dynamism) / len(inside)}
    return {name: float(value) for name, value in found.items() if value == value}  # NaN was not measured


def constancy(ways_4M: NDArray[np.float32]) -> float:
    """Length of the camera's mean way, as a share of the mean length of its ways; 0 where none was measured.

    1 for a pan or a zoom of any speed; about 1 / sqrt(M) for a shaking camera.
    """
    known_4K = ways_4M[:, ~np.isnan(ways_4M).any(axis=0)].astype(np.float64)
    number = known_4K.shape[1]
    if not number:
        return 0.0
    mean_4 = known_4K.sum(axis=1) / number
    length = float(np.sqrt((known_4K * known_4K).sum(axis=0)).sum()) / number
    return float(np.sqrt(mean_4.dot(mean_4))) / max(length, 1e-3)


_MEDIANS = {
    "own_motion": "own",
    "own_area": "own_area",
    "rest_motion": "rest",
    "long_dynamism": "long_p95",
    "followed": "followed",
    "camera_speed": "camera_short",
}
"""Scores that are the median of a series."""


def quantiles(values_KM: NDArray[np.float32], shares: Sequence[float]) -> list[list[float]]:
    """Of every row, of the values that are not NaN: for each share a list of K; NaN where a row holds none.

    numpy's own take one call, and ten times as long, for each row and share.
    """
    sorted_KM = np.sort(values_KM.astype(np.float64), axis=1)  # NaN comes last
    last_K = np.maximum((~np.isnan(sorted_KM)).sum(axis=1) - 1, 0)
    place_SK = np.multiply.outer(np.asarray(shares), last_K)
    below_SK = place_SK.astype(np.int64)
    rows_K = np.arange(len(sorted_KM))
    lower_SK, upper_SK = sorted_KM[rows_K, below_SK], sorted_KM[rows_K, np.minimum(below_SK + 1, last_K)]
    return (lower_SK + (place_SK - below_SK) * (upper_SK - lower_SK)).tolist()
