import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.engine import rank_worker
from training.engine.plain import PlainEngine
from training.engine.zero import refuse_unsafe
from training.loop import StageSettings, train_step
from training.objectives.base import ObjectiveModule, SegmentTask
from training.types import GlobalStep, RandomKey

DEADLINE_S = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two_ranks(out: Path, cases: list[tuple[str, int, str]]) -> Mapping[str, Mapping[str, object]]:
    """Runs the cases on two gloo ranks; both are killed if they don't end in time."""
    port, script = free_port(), Path(rank_worker.__file__)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(port), str(out), json.dumps(cases)],
            env={"PYTHONPATH": str(Path.cwd()), "PATH": "", "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=(out / f"rank{rank}.log").open("w"),
        )
        for rank in range(rank_worker.NUM_RANKS)
    ]
    try:
        codes = [process.wait(DEADLINE_S) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert codes == [0, 0], (out / "rank0.log").read_text()[-3000:]
    return json.loads((out / "results-0.json").read_text())


def reference(stage: str) -> tuple[list[float], dict[str, Tensor]]:
    """The same steps on one process: the mean of the loss over all segments of the global batch."""
    module = rank_worker.module(stage)
    engine = PlainEngine(module, rank_worker.optimizer())
    losses, gradients = [], {}
    for step in rank_worker.PLANS[stage]():
        losses.append(train_step(engine, rank_worker.settings(stage), step, rank_worker.batches(step, 0, 1)))
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        gradients |= {f"{step.step} {name}": p.grad.clone() for name, p in trained if p.grad is not None}
        engine.step(1e-3)
    return losses, gradients


def largest_error(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor], step: int) -> float:
    """The largest difference of any gradient, as a share of the largest gradient."""
    names = [name for name in expected if name.startswith(f"{step} ")]
    largest = max(float(expected[name].abs().max()) for name in names)
    return max(float((ours[name] - expected[name]).abs().max()) for name in names) / largest


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one_process_whatever_their_segments(tmp_path: Path) -> None:
    exact = [("direct", stage) for stage in (0, 1, 2)] + [("teacher", stage) for stage in (0, 1, 2, 3)] + [("even", 3)]
    results = run_two_ranks(tmp_path, [(*case, "fp32") for case in [*exact, ("direct", 3)]])
    for stage, zero_stage in exact:
        losses, gradients = reference(stage)
        ours = load_file(tmp_path / f"{stage}-{zero_stage}-fp32.safetensors")
        for step in range(len(losses)):
            assert largest_error(ours, gradients, step) < 1e-6
        assert results[f"{stage}-{zero_stage}-fp32"]["losses"] == pytest.approx(losses, rel=1e-5)
    assert "ZeRO-3" in str(results["direct-3-fp32"]["refused"])


@pytest.mark.slow
def test_two_ranks_in_bf16_lose_no_segment(tmp_path: Path) -> None:
    # A lost micro-batch costs 0.3 of the largest gradient; rounding to bf16 costs less than 0.01 here.
    cases = [("direct", 1), ("direct", 2), ("teacher", 2), ("teacher", 3)]
    run_two_ranks(tmp_path, [(*case, "bf16") for case in cases])
    for stage, zero_stage in cases:
        _, gradients = reference(stage)
        ours = load_file(tmp_path / f"{stage}-{zero_stage}-bf16.safetensors")
        assert max(largest_error(ours, gradients, step) for step in range(2)) < 0.02


@pytest.mark.slow
def test_a_checkpoint_between_two_steps_changes_no_bit(tmp_path: Path) -> None:
    # frozen weights are not in the checkpoint: they are those that the engine began with
    cases = [(stage, zero_stage) for stage in ("teacher", "even") for zero_stage in (0, 1, 2, 3)]
    results = run_two_ranks(tmp_path, [(*case, "resume") for case in cases])
    assert {name: result["difference"] for name, result in results.items()} == {
        f"{stage}-{zero_stage}-resume": 0.0 for stage, zero_stage in cases
    }


def test_zero_3_with_unequal_numbers_of_segments_is_refused_before_it_hangs() -> None:
    with pytest.raises(ValueError, match=r"\[3, 5\]"):
        refuse_unsafe(3, (3, 5))
    refuse_unsafe(2, (3, 5))
    refuse_unsafe(3, (4, 4))


def test_a_rank_without_work_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        refuse_unsafe(1, (2, 0))


def test_the_reference_is_the_mean_over_all_segments_of_the_global_batch() -> None:
    # One clip of 3 segments and one of 5: every segment counts an eighth, and its gradient too.
    module, settings = rank_worker.module("direct"), rank_worker.settings("direct")
    engine = PlainEngine(module, rank_worker.optimizer())
    (step, *_) = rank_worker.direct_plan()
    loss = train_step(engine, settings, step, rank_worker.batches(step, 0, 1))
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]

    by_hand = torch.stack(segment_losses(module, settings, step)).mean()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(by_hand, trained)

    assert loss == pytest.approx(by_hand.item())
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def segment_losses(module: ObjectiveModule, settings: StageSettings, step: GlobalStep) -> list[Tensor]:
    """The loss of each of the eight segments, clip by clip, without an engine."""
    losses = []
    for batch in rank_worker.batches(step, 0, 1):
        context = None
        for segment in range(batch.num_segments):
            task = SegmentTask(
                batch=batch, segment_index=segment, context=context, use_memory=True, use_history=True,
                key=RandomKey(seed=settings.seed, stage=settings.name, step=step.step), flow=settings.flow,
                rope_mode=settings.rope_mode,
            )  # fmt: skip
            output = module(settings.objective, task)[1]
            losses.append(output.loss)
            context = output.next_context
    return losses
