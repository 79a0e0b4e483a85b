"""Scores and thresholds in, keep or drop with reasons out. Pure."""

from collections.abc import Callable

from preprocessing.config import DecideConfig
from preprocessing.reasons import Reason
from preprocessing.samples import ClipCandidate, Decision, Verdict

VERSION = 1

_SHAKE_SPEED = 3.0
"""Under this, in per cent of the diagonal per second, a camera does not shake enough to matter."""


def decide(candidate: ClipCandidate, settings: DecideConfig) -> Decision:
    """Keep or drop a clip; reasons stand in order of importance, and the first counts in totals.

    What a clip shows is only judged where it could be a clip at all.
    """
    reasons = _that_apply(_FORM, candidate, settings) or _that_apply(_CONTENT, candidate, settings)
    return Decision(clip_id=candidate.clip_id, verdict=Verdict.DROP if reasons else Verdict.KEEP, reasons=reasons)


def _that_apply(rules: "tuple[_Rule, ...]", candidate: ClipCandidate, settings: DecideConfig) -> tuple[Reason, ...]:
    return tuple(reason for reason, applies in rules if applies(candidate, settings))


def _black(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    return candidate.scores["black_share"] > settings.max_black_share


def _slideshow(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    """Pictures are other ones after half a second, yet nothing moves between neighbours."""
    long, both = candidate.scores.get("long_dynamism"), candidate.scores.get("dynamism")
    return long is not None and both is not None and both < settings.min_dynamism <= long


def _static(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    dynamism, active = candidate.scores.get("dynamism"), candidate.scores.get("active_share")
    if dynamism is None or active is None:
        return False
    return dynamism < settings.min_dynamism or active < settings.min_active_share


def _too_fast(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    return candidate.scores.get("dynamism", 0.0) > settings.max_dynamism


def _shaky(candidate: ClipCandidate, settings: DecideConfig) -> bool:
    """The camera runs, and arrives nowhere."""
    speed, steadiness = candidate.scores.get("camera_speed", 0.0), candidate.scores.get("steadiness", 1.0)
    return speed >= _SHAKE_SPEED and steadiness < settings.min_steadiness


_Rule = tuple[Reason, Callable[[ClipCandidate, DecideConfig], bool]]

_FORM: tuple[_Rule, ...] = (
    (Reason.TRANSITION_INSIDE, lambda candidate, _: candidate.scores["transitions"] > 0),
    (Reason.TOO_SHORT, lambda candidate, _: candidate.num_segments == 0),
    (Reason.LOW_FRAME_RATE, lambda candidate, settings: candidate.scores["source_fps"] < settings.min_source_fps),
    (Reason.TOO_SMALL, lambda candidate, settings: candidate.scores["height_px"] < settings.min_height_px),
)

_CONTENT: tuple[_Rule, ...] = (
    (Reason.BLACK, _black),
    (Reason.SLIDESHOW, _slideshow),
    (Reason.STATIC, _static),
    (Reason.SHAKY, _shaky),
    (Reason.TOO_FAST, _too_fast),
)
