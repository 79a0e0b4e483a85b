import pytest
from torch import nn

from training.config import OptimizerConfig
from training.engine.base import LearningRates, freeze_all_but_head, learning_rate_at, learning_rates_at


def test_the_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4, decay="cosine")
    assert [learning_rate_at(k, 12, config) for k in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert learning_rate_at(8, 12, config) == pytest.approx(0.5)
    assert 0 < learning_rate_at(11, 12, config) < 0.05


def test_a_constant_learning_rate_is_the_paper_s() -> None:
    config = OptimizerConfig(learning_rate=1e-5)
    assert {learning_rate_at(k, 100, config) for k in range(100)} == {1e-5}


def test_the_backbone_waits_for_the_memory_and_then_follows_its_own_schedule() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2)
    rates = [learning_rates_at(step, 8, config, memory_warmup_steps=3) for step in range(6)]
    assert [rate.memory for rate in rates] == [0.5, 1, 1, 1, 1, 1]
    assert [rate.backbone for rate in rates] == [0, 0, 0, 0.5, 1, 1]


def test_the_memory_s_rate_is_logged_where_it_differs() -> None:
    assert LearningRates(backbone=0.0, memory=1.0).metrics() == {"learning_rate": 0.0, "memory_learning_rate": 1.0}
    assert LearningRates(backbone=1.0, memory=1.0).metrics() == {"learning_rate": 1.0}


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze_all_but_head(nn.Sequential(nn.Linear(2, 2)))
