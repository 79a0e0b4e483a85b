"""What the demo says when it ends: decisions against the truth, losses, pictures, drift, and where to look."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocessing.dataset import Dataset, inspect_table
from preprocessing.reasons import Reason
from preprocessing.rendering.truth import Outcome, Totals
from preprocessing.samples import FRAMES_PER_SEGMENT, Verdict
from training.types import StageSummary

FIRST_FRAMES = 5
"""Frames that are compared with the start image: it, and one latent frame."""

Frames = NDArray[np.uint8]
"""(N, H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the line.

    Attributes:
        reused: It was done already, and nothing was done again.
    """

    name: str
    seconds: float
    reused: bool


@dataclass(frozen=True, kw_only=True)
class PictureFigures:
    """How a generated video compares with its start image.

    Attributes:
        num_segments: Whole segments.
        psnr_db: Of the first five frames, the worst.
        contrast: Of every segment, standard deviation of a frame's pixels as a share of the start image's.
    """

    num_segments: int
    psnr_db: float
    contrast: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DemoSummary:
    """Everything that the demo found.

    Attributes:
        totals: What was kept, dropped and failed.
        differences: A line for every video that was decided otherwise than it must be; None where no truth is known.
        held_out: Whether the start image is of a video that was not trained on.
        figures: Of the evaluation, by name.
        files: Where to look, by what is there.
        curves: What to type for the page of the curves and parameters.
    """

    out: Path
    steps: tuple[Step, ...]
    totals: Totals
    differences: tuple[str, ...] | None
    teacher: StageSummary
    direct: StageSummary
    prompt: str
    held_out: bool
    pictures: PictureFigures
    figures: Mapping[str, float]
    files: Mapping[str, Path]
    curves: str

    def as_dict(self) -> dict[str, object]:
        """JSON values, but for paths."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        return [
            *_steps_lines(self.steps),
            *_decision_lines(self.totals, self.differences),
            _stage_line(self.teacher, ("val_loss", "val_loss_without_history")),
            _stage_line(self.direct, ("val_loss_direct", "val_loss")),
            _picture_line(self.pictures, self.prompt, held_out=self.held_out),
            _drift_line(self.figures),
            *(f"{what}: {path}" for what, path in self.files.items()),
            f"curves and parameters: {self.curves}",
        ]


def outcomes(dataset: Dataset) -> tuple[Outcome, ...]:
    """What a dataset says about each file of its inputs."""
    clips: dict[str, list[dict]] = {}
    for row in inspect_table(dataset, "clips").to_pylist():
        clips.setdefault(row["source_id"], []).append(row)
    sources = inspect_table(dataset, "sources").to_pylist()
    return tuple(_outcome(row, clips.get(row["source_id"], [])) for row in sources)


def _outcome(source: Mapping[str, str], clips: Sequence[Mapping[str, list[str]]]) -> Outcome:
    dropped = Counter(Reason(clip["reasons"][0]) for clip in clips if clip["reasons"])
    return Outcome(
        file=Path(source["uri"]).name,
        failed_for=Reason(source["reason"]) if source["status"] == "failed" else None,
        kept=sum(clip["decision"] == Verdict.KEEP for clip in clips),
        dropped=dict(dropped),
    )


def picture_figures(start_HW3: NDArray[np.uint8], frames_NHW3: Frames) -> PictureFigures:
    """Compares a generated video with its start image.

    Args:
        start_HW3: The start image at the video's size.
        frames_NHW3: All frames, the start frame first.
    """
    num_segments = (len(frames_NHW3) - 1) // FRAMES_PER_SEGMENT
    segments = [frames_NHW3[1 + FRAMES_PER_SEGMENT * i :][:FRAMES_PER_SEGMENT] for i in range(num_segments)]
    return PictureFigures(
        num_segments=num_segments,
        psnr_db=min(psnr_db(start_HW3, frame_HW3) for frame_HW3 in frames_NHW3[:FIRST_FRAMES]),
        contrast=tuple(_contrast(segment) / max(_contrast(start_HW3[None]), 1e-6) for segment in segments),
    )


def psnr_db(left_HW3: NDArray[np.uint8], right_HW3: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures, in dB; infinite for equal ones."""
    error = float(np.mean((left_HW3.astype(float) - right_HW3.astype(float)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def _contrast(frames_NHW3: Frames) -> float:
    """Standard deviation of a frame's pixels, mean over frames."""
    return float(frames_NHW3.std(axis=(1, 2, 3)).mean())


def _steps_lines(steps: Sequence[Step]) -> list[str]:
    there = [step.name for step in steps if step.reused]
    times = ", ".join(f"{step.name} {step.seconds:.0f} s" for step in steps)
    return [*([f"already there: {', '.join(there)}"] if there else []), f"time: {times}"]


def _decision_lines(totals: Totals, differences: tuple[str, ...] | None) -> list[str]:
    counts = (
        f"clips: {totals.kept} kept, {sum(totals.dropped.values())} dropped{_counts(totals.dropped)}; "
        f"videos that failed: {sum(totals.failed.values())}{_counts(totals.failed)}"
    )
    if differences is None:
        return [counts]
    verdict = "as the truth has it" if not differences else "the truth is another:"
    return [f"{counts}: {verdict}", *(f"  {line}" for line in differences)]


def _counts(numbers: Mapping[Reason, int]) -> str:
    parts = [f"{count} {reason}" for reason, count in sorted(numbers.items(), key=lambda item: (-item[1], item[0]))]
    return f" ({', '.join(parts)})" if parts else ""


_LOSSES = {
    "val_loss": "held-out loss with the true past",
    "val_loss_without_history": "without history",
    "val_loss_direct": "held-out loss with a past of its own making",
}


def _stage_line(stage: StageSummary, names: Sequence[str]) -> str:
    known = [name for name in names if name in stage.at_start and name in stage.at_end]
    losses = [f"{_LOSSES[name]} {stage.at_start[name]:.3f} -> {stage.at_end[name]:.3f}" for name in known]
    return f"{stage.stage}, {stage.steps} steps: {'; '.join(losses) or 'no held-out clip, so no held-out loss'}"


def _picture_line(pictures: PictureFigures, prompt: str, *, held_out: bool) -> str:
    kind = "held-out" if held_out else "training (none is held out)"
    return (
        f"generated: {pictures.num_segments} segments from a {kind} start image ({prompt or 'no caption'}); "
        f"PSNR of the first {FIRST_FRAMES} frames at least {pictures.psnr_db:.1f} dB; "
        f"contrast of a segment at least {min(pictures.contrast):.2f} of the start image's"
    )


def _drift_line(figures: Mapping[str, float]) -> str:
    drifts = [f"{name.split('/')[-2]} {value:.3f}" for name, value in figures.items() if name.endswith("/drift")]
    return f"drift, first against last frames: {', '.join(drifts) or 'none measured'}"
