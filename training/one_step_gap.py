"""How far the one-step past of Direct Forcing is from the model's own samples, before a stage relies on it.

The paper calls Direct Forcing "highly dependent on the pre-trained model": equation 7 stands for equation 6 only where
the model's paths are nearly straight and its samples worth learning from. Both are measured on held-out clips, after
their true past. With x the data, eps the noise, x^ the sample from eps (eq. 6) and x~ the approximation at t (eq. 7),
and |.| the root mean square over all clips:

    one_step_gap_t*   |x~ - x^| / |x - x^|     below 1, x~ is nearer to what the model would make than the truth is
    one_step_gap      the same over all t
    sample_error      |x - x^| / |x - eps|     below 1, denoising has come nearer to the truth than the noise was
"""

import logging
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from training.config import SampleConfig
from training.engine.base import Engine
from training.flow_matching import flow_sample, velocity_to_data
from training.loop import StageSettings, validation_task
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.objectives.base import Objective, SegmentTask, noised_segment, velocity_at
from training.objectives.teacher_forcing import true_context
from training.sampling import sample_segment, schedule
from training.types import SegmentBatch, StepOutput

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where x~ is made."""

LARGE_GAP = 1.0
"""From here on the true past is nearer to inference than the one-step past: Direct Forcing has nothing to give."""

LARGE_ERROR = 0.95
"""From here on samples are as far from the data as noise is: the model has learnt too little to imitate itself."""

logger = logging.getLogger(__name__)


def one_step_gap(
    engine: Engine,
    settings: StageSettings,
    sampling: SampleConfig,
    num_clips: int,
    load: Callable[[int], SegmentBatch],
) -> dict[str, float]:
    """The figures above, over the last scored segment of each held-out clip; all ranks must call it.

    Args:
        engine: Holds the model.
        settings: Of the stage.
        sampling: How x^ is made.
        num_clips: Held-out clips, at least one.
        load: Loads one of them.
    """
    measure = squared_distances(sampling)
    share = slice(None) if engine.forwards_must_match else slice(engine.rank, None, engine.num_ranks)
    with torch.no_grad():
        rows = [_distances(engine, settings, measure, load(i)) for i in range(num_clips)[share]]
    sums = engine.sum_over_ranks([sum(column) for column in zip(*rows, strict=True)] if rows else [0.0] * len(_NAMES))
    return _figures(dict(zip(_NAMES, sums, strict=True)))


_NAMES = (*(f"gap_t{t}" for t in TIMES), "error", "noise")


def _distances(engine: Engine, settings: StageSettings, measure: Objective, batch: SegmentBatch) -> tuple[float, ...]:
    task = validation_task(settings, batch, batch.num_segments - 1, None)
    metrics = engine.forward(measure, task).metrics
    return tuple(metrics[name] for name in _NAMES)


def squared_distances(sampling: SampleConfig) -> Objective:
    """Mean squares of x~ - x^ at each time, of x - x^ and of x - eps as metrics; it has no loss to train on."""
    times = schedule(sampling.num_inference_steps, sampling.shift)

    def objective(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
        context, path = true_context(model, task.batch, task.segment_index, grad_steps=None), noised_segment(task)
        sample = sample_segment(
            model,
            context,
            task.batch.condition,
            noise=path.noise,
            times=times,
            guidance_scale=task.flow.guidance_scale,
            rope_mode=task.rope_mode,
        )

        def gap(t: float) -> float:
            point = flow_sample(path.data, path.noise, torch.full_like(path.t, t))
            velocity = velocity_at(model, point, context, task)
            return _mean_square(velocity_to_data(point.x_t, velocity, point.t) - sample)

        metrics = {f"gap_t{t}": gap(t) for t in TIMES}
        metrics |= {"error": _mean_square(path.data - sample), "noise": _mean_square(path.data - path.noise)}
        return StepOutput(loss=path.t.new_zeros(()), next_context=None, clip_losses=None, metrics=metrics)

    return objective


def _mean_square(x: Tensor) -> float:
    return float(x.float().square().mean())


def _figures(sums: Mapping[str, float]) -> dict[str, float]:
    gaps = {t: sums[f"gap_t{t}"] for t in TIMES}
    return {
        **{f"one_step_gap_t{t}": math.sqrt(gap / sums["error"]) for t, gap in gaps.items()},
        "one_step_gap": math.sqrt(sum(gaps.values()) / len(gaps) / sums["error"]),
        "sample_error": math.sqrt(sums["error"] / sums["noise"]),
    }


def warn_if_far(figures: Mapping[str, float]) -> None:
    """Say so where Direct Forcing has little to build on, or where that cannot be known."""
    if not math.isfinite(figures["sample_error"] + figures["one_step_gap"]):
        logger.warning(
            "sample_error of the held-out clips is %.2f and one_step_gap %.2f: whether Direct Forcing has something to build on"
            " is not known; look at the clips whose val_loss is not finite",
            figures["sample_error"], figures["one_step_gap"],
        )  # fmt: skip
    if figures["sample_error"] >= LARGE_ERROR:
        logger.warning(
            "the model's own samples are %.2f times as far from held-out clips as noise is (below %g is fit to go on from):"
            " train the teacher longer before stage 2",
            figures["sample_error"], LARGE_ERROR,
        )  # fmt: skip
    if figures["one_step_gap"] >= LARGE_GAP:
        by_time = ", ".join(f"{figures[f'one_step_gap_t{t}']:.2f} at t = {t}" for t in TIMES)
        logger.warning(
            "one-step approximations are %.2f times as far from the model's samples as the ground truth is (%s): Direct"
            " Forcing would be no nearer to inference than teacher forcing; train the teacher longer, or move"
            " train.direct.condition_times towards the times where it is near",
            figures["one_step_gap"], by_time,
        )  # fmt: skip
