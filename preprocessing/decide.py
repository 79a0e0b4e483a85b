"""Scores and thresholds in, keep or drop with reasons out. Pure, and columnar: one decision costs nothing, a million a second."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing import rows
from preprocessing.config import DecideConfig
from preprocessing.reasons import Reason
from preprocessing.relations import float_columns
from preprocessing.samples import ClipCandidate, Decision, Verdict

VERSION = 4

_REPEATS = 0.9
"""Share of a source's frames that are new ones, under which it shows frames again."""

_SLIDES_FPS = 5.0
"""Fewer new pictures a second are slides."""

_SHAKE_SPEED = 3.0
"""Under this, in per cent of the diagonal per second, a camera does not shake enough to matter."""

Clips = Mapping[str, NDArray[np.float64]]
"""Every score and `num_segments`, (number of clips,) each; a score that was not measured is NaN."""

_Rule = tuple[Reason, Callable[[Clips, DecideConfig], NDArray[np.bool_]]]


def decide(candidates: pa.Table, settings: DecideConfig) -> pa.Table:
    """Keep or drop every clip; reasons stand in order of importance, and the first counts in totals.

    A clip with a transition inside is not judged further: its scores mix two shots.

    Args:
        candidates: Schema `rows.CANDIDATES`.
        settings: The thresholds.

    Returns:
        The candidates with two more columns, `decision` and `reasons`.
    """
    scores = pa.Table.from_struct_array(candidates["scores"])
    clips = float_columns(scores.append_column("num_segments", candidates["num_segments"]))
    of_shot, of_clip = (_that_apply(rules, clips, settings) for rules in (_SHOT, _CLIP))
    applies = np.concatenate([of_shot, of_clip & ~of_shot.any(axis=0)])  # (rules, clips)
    decision = pc.if_else(pa.array(np.logical_or.reduce(applies), pa.bool_()), str(Verdict.DROP), str(Verdict.KEEP))
    return candidates.append_column("decision", decision).append_column("reasons", _reasons(applies))


def _that_apply(rules: Sequence[_Rule], clips: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    return np.stack([applies(clips, settings) for _, applies in rules])


def _reasons(applies: NDArray[np.bool_]) -> pa.ListArray:
    """For each clip the names of the rules that apply, in their order; `applies` is (rules, clips)."""
    names = pa.array([str(reason) for reason, _ in (*_SHOT, *_CLIP)])
    _, rule = np.nonzero(applies.T)
    ends = np.cumsum(applies.sum(axis=0))
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), names.take(pa.array(rule, pa.int64())))


def decisions(candidates: Sequence[ClipCandidate], settings: DecideConfig) -> tuple[Decision, ...]:
    """`decide` for a handful of clips."""
    decided = decide(rows.candidates_table(candidates), settings).select(["clip_id", "decision", "reasons"])
    return tuple(
        Decision(clip_id=row["clip_id"], verdict=Verdict(row["decision"]), reasons=tuple(map(Reason, row["reasons"])))
        for row in decided.to_pylist()
    )


# --- the rules ---
# A rule says where it drops, as a comparison that a missing score (NaN) makes false: never by negating one.


def _low_rate(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    """The source's own rate is low, or what remains of it without frames that are shown again."""
    stated, new = clip["source_fps"], clip["effective_fps"]
    return (stated < settings.min_source_fps) | ((new < settings.min_effective_fps) & (new < _REPEATS * stated))


def _shaky(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    """The camera runs, and arrives nowhere; where other things move, that is worth more."""
    runs_nowhere = (clip["camera_speed"] >= _SHAKE_SPEED) & (clip["steadiness"] < settings.min_steadiness)
    return runs_nowhere & (clip["own_motion"] < settings.min_dynamism)


def _slideshow(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    """Pictures are other ones after half a second, yet only a few are new and nothing in them moves."""
    changes = (clip["dynamism"] < settings.min_dynamism) & (clip["long_dynamism"] >= settings.min_dynamism)
    return changes & (clip["effective_fps"] < _SLIDES_FPS)


def _static(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    return _hardly_moves(clip, settings) & ~(clip["truncated"] > 0)


def _truncated(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    """Little moves in what came out of a broken source: a decoder fills gaps with the last picture, so that says nothing."""
    return _hardly_moves(clip, settings) & (clip["truncated"] > 0)


def _hardly_moves(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    return (clip["dynamism"] < settings.min_dynamism) | (clip["active_share"] < settings.min_active_share)


def _still_image(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    return (clip["rest_motion"] < settings.min_rest_motion) & ~_hardly_moves(clip, settings)


def _too_fast(clip: Clips, settings: DecideConfig) -> NDArray[np.bool_]:
    too_fast = [clip[name] > settings.max_dynamism for name in ("dynamism", "camera_speed")]
    return np.logical_or(*too_fast) | (clip["followed"] < settings.min_followed)


_SHOT: tuple[_Rule, ...] = ((Reason.TRANSITION_INSIDE, lambda clip, _: clip["transitions"] > 0),)

_CLIP: tuple[_Rule, ...] = (
    (Reason.TOO_SHORT, lambda clip, _: clip["num_segments"] == 0),
    (Reason.LOW_FRAME_RATE, _low_rate),
    (Reason.TOO_SMALL, lambda clip, settings: clip["height_px"] < settings.min_height_px),
    (Reason.HDR, lambda clip, settings: (clip["hdr"] > 0) & (not settings.keep_hdr)),
    (Reason.BLACK, lambda clip, settings: clip["black_share"] > settings.max_black_share),
    (Reason.SHAKY, _shaky),
    (Reason.SLIDESHOW, _slideshow),
    (Reason.TRUNCATED, _truncated),
    (Reason.STATIC, _static),
    (Reason.FROZEN, lambda clip, settings: clip["frozen_share"] > settings.max_frozen_share),
    (Reason.STILL_IMAGE, _still_image),
    (Reason.TOO_FAST, _too_fast),
    (Reason.NO_CAPTION, lambda clip, settings: clip["caption_words"] < settings.min_caption_words),
)
