import pytest
from torch import nn

from training.config import OptimizerConfig
from training.engine.base import freeze_all_but_head, learning_rate_at


def test_the_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4, decay="cosine")
    assert [learning_rate_at(k, 12, config) for k in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert learning_rate_at(8, 12, config) == pytest.approx(0.5)
    assert 0 < learning_rate_at(11, 12, config) < 0.05


def test_a_constant_learning_rate_is_the_paper_s() -> None:
    config = OptimizerConfig(learning_rate=1e-5)
    assert {learning_rate_at(k, 100, config) for k in range(100)} == {1e-5}


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze_all_but_head(nn.Sequential(nn.Linear(2, 2)))
