"""The study's videos: made from held-out start frames and scored in one process, without files between.

Shapes: B clips, N frames, C latent channels, T latent frames, H and W rows and columns, 3 colours.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.study_rows import Figures
from benchmarks.study_scenes import CODEC, FORM
from evaluation.config import EvaluateConfig
from evaluation.metrics.catalogue import METRICS
from evaluation.metrics.colourfulness import COLOURFULNESS
from evaluation.metrics.exposure import BRIGHTNESS, CONTRAST
from evaluation.metrics.sharpness import SHARPNESS
from evaluation.score import score_metric
from evaluation.types import DriftScores, Measured, Metric, MetricScore, Provenance, Skipped, VideoFacts
from preprocessing.rendering.scenes import Frames
from preprocessing.samples import FRAMES_PER_LATENT, LATENTS_PER_SEGMENT
from training.config import GenerateConfig
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.rope import RopeMode
from training.order import keyed_normals
from training.sampling import roll_out, schedule
from training.types import RandomKey, SegmentBatch

CURVES: tuple[Metric, ...] = (CONTRAST, SHARPNESS, COLOURFULNESS, BRIGHTNESS)
"""What is followed over a video and over the steps of a stage: cheap, and without a reference of its own."""

FACTS = VideoFacts(
    fps=FORM.fps,
    height_px=FORM.height_px,
    width_px=FORM.width_px,
    source_height_px=FORM.height_px,
    source_width_px=FORM.width_px,
)

VideoScore = Mapping[str, MetricScore]
"""By metric."""


@torch.no_grad()
def continue_clips(
    model: MemoryPackTransformer3DModel,
    clips: SegmentBatch,
    *,
    num_segments: int,
    settings: GenerateConfig,
    rope_mode: RopeMode,
) -> list[Frames]:
    """A video of each clip's start frame and prompt; noise depends on the clip's place and the segment alone."""
    key = RandomKey(seed=settings.seed, stage="study", step=0)
    shape = (clips.latents_BCTHW.shape[1], LATENTS_PER_SEGMENT, *clips.latents_BCTHW.shape[3:])
    segments = roll_out(
        model,
        clips.start_latent_BCTHW,
        clips.condition,
        num_segments=num_segments,
        noise_of=lambda i: keyed_normals(key, positions=clips.positions, segment=i, shape=shape),
        times=schedule(settings.num_inference_steps, settings.shift),
        guidance_scale=settings.guidance_scale,
        rope_mode=rope_mode,
    )
    made_BCTHW = torch.cat([clips.start_latent_BCTHW, *segments], dim=2).numpy()
    return [decode(latents_CTHW) for latents_CTHW in made_BCTHW]


def decode(latents_CTHW: NDArray[np.float32]) -> Frames:
    """All frames of a start latent and the latents after it, (1 + 4 k, H, W, 3)."""
    return np.stack(list(CODEC.decode_stream([latents_CTHW[:, :1], latents_CTHW[:, 1:]])))


def score_video(frames_NHW3: Frames, metrics: Iterable[Metric]) -> VideoScore:
    """The metrics of `longtake evaluate`; all frames but the start frame are generated."""
    metrics = tuple(metrics)
    starts = {metric.extractor.name: metric.extractor.start for metric in metrics}
    features = {name: start(FACTS) for name, start in starts.items()}
    rows = {name: np.stack([feature(frame) for frame in frames_NHW3]) for name, feature in features.items()}
    num_frames = len(frames_NHW3)
    measured = Measured(facts=FACTS, decoder="none", num_frames=num_frames, truncated=False, rows=rows, stills=())
    made = Provenance(generated=np.arange(1, num_frames), recorded=True, note="made here", details={})
    return {metric.name: score_metric(metric, measured, made, EvaluateConfig()) for metric in metrics}


def figures_of(videos: Sequence[Frames], metrics: Sequence[Metric] = METRICS) -> Figures:
    """Scores of some videos by metric."""
    scores = [score_video(frames_NHW3, metrics) for frames_NHW3 in videos]
    names = [metric.name for metric in metrics]
    return Figures(
        values={name: [_number(score[name].value) for score in scores] for name in names},
        drifts={name: [_drift(score[name], "absolute") for score in scores] for name in names},
        floors={name: [_drift(score[name], "floor") for score in scores] for name in names},
        curves={
            metric.name: _mean_curve([score[metric.name] for score in scores]) for metric in metrics if metric in CURVES
        },
        seams=[seam(frames_NHW3) for frames_NHW3 in videos],
    )


def _number(value: float | Skipped) -> float | None:
    return None if isinstance(value, Skipped) else value


def _drift(score: MetricScore, name: str) -> float | None:
    return getattr(score.drift, name) if isinstance(score.drift, DriftScores) else None


def _mean_curve(scores: Sequence[MetricScore]) -> list[tuple[float, float]]:
    """The mean over videos of one length, whose windows are the same."""
    curves = [score.drift.curve for score in scores if isinstance(score.drift, DriftScores)]
    return [tuple(point) for point in np.mean(curves, axis=0).tolist()] if curves else []


def seam(frames_NHW3: Frames) -> float:
    """Mean change of pixels where a segment begins, over that where any other latent frame begins.

    Both are steps between two blocks of the codec, so that 1 is a seam that nobody can find.
    """
    frames = frames_NHW3.astype(np.float32)
    changes_K = np.abs(frames[1::FRAMES_PER_LATENT] - frames[:-1:FRAMES_PER_LATENT]).mean(axis=(1, 2, 3))
    begins_segment = np.arange(len(changes_K)) % LATENTS_PER_SEGMENT == 0
    begins_segment[0] = False  # the step from the start frame, which was given
    return float(changes_K[begins_segment].mean() / changes_K[1:][~begins_segment[1:]].mean())
