"""Direct Forcing (paper, 3.2, stage 2): the past is what the model itself would have made of it, in one step."""

import torch

from training.config import TimesConfig
from training.flow_matching import velocity_to_data
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.objectives.base import Objective, SegmentTask, noised_at, other_key, velocity_at
from training.objectives.own_past import conclude, predict
from training.types import StepOutput


def direct_forcing(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
    """The past is x~ = x_t + (1 - t) v of the loss's own forward pass, at its own t: no pass more (paper, eq. 7)."""
    prediction = predict(model, task)
    sample = prediction.sample
    approximation = velocity_to_data(sample.x_t, prediction.velocity.detach(), sample.t)
    return conclude(model, task, prediction, approximation)


def direct_forcing_at(times: TimesConfig) -> Objective:
    """Direct Forcing whose past has times and noise of its own, for one forward pass without gradient more.

    Args:
        times: How the t of equation 7 is drawn.
    """

    def objective(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
        prediction = predict(model, task)
        sample = noised_at(task, other_key(task.key, "condition"), times)
        with torch.no_grad():
            velocity = velocity_at(model, sample, prediction.context, task)
        return conclude(model, task, prediction, velocity_to_data(sample.x_t, velocity, sample.t))

    return objective
