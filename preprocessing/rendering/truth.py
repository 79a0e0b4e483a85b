"""What must be decided about a rendered video, how decisions add up, and how a run differs from it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from preprocessing.reasons import Reason
from preprocessing.samples import Transition


@dataclass(frozen=True, kw_only=True)
class ShotTruth:
    """One shot and the one clip that it gives; frames beyond the last whole segment belong to no clip.

    Attributes:
        start_frame: First pure frame of the shot.
        end_frame: Frame after its last pure one.
        dropped_for: Why its clip must be dropped; None if it must be kept.
    """

    start_frame: int
    end_frame: int
    dropped_for: Reason | None


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What must be found in one file.

    Attributes:
        file: Its name.
        caption: What it shows, as the text beside it says.
        failed_for: Why it cannot be read; None if it can.
        shots: In order; empty if it cannot be read.
    """

    file: str
    caption: str
    failed_for: Reason | None
    transitions: tuple[Transition, ...]
    shots: tuple[ShotTruth, ...]


_JSON = TypeAdapter(tuple[Truth, ...])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was decided about one file.

    Attributes:
        failed_for: Why the source failed; None if it is ok.
        kept: Clips that were kept.
        dropped: Clips that were dropped, by first reason.
    """

    file: str
    failed_for: Reason | None
    kept: int
    dropped: Mapping[Reason, int]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Clips kept, clips dropped by first reason, and sources failed by reason."""

    kept: int
    dropped: Mapping[Reason, int]
    failed: Mapping[Reason, int]


def expected(truth: Truth) -> Outcome:
    """The outcome that a faultless line has for a file."""
    reasons = Counter(shot.dropped_for for shot in truth.shots if shot.dropped_for is not None)
    kept = sum(shot.dropped_for is None for shot in truth.shots)
    return Outcome(file=truth.file, failed_for=truth.failed_for, kept=kept, dropped=dict(reasons))


def totals(outcomes: Iterable[Outcome]) -> Totals:
    """The sums over files."""
    rows = tuple(outcomes)
    dropped: Counter[Reason] = Counter()
    for row in rows:
        dropped.update(row.dropped)
    failed = Counter(row.failed_for for row in rows if row.failed_for is not None)
    return Totals(kept=sum(row.kept for row in rows), dropped=dict(dropped), failed=dict(failed))


def differences(truths: Iterable[Truth], outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """One line for people about every file that was not decided as it must be, in order of names."""
    wanted = {truth.file: expected(truth) for truth in truths}
    found = {outcome.file: outcome for outcome in outcomes}
    missing = tuple(f"{name}: no row" for name in sorted(wanted.keys() - found.keys()))
    unknown = tuple(f"{name}: a row that nobody expects" for name in sorted(found.keys() - wanted.keys()))
    unequal = tuple(
        f"{name}: {_say(found[name])}; must be {_say(wanted[name])}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name] != wanted[name]
    )
    return missing + unknown + unequal


def _say(outcome: Outcome) -> str:
    if outcome.failed_for is not None:
        return f"failed ({outcome.failed_for})"
    drops = [f"{count} {reason}" for reason, count in sorted(outcome.dropped.items())]
    return f"{outcome.kept} kept, dropped: {', '.join(drops) or 'none'}"


def write_truth(truths: tuple[Truth, ...], path: Path) -> None:
    """Writes truths as JSON."""
    path.write_bytes(_JSON.dump_json(truths, indent=1) + b"\n")


def read_truth(path: Path) -> tuple[Truth, ...]:
    """Reads what `write_truth` wrote."""
    return _JSON.validate_json(path.read_bytes())
