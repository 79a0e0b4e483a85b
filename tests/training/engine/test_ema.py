import torch

from tests.training.engine import rank_worker
from training.engine.ema import Ema
from training.engine.fragments import EMA
from training.engine.plain import PlainEngine
from training.objectives.base import ObjectiveModule


def engine() -> tuple[PlainEngine, ObjectiveModule]:
    module = rank_worker.module("even")
    return PlainEngine(module, rank_worker.optimizer()), module


def move(plain: PlainEngine, by: float) -> None:
    for fragment in plain.fragments:
        fragment.weight.add_(by)


def test_an_average_of_constant_steps_lags_behind_by_the_textbook_s_formula() -> None:
    plain, _ = engine()
    ema = Ema(plain, decay=0.5)
    start = plain.fragments[0].weight.clone()
    lag = 0.0
    for step in range(1, 30):
        move(plain, 1.0)
        ema.update(step)
        lag = min(0.5, (1 + step) / (10 + step)) * (lag + 1)
    expected = start + 29 - lag
    torch.testing.assert_close(plain.fragments[0].tensors[EMA], expected)
    assert abs(lag - 1.0) < 1e-3  # d / (1 - d) for d = 0.5


def test_inside_the_swap_the_module_is_the_average_and_afterwards_what_it_was() -> None:
    plain, module = engine()
    ema = Ema(plain, decay=0.5)
    before = module.model.proj_out.weight.clone()
    move(plain, 1.0)
    with ema.swapped():
        assert torch.equal(module.model.proj_out.weight, before)
    assert torch.equal(module.model.proj_out.weight, before + 1.0)
    kept = {fragment.name: fragment.tensors[EMA] for fragment in plain.fragments}
    assert torch.equal(kept["model.proj_out.weight"].view_as(before), before)


def test_only_trained_weights_have_an_average() -> None:
    plain, module = engine()
    Ema(plain, decay=0.5)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert {fragment.name for fragment in plain.fragments if EMA in fragment.tensors} == trained
