import logging

import pytest
import torch

from tests.training.engine import rank_worker
from training.config import SampleConfig
from training.engine.plain import PlainEngine
from training.objectives.base import ObjectiveModule
from training.one_step_gap import TIMES, one_step_gap, warn_if_far
from training.types import GlobalStep, SegmentBatch


def held_out(i: int) -> SegmentBatch:
    step = GlobalStep(step=0, clips=(rank_worker.clip(i, 2),), num_segments=(2,), segment_index=None, use_memory=True)
    return rank_worker.batches(step, 0, 1)[0]


def figures(module: ObjectiveModule) -> dict[str, float]:
    engine = PlainEngine(module, rank_worker.optimizer())
    return one_step_gap(engine, rank_worker.settings("direct"), SampleConfig(num_inference_steps=4), 2, held_out)


def test_a_model_that_knows_nothing_is_as_far_as_its_noise() -> None:
    # Its velocity is 0: samples are the noise, x~ is x_t = t x + (1 - t) eps, so that |x~ - x^| = t |x - eps|.
    module = rank_worker.module("direct")
    with torch.no_grad():
        module.model.proj_out.weight.zero_()
        module.model.proj_out.bias.zero_()
    measured = figures(module)
    assert measured["sample_error"] == pytest.approx(1.0, rel=1e-5)
    for t in TIMES:
        assert measured[f"one_step_gap_t{t}"] == pytest.approx(t, rel=1e-4)


@pytest.mark.parametrize(
    ("gap", "error", "words"),
    [
        (0.6, 0.6, []),
        (float("nan"), 0.6, ["one_step_gap nan", "not known"]),
        (1.2, 0.6, ["1.20 times", "1.20 at t = 0.1"]),
        (0.6, 0.99, ["0.99 times", "train the teacher"]),
    ],
)
def test_what_direct_forcing_cannot_rely_on_is_said(
    gap: float, error: float, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    by_time = {f"one_step_gap_t{t}": gap for t in TIMES}
    with caplog.at_level(logging.WARNING):
        warn_if_far({**by_time, "one_step_gap": gap, "sample_error": error})
    assert len(caplog.records) == bool(words)
    assert all(word in caplog.text for word in words)
