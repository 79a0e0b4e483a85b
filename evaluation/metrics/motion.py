"""Dynamic degree by VBench's rule, and how much really moves; DIS flow in the place of RAFT."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.optical_flow import Grey, dis_flow, grey
from evaluation.metrics.rules import has_predecessor, nanmean
from evaluation.types import Extractor, FeatureOfFrame, FrameNumbers, Metric, Picture, Rows, VideoFacts

_TOP, _SPEED, _OBJECT = range(3)


def sampling_interval(fps: float) -> int:
    """Frames from one sample to the next: eight samples a second (VBench, ``extract_frame``)."""
    return max(1, round(fps / 8))


def top_share_mean(magnitude_HW: NDArray[np.float32]) -> float:
    """Mean of the largest 5 % of the flow magnitudes, in pixels (VBench, ``get_score``)."""
    count = max(1, int(magnitude_HW.size * 0.05))
    return float(np.partition(magnitude_HW.ravel(), -count)[-count:].mean(dtype=np.float64))


def is_dynamic(tops_N: NDArray[np.floating], num_samples: int, short_side_px: int) -> bool:
    """VBench's ``check_move``: enough pairs move by more than 6 px at 256 px; banker's rounding included."""
    threshold = 6.0 * short_side_px / 256
    return bool(np.count_nonzero(tops_N > threshold) >= round(4 * num_samples / 16))


def _start(facts: VideoFacts) -> FeatureOfFrame:
    flow = dis_flow()
    interval = sampling_interval(facts.fps)
    last: deque[Grey] = deque(maxlen=2)
    count = 0

    def feature(rgb_HWC: Picture) -> NDArray[np.float32]:
        """A row for every sampled frame but the first."""
        nonlocal count
        count += 1
        if (count - 1) % interval == 0:
            last.append(grey(rgb_HWC))
            if len(last) == 2:
                return _describe(flow(last[0], last[1]))
        return np.full(3, np.nan, dtype=np.float32)

    return feature


def _describe(flow_HW2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Top 5 %, mean speed, and mean speed against the median flow, which is the camera's; in pixels a sample."""
    camera_2 = np.median(flow_HW2.reshape(-1, 2), axis=0)
    magnitude_HW, object_HW = (np.hypot(f[..., 0], f[..., 1]) for f in (flow_HW2, flow_HW2 - camera_2))
    return np.array([top_share_mean(magnitude_HW), magnitude_HW.mean(), object_HW.mean()], dtype=np.float32)


def _pairs_inside(rows_ND: Rows, frames_N: FrameNumbers, facts: VideoFacts) -> Rows:
    rows_ND = rows_ND[has_predecessor(frames_N, sampling_interval(facts.fps))]
    return rows_ND[~np.isnan(rows_ND[:, _TOP])]


def _dynamic_degree(rows_ND: Rows, frames_N: FrameNumbers, facts: VideoFacts) -> float:
    tops_N = _pairs_inside(rows_ND, frames_N, facts)[:, _TOP]
    num_samples = len(tops_N) + 1
    if num_samples <= 2:  # VBench asks for no moving pair at all then, and calls a still picture dynamic
        return float("nan")
    return float(is_dynamic(tops_N, num_samples, min(facts.height_px, facts.width_px)))


def _per_second(rows_ND: Rows, frames_N: FrameNumbers, facts: VideoFacts, column: int) -> float:
    """Per cent of the picture's diagonal a second."""
    pixels = nanmean(_pairs_inside(rows_ND, frames_N, facts)[:, column])
    diagonal_px = float(np.hypot(facts.height_px, facts.width_px))
    return 100 * pixels / diagonal_px * facts.fps / sampling_interval(facts.fps)


_MOTION = Extractor(name="motion", start=_start)

DYNAMIC_DEGREE = Metric(
    name="ref/dynamic_degree",
    sentence="1 if a quarter of the sampled pairs move by VBench's threshold, else 0; camera motion counts",
    extractor=_MOTION,
    aggregate=_dynamic_degree,
    min_frames=3,
    is_binary=True,
)

MOTION = Metric(
    name="ref/motion",
    sentence="mean optical flow, in per cent of the diagonal a second",
    extractor=_MOTION,
    aggregate=lambda rows_ND, frames_N, facts: _per_second(rows_ND, frames_N, facts, _SPEED),
    min_frames=3,
)

OBJECT_MOTION = Metric(
    name="ref/object_motion",
    sentence="the same against the median flow, which takes a pan away",
    extractor=_MOTION,
    aggregate=lambda rows_ND, frames_N, facts: _per_second(rows_ND, frames_N, facts, _OBJECT),
    min_frames=3,
)
