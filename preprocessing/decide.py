"""Scores and thresholds in, keep or drop with reasons out. Pure."""

from collections.abc import Callable

from preprocessing.config import DecideConfig
from preprocessing.reasons import Reason
from preprocessing.samples import ClipCandidate, Decision, Verdict

VERSION = 2

_REPEATS = 0.9
"""Share of a source's frames that are new ones, under which it shows frames again."""

_SLIDES_FPS = 5.0
"""Fewer new pictures a second are slides."""

_SHAKE_SPEED = 3.0
"""Under this, in per cent of the diagonal per second, a camera does not shake enough to matter."""


def decide(candidate: ClipCandidate, settings: DecideConfig) -> Decision:
    """Keep or drop a clip; reasons stand in order of importance, and the first counts in totals.

    A clip with a transition inside is not judged further: its scores mix two shots.
    """
    reasons = _that_apply(_SHOT, candidate, settings) or _that_apply(_CLIP, candidate, settings)
    return Decision(clip_id=candidate.clip_id, verdict=Verdict.DROP if reasons else Verdict.KEEP, reasons=reasons)


def _that_apply(rules: "tuple[_Rule, ...]", candidate: ClipCandidate, settings: DecideConfig) -> tuple[Reason, ...]:
    return tuple(reason for reason, applies in rules if applies(candidate, settings))


def _black(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    return candidate.scores["black_share"] > settings.max_black_share


def _slideshow(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    """Pictures are other ones after half a second, yet only a few are new and nothing in them moves."""
    scores = candidate.scores
    if "dynamism" not in scores or "effective_fps" not in scores:
        return False
    changes = scores["dynamism"] < settings.min_dynamism <= scores["long_dynamism"]
    return changes and scores["effective_fps"] < _SLIDES_FPS


def _static(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    dynamism, active = candidate.scores.get("dynamism"), candidate.scores.get("active_share")
    if dynamism is None or active is None:
        return False
    return dynamism < settings.min_dynamism or active < settings.min_active_share


def _low_rate(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    """The source's own rate is low, or what remains of it without frames that are shown again."""
    stated = candidate.scores["source_fps"]
    new = candidate.scores.get("effective_fps", stated)
    return stated < settings.min_source_fps or (new < settings.min_effective_fps and new < _REPEATS * stated)


def _too_fast(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    scores = candidate.scores
    fastest = max(scores.get("dynamism", 0.0), scores.get("camera_speed", 0.0))
    return fastest > settings.max_dynamism or scores.get("followed", 1.0) < settings.min_followed


def _shaky(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    """The camera runs, and arrives nowhere; where other things move, that is worth more."""
    scores = candidate.scores
    runs = scores.get("camera_speed", 0.0) >= _SHAKE_SPEED
    return (
        runs
        and scores.get("steadiness", 1.0) < settings.min_steadiness
        and scores["own_motion"] < settings.min_dynamism
    )


def _still_image(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    rest = candidate.scores.get("rest_motion")
    return rest is not None and rest < settings.min_rest_motion and not _static(candidate, settings)


_Rule = tuple[Reason, Callable[[ClipCandidate, DecideConfig], bool]]

_SHOT: tuple[_Rule, ...] = ((Reason.TRANSITION_INSIDE, lambda candidate, _: candidate.scores["transitions"] > 0),)

_CLIP: tuple[_Rule, ...] = (
    (Reason.TOO_SHORT, lambda candidate, _: candidate.num_segments == 0),
    (Reason.LOW_FRAME_RATE, _low_rate),
    (Reason.TOO_SMALL, lambda candidate, settings: candidate.scores["height_px"] < settings.min_height_px),
    (Reason.BLACK, _black),
    (Reason.SHAKY, _shaky),
    (Reason.SLIDESHOW, _slideshow),
    (Reason.STATIC, _static),
    (Reason.FROZEN, lambda candidate, settings: candidate.scores.get("frozen_share", 0.0) > settings.max_frozen_share),
    (Reason.STILL_IMAGE, _still_image),
    (Reason.TOO_FAST, _too_fast),
)
