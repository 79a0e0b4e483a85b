"""Student forcing (paper, 4.3, the ablation of Direct Forcing): the past is sampled from noise, as at inference."""

from training.config import SampleConfig
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.objectives.base import Objective, SegmentTask
from training.objectives.own_past import conclude, predict
from training.sampling import sample_segment, schedule
from training.types import StepOutput


def student_forcing(sampling: SampleConfig) -> Objective:
    """The past is the model's own sample, k steps from noise without gradient (paper, eq. 6): k forward passes more.

    Args:
        sampling: k, and where the steps lie.
    """
    times = schedule(sampling.num_inference_steps, sampling.shift)

    def objective(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
        prediction = predict(model, task)
        sample = sample_segment(
            model,
            prediction.context,
            task.batch.condition,
            noise=prediction.sample.noise,
            times=times,
            guidance_scale=task.flow.guidance_scale,
            rope_mode=task.rope_mode,
        )
        return conclude(model, task, prediction, sample)

    return objective
