"""The order of stage 2: a number of segments that rises, and a share of steps with the true past that may fall. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from training.config import DirectConfig, StageName, TrainConfig
from training.order import grouped_batches, keyed_rng
from training.types import ClipRow, GlobalStep


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the direct stage (paper, A.2).

    Attributes:
        cap: Leading segments of a clip that are trained on.
        steps: Which.
        rows: Clips of this phase.
    """

    index: int
    cap: int
    steps: range
    rows: tuple[ClipRow, ...]


def direct_steps(rows: Sequence[ClipRow], *, seed: int, config: DirectConfig, start: int = 0) -> Iterator[GlobalStep]:
    """The order of the direct and student stages: phase after phase of the curriculum.

    Where the settings ask for ground truth, some of the steps train one segment after its true past; they take the
    same clips as they would otherwise.

    Args:
        rows: Clips to train on.
        seed: Of the order.
        config: Curriculum, number of steps, share of ground truth.
        start: First step to yield.

    Raises:
        ValueError: If a phase has no clips.
    """
    phases = curriculum_phases(rows, config)
    return (step for phase in phases for step in _phase_steps(phase, seed, config, start))


def _phase_steps(phase: Phase, seed: int, config: DirectConfig, start: int) -> Iterator[GlobalStep]:
    done = max(0, start - phase.steps.start)
    batches = grouped_batches(
        phase.rows, seed=seed, name=f"direct {phase.index}", global_batch=config.global_batch, cap=phase.cap, start=done
    )
    for step, clips in zip(phase.steps[done:], batches, strict=False):
        num_segments = min(phase.cap, clips[0].num_segments)
        n = _true_past(step, num_segments, seed, config)
        used = num_segments if n is None else n + 1
        yield GlobalStep(step=step, clips=clips, num_segments=(used,) * len(clips), segment_index=n, use_memory=True)


def _true_past(step: int, num_segments: int, seed: int, config: DirectConfig) -> int | None:
    """The segment that is trained after its true past; None for all of them after their own."""
    rng = keyed_rng(seed, "direct", "step", step)
    n = int(rng.integers(num_segments))
    return n if rng.random() < ground_truth_share(step, config) else None


def ground_truth_share(step: int, config: DirectConfig) -> float:
    """How probable a step of ground truth is: a straight line from the first step to the last."""
    first, last = config.ground_truth_share, config.final_ground_truth_share
    if last is None:
        return first
    return first + (last - first) * step / max(1, config.steps - 1)


def curriculum_phases(rows: Sequence[ClipRow], config: DirectConfig) -> tuple[Phase, ...]:
    """Caps on the number of segments in equal shares of the steps (paper, A.2).

    A clip that is longer than the cap is trained on its first segments, or, if clips are sorted by length, waits for
    the phase whose cap it is within; the last phase takes what is longer still.

    Raises:
        ValueError: If a phase has no clips.
    """
    return tuple(
        Phase(index=i, cap=config.curriculum[i], steps=steps, rows=_rows_of_phase(rows, i, config))
        for i, steps in _steps_of_phases(config)
    )


def _steps_of_phases(config: DirectConfig) -> Iterator[tuple[int, range]]:
    """Of each cap, by its place, that has a step."""
    num_caps = len(config.curriculum)
    bounds = [-(-config.steps * i // num_caps) for i in range(num_caps + 1)]
    phases = ((i, range(*bounds[i : i + 2])) for i in range(num_caps))
    return ((i, steps) for i, steps in phases if steps)


def most_segments(train: TrainConfig, stage: StageName, longest_clip: int) -> int:
    """How far into a clip a stage goes: to the end of the longest, or to the largest cap that has a step."""
    if stage == "teacher":
        return longest_clip
    return min(longest_clip, max(train.direct.curriculum[i] for i, _ in _steps_of_phases(train.direct)))


def _rows_of_phase(rows: Sequence[ClipRow], index: int, config: DirectConfig) -> tuple[ClipRow, ...]:
    if not config.sort_by_length:
        return tuple(rows)
    caps = config.curriculum
    shorter, cap = caps[index - 1] if index else 0, caps[index]
    within = tuple(row for row in rows if shorter < min(row.num_segments, caps[-1]) <= cap)
    if rows and not within:
        raise ValueError(
            f"no clip of {shorter + 1} to {cap} segments for cap {cap} of the curriculum: leave it out of"
            " train.direct.curriculum, or set train.direct.sort_by_length=false"
        )
    return within
