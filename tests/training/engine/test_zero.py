"""Two ranks of DeepSpeed against one process of plain torch, for every ZeRO stage."""

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.engine import rank_worker
from training.engine.ema import Ema
from training.engine.fragments import EMA, WEIGHT, StoredFragments
from training.engine.plain import PlainEngine
from training.engine.zero import refuse_unsafe
from training.loop import StageSettings, train_step
from training.loss_table import LossTable
from training.nonfinite import NonFiniteError
from training.objectives.base import ObjectiveModule, SegmentTask
from training.types import GlobalStep, RandomKey

DEADLINE_S = 300

Case = tuple[str, str, int, Mapping[str, object]]
"""Kind, plan, ZeRO stage, engine settings."""

ZERO_STAGES = (0, 1, 2, 3)
EXACT = [
    *(("teacher", stage) for stage in ZERO_STAGES),
    *(("even", stage) for stage in ZERO_STAGES),
    *((plan, stage) for plan in ("direct", "mixed", "uneven one stage") for stage in (0, 1, 2)),
    ("one stage", 3),
]
"""Plans and ZeRO stages whose gradient is that of one process."""

REFUSED = [("direct", 3), ("mixed", 3)]
OFFLOADED = [(plan, stage) for plan in ("teacher", "even") for stage in (1, 2, 3)]
IN_BF16 = [("direct", 1), ("direct", 2), ("teacher", 1), ("teacher", 2), ("teacher", 3)]
BOTH_STAGES = [(plan, stage) for plan in ("teacher", "even") for stage in ZERO_STAGES]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ranks(out: Path, cases: Mapping[str, Case], num_ranks: int) -> list[subprocess.Popen[bytes]]:
    port, script = free_port(), Path(rank_worker.__file__)
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(num_ranks), str(port), str(out), json.dumps(cases)],
            env={"PYTHONPATH": str(Path.cwd()), "PATH": "", "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=(out / f"rank{rank}.log").open("w"),
        )
        for rank in range(num_ranks)
    ]


def run_ranks(out: Path, cases: Mapping[str, Case], num_ranks: int = 2) -> Mapping[str, Mapping[str, object]]:
    """Runs the cases on gloo ranks, one after another; all are killed if they don't end in time."""
    ranks = start_ranks(out, cases, num_ranks)
    try:
        codes = [process.wait(DEADLINE_S) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert codes == [0] * num_ranks, (out / "rank0.log").read_text()[-3000:]
    return json.loads((out / "results-0.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def results(out: Path) -> Mapping[str, Mapping[str, object]]:
    """All that two ranks are taken through; importing DeepSpeed takes longer than most of it."""
    offloaded = {"offload_optimizer": True}
    return run_ranks(
        out,
        {
            **{f"gradients {plan} {z}": ("gradients", plan, z, {}) for plan, z in [*EXACT, *REFUSED]},
            **{f"offloaded {plan} {z}": ("gradients", plan, z, offloaded) for plan, z in OFFLOADED},
            **{f"bf16 {plan} {z}": ("gradients", plan, z, {"dtype": "bf16"}) for plan, z in IN_BF16},
            **{f"segment {z}": ("segment", "one stage", z, {}) for z in ZERO_STAGES},
            **{f"average {plan} {z}": ("average", plan, z, {}) for plan, z in BOTH_STAGES},
            **{f"spoiled {plan} {z}": ("spoiled", plan, z, {}) for plan, z in BOTH_STAGES},
            **{f"broken {plan} {z}": ("broken", plan, z, {}) for plan, z in BOTH_STAGES},
            **{f"video {z}": ("video", "teacher", z, {}) for z in ZERO_STAGES},
            **{f"poisoned {z}": ("poisoned", "teacher", z, {}) for z in ZERO_STAGES},
            **{f"warmup {z}": ("warmup", "teacher", z, {}) for z in ZERO_STAGES},
            **{f"resume {plan} {z}": ("resume", plan, z, {}) for plan, z in BOTH_STAGES},
        },
    )


def plain(plan: str) -> tuple[PlainEngine, ObjectiveModule]:
    module = rank_worker.module(plan)
    return PlainEngine(module, rank_worker.optimizer()), module


def accumulate(engine: PlainEngine, plan: str, step: GlobalStep) -> float:
    """The mean of the loss over all segments of the global batch, on one process."""
    return train_step(engine, rank_worker.settings(plan), step, rank_worker.batches(step, 0, 1), LossTable(5))


def gradients_of(module: ObjectiveModule) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.requires_grad and p.grad is not None}


@cache
def alone(plan: str) -> tuple[tuple[float, Mapping[str, Tensor]], ...]:
    """Loss and gradients of each step of a plan on one process, whose optimizer steps in between."""
    engine, module = plain(plan)
    taken = []
    for step in rank_worker.PLANS[plan]():
        taken.append((accumulate(engine, plan, step), gradients_of(module)))
        engine.step(rank_worker.RATES)
    return tuple(taken)


def largest_error(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of any gradient, as a share of the largest gradient."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((ours[name] - gradient).abs().max()) for name, gradient in expected.items()) / largest


def worst_errors(out: Path, name: str, plan: str) -> list[float]:
    """Of each step, against one process that takes the same steps."""
    return [
        largest_error(load_file(out / name / f"{k}.safetensors"), expected)
        for k, (_, expected) in enumerate(alone(plan))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "zero_stage"), EXACT)
def test_two_ranks_have_the_gradient_of_one_process_whatever_their_segments(
    out: Path, results: Mapping[str, Mapping[str, object]], plan: str, zero_stage: int
) -> None:
    name = f"gradients {plan} {zero_stage}"
    assert max(worst_errors(out, name, plan)) < 1e-6
    assert results[name]["losses"] == pytest.approx([loss for loss, _ in alone(plan)], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_optimizer_steps_after_each_segment_are_those_of_one_process(
    results: Mapping[str, Mapping[str, Any]], zero_stage: int
) -> None:
    ours, expected = results[f"segment {zero_stage}"], rank_worker.by_segment(plain("one stage")[0], "one stage")
    assert ours["num_updates"] == expected["num_updates"] == 3 + 1  # the teacher step is one segment
    for losses, theirs in zip(ours["losses"], expected["losses"], strict=True):
        assert losses == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["teacher", "even"])
def test_zero_3_holds_no_parameter_whole_between_its_steps(
    results: Mapping[str, Mapping[str, object]], plan: str
) -> None:
    assert results[f"gradients {plan} 3"]["whole"] == 0
    assert results[f"gradients {plan} 2"]["whole"] != 0


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_ranks_that_build_their_engines_wait_for_each_other_under_watch(
    results: Mapping[str, Mapping[str, object]], zero_stage: int
) -> None:
    assert results[f"gradients teacher {zero_stage}"]["met_at_start"] == 1


@pytest.mark.slow
def test_the_watchdog_hears_of_what_a_rank_reads(results: Mapping[str, Mapping[str, object]]) -> None:
    assert results["gradients teacher 1"]["read"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "zero_stage"), REFUSED)
def test_zero_3_with_unequal_numbers_of_segments_is_refused_on_every_rank(
    results: Mapping[str, Mapping[str, object]], plan: str, zero_stage: int
) -> None:
    assert "hangs where ranks run unequal numbers" in str(results[f"gradients {plan} {zero_stage}"]["refused"])


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "zero_stage"), OFFLOADED)
def test_optimizer_states_in_cpu_memory_change_nothing(
    out: Path, results: Mapping[str, Mapping[str, object]], plan: str, zero_stage: int
) -> None:
    name = f"offloaded {plan} {zero_stage}"
    assert "refused" not in results[name]
    assert max(worst_errors(out, name, plan)) < 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(("plan", "zero_stage"), IN_BF16)
def test_two_ranks_in_bf16_lose_no_segment(out: Path, plan: str, zero_stage: int) -> None:
    # A lost micro-batch costs 0.3 of the largest gradient; rounding to bf16 costs less than 0.01 here at equal weights.
    # After a step they are not: where a gradient is almost zero, its rounding decides the sign of AdamW's first step.
    first, second, *_ = worst_errors(out, f"bf16 {plan} {zero_stage}", plan)
    assert first < 0.02
    assert second < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_the_memory_learns_alone_where_the_backbone_s_rate_is_zero(
    results: Mapping[str, Mapping[str, float]], zero_stage: int
) -> None:
    changes = results[f"warmup {zero_stage}"]
    assert changes["backbone"] == 0.0
    assert changes["memory"] == pytest.approx(1e-3, rel=0.2)  # AdamW's first step is its learning rate


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "zero_stage"), BOTH_STAGES)
def test_the_average_of_partitioned_weights_is_that_of_whole_ones(
    out: Path, results: Mapping[str, Mapping[str, object]], plan: str, zero_stage: int
) -> None:
    engine, _ = plain(plan)
    ema = Ema(engine, decay=0.5)
    first, second, third, *_ = rank_worker.PLANS[plan]()
    for step in (first, second):
        accumulate(engine, plan, step)
        engine.step(rank_worker.RATES)
        ema.update(step.step + 1)
    with ema.swapped():
        averaged = accumulate(engine, plan, third)
    live = accumulate(engine, plan, third)
    ours = results[f"average {plan} {zero_stage}"]
    assert (ours["averaged"], ours["live"]) == pytest.approx((averaged, live), rel=1e-6)
    assert abs(averaged - live) > 1e-4 * live
    stored = StoredFragments(out / f"average {plan} {zero_stage}", num_ranks=2)
    for fragment in engine.fragments:
        torch.testing.assert_close(whole(stored, EMA, fragment.name, fragment.weight), fragment.tensors[EMA])


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_a_video_between_two_steps_is_that_of_one_process_and_leaves_no_trace(
    out: Path, results: Mapping[str, Mapping[str, object]], zero_stage: int
) -> None:
    engine, module = plain("teacher")
    first, second, *_ = rank_worker.PLANS["teacher"]()
    accumulate(engine, "teacher", first)
    engine.step(rank_worker.RATES)
    expected = rank_worker.sampled_start(engine, "teacher")
    accumulate(engine, "teacher", second)
    name = f"video {zero_stage}"
    torch.testing.assert_close(torch.tensor(results[name]["segments"]), expected.flatten(), rtol=1e-5, atol=1e-5)
    assert largest_error(load_file(out / name / "second.safetensors"), gradients_of(module)) < 1e-6


def whole(stored: StoredFragments, kind: str, name: str, like: Tensor) -> Tensor:
    tensor = torch.empty_like(like)
    stored.fill(tensor, kind=kind, name=name, start=0)
    return tensor


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "zero_stage"), BOTH_STAGES)
def test_a_step_that_is_left_out_leaves_no_trace(
    out: Path, results: Mapping[str, Mapping[str, object]], plan: str, zero_stage: int
) -> None:
    engine, module = plain(plan)
    first, _, third, *_ = rank_worker.PLANS[plan]()
    accumulate(engine, plan, first)
    engine.step(rank_worker.RATES)
    accumulate(engine, plan, third)
    ours = load_file(out / f"spoiled {plan} {zero_stage}" / "third.safetensors")
    assert largest_error(ours, gradients_of(module)) < 1e-6
    message = str(results[f"spoiled {plan} {zero_stage}"]["message"])
    assert "step 2 is nan" in message
    assert "clip1" in message


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "zero_stage"), BOTH_STAGES)
def test_two_ranks_have_the_gradient_of_the_clips_that_can_be_read(
    out: Path, results: Mapping[str, Mapping[str, object]], plan: str, zero_stage: int
) -> None:
    engine, module = plain(plan)
    step, *_ = rank_worker.PLANS[plan]()
    half = len(step.clips) // 2
    healthy = replace(step, clips=step.clips[:half], num_segments=step.num_segments[:half])
    loss = accumulate(engine, plan, healthy)
    name = f"broken {plan} {zero_stage}"
    assert largest_error(load_file(out / name / "healthy.safetensors"), gradients_of(module)) < 1e-6
    assert results[name]["loss"] == pytest.approx(loss, rel=1e-6)
    assert results[name]["broken"] == list(range(half, 2 * half))


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_a_gradient_that_is_not_finite_reaches_no_weight(
    results: Mapping[str, Mapping[str, object]], zero_stage: int
) -> None:
    engine, _ = plain("teacher")
    _, second, *_ = rank_worker.PLANS["teacher"]()
    ours = results[f"poisoned {zero_stage}"]
    assert ours["applied"] is False
    assert ours["loss"] == pytest.approx(accumulate(engine, "teacher", second), rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(("plan", "zero_stage"), BOTH_STAGES)
def test_a_checkpoint_between_two_steps_changes_no_bit(out: Path, plan: str, zero_stage: int) -> None:
    # frozen weights are not in the checkpoint: they are those that the engine began with
    folder = out / f"resume {plan} {zero_stage}"
    assert everything(folder / "resumed", num_ranks=2) == everything(folder / "straight", num_ranks=2)


@pytest.mark.slow
def test_any_number_of_ranks_goes_on_from_what_any_number_left(
    out: Path, results: Mapping[str, Mapping[str, object]]
) -> None:
    names = [f"resume {plan} {zero_stage}" for plan, zero_stage in BOTH_STAGES]
    cases = {name: ("go_on", *name.split()[1:]) for name in names}
    alone = run_ranks(out, {name: (k, plan, int(z), {}) for name, (k, plan, z) in cases.items()}, num_ranks=1)
    behind = {f"{name}/next-by-1": (k, plan, int(z), {}) for name, (k, plan, z) in cases.items()}
    together = run_ranks(out, behind)
    for name in names:
        left = out / name
        assert everything(left / "loaded-by-1", num_ranks=1) == everything(left, num_ranks=2)
        between = left / "next-by-1"
        assert everything(between / "loaded-by-2", num_ranks=2) == everything(between, num_ranks=1)
        _, *straight = results[name]["losses"]  # pyright: ignore[reportGeneralTypeIssues]
        losses = [alone[name]["loss"], together[f"{name}/next-by-1"]["loss"]]
        assert losses == pytest.approx(straight, rel=1e-5)


def everything(folder: Path, num_ranks: int) -> dict[tuple[str, str], bytes]:
    """All trained weights and moments in a checkpoint, whole, by kind and name."""
    stored = StoredFragments(folder, num_ranks=num_ranks)
    module = rank_worker.module("teacher")
    like = {name: module.get_parameter(name).detach().view(-1) for name in stored.parameters}
    return {
        (kind, name): whole(stored, kind, name, tensor).numpy().tobytes()
        for name, tensor in like.items()
        for kind in (WEIGHT, "exp_avg", "exp_avg_sq")
    }


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named_and_the_others_end(tmp_path: Path) -> None:
    waiting, sleeping = start_ranks(tmp_path, {"hang": ("hang", "teacher", 1, {})}, num_ranks=2)
    try:
        assert waiting.wait(120) == rank_worker.HANG_EXIT_CODE
    finally:
        for process in (waiting, sleeping):
            process.kill()
            process.wait()
    assert "rank 1 did not come to where rank 0 waits" in (tmp_path / "hang" / "hang-0").read_text()


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
    engine, module = plain("direct")
    (step, *_) = rank_worker.direct_plan()
    loss = accumulate(engine, "direct", step)
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]

    by_hand = torch.stack(segment_losses(module, rank_worker.settings("direct"), step)).mean()
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


def test_a_loss_that_is_not_finite_names_its_step_and_the_clips_whose_own_it_is() -> None:
    engine, module = plain("teacher")
    before = [parameter.clone() for parameter in module.parameters()]
    (step, *_) = rank_worker.teacher_plan()
    batches = [rank_worker.spoiled(batch) for batch in rank_worker.batches(step, 0, 2)]
    with pytest.raises(NonFiniteError, match=r"loss of step 1 is nan \(clips clip1\)"):
        train_step(engine, rank_worker.settings("teacher"), step, batches, LossTable(5))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, module.parameters(), strict=True))
