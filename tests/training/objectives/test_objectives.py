import pytest
import torch
from torch import Tensor

from tests.training.engine import rank_worker
from training.config import FlowConfig, SampleConfig, TeacherConfig, TimesConfig
from training.engine.base import freeze_all_but_head
from training.flow_matching import flow_sample, velocity_to_data
from training.model.memory_pack import MemoryPackTransformer3DModel, context_memory, next_context
from training.objectives.base import Objective, SegmentTask, noised_segment, segment_of, velocity_at
from training.objectives.direct_forcing import direct_forcing, direct_forcing_at
from training.objectives.student_forcing import student_forcing
from training.objectives.teacher_forcing import noisy_past, teacher_forcing, teacher_forcing_with, true_context
from training.types import GlobalStep, RandomKey, SegmentBatch, SegmentContext

ALMOST_DATA = FlowConfig(logit_mean=-30.0, logit_std=0.001)
"""Times of nearly 1: the noised segment is the data, and so is its one-step approximation, whatever the model says."""


def batch(num_segments: int) -> SegmentBatch:
    clip = rank_worker.clip(0, num_segments)
    step = GlobalStep(step=0, clips=(clip,), num_segments=(num_segments,), segment_index=None, use_memory=True)
    return rank_worker.batches(step, 0, 1)[0]


def task(
    clips: SegmentBatch,
    n: int,
    context: SegmentContext | None = None,
    flow: FlowConfig | None = None,
    memory: bool = True,
) -> SegmentTask:
    return SegmentTask(
        batch=clips, segment_index=n, context=context, use_memory=memory, use_history=True,
        key=RandomKey(seed=0, stage="test", step=0), flow=flow or FlowConfig(), rope_mode="relative_start",
    )  # fmt: skip


def gradients(model: MemoryPackTransformer3DModel, loss: Tensor) -> dict[str, float]:
    model.zero_grad()
    loss.backward()
    return {name: float(p.grad.abs().max()) for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def model() -> MemoryPackTransformer3DModel:
    return rank_worker.module("teacher").model


def test_the_teacher_trains_what_the_memory_keeps_over_all_segments(model: MemoryPackTransformer3DModel) -> None:
    gradient = gradients(model, teacher_forcing(model, task(batch(4), 3)).loss)
    # psi_0 is three updates away from the loss, and still learns
    assert gradient["semantic_pack.text_in.weight"] > 0
    assert gradient["semantic_pack.memorize.patchify.weight"] > 0


@pytest.mark.parametrize("grad_steps", [1, 2, 4, None])
def test_truncation_changes_no_value_and_stops_the_gradient_at_older_segments(
    grad_steps: int | None, model: MemoryPackTransformer3DModel
) -> None:
    """Segment 0 of four has left the history of 19 latents when segment 4 is made: only psi still leads to it."""
    clips = batch(5)
    clips.latents_BCTHW.requires_grad_()
    context = true_context(model, clips, 4, grad_steps=grad_steps)
    psi = context_memory(model, context)
    assert psi is not None
    (gradient,) = torch.autograd.grad(psi.tokens_BND.square().sum(), clips.latents_BCTHW)
    reached = [bool(segment_of(gradient, n).any()) for n in range(4)]
    assert reached == [grad_steps is None or n >= 4 - grad_steps for n in range(4)]
    whole = true_context(model, clips, 4, grad_steps=None)
    assert whole.memory is not None
    assert context.memory is not None
    assert torch.equal(context.memory.tokens_BND, whole.memory.tokens_BND)
    assert torch.equal(context.history_BCTHW, whole.history_BCTHW)


def test_the_setting_reaches_the_loss(model: MemoryPackTransformer3DModel) -> None:
    whole, last = (
        teacher_forcing_with(TeacherConfig(memory_grad_steps=steps))(model, task(batch(5), 4)).loss
        for steps in (None, 1)
    )
    assert torch.equal(whole, last)
    assert gradients(model, whole)["semantic_pack.text_in.weight"] > 0
    assert gradients(model, last).get("semantic_pack.text_in.weight", 0) == 0


def test_the_first_segment_and_memory_dropout_leave_the_memory_alone(model: MemoryPackTransformer3DModel) -> None:
    for first in (task(batch(4), 0), task(batch(4), 3, memory=False)):
        touched = gradients(model, teacher_forcing(model, first).loss)
        assert not any(value for name, value in touched.items() if name.startswith("semantic_pack."))


def test_the_teacher_sees_no_future(model: MemoryPackTransformer3DModel) -> None:
    clips = batch(4)
    loss = teacher_forcing(model, task(clips, 1)).loss
    segment_of(clips.latents_BCTHW, 2).zero_()
    torch.testing.assert_close(teacher_forcing(model, task(clips, 1)).loss, loss, rtol=0, atol=0)


def test_direct_forcing_goes_on_from_its_own_one_step_approximation(model: MemoryPackTransformer3DModel) -> None:
    first = task(batch(2), 0)
    context = true_context(model, first.batch, 0, grad_steps=None)
    sample = noised_segment(first)
    approximation = velocity_to_data(sample.x_t, velocity_at(model, sample, context, first), sample.t)
    following = direct_forcing(model, first).next_context
    assert following is not None
    torch.testing.assert_close(following.history_BCTHW[:, :, -9:], approximation.detach())


def test_psi_advances_by_what_the_model_made(model: MemoryPackTransformer3DModel) -> None:
    for objective in (direct_forcing, student_forcing(SampleConfig(num_inference_steps=2))):
        first = task(batch(2), 0)
        following = objective(model, first).next_context
        assert following is not None
        made = following.history_BCTHW[:, :, -9:]
        expected = next_context(
            model, true_context(model, first.batch, 0, grad_steps=None), first.batch.condition, made
        )
        assert expected.memory is not None
        assert following.memory is not None
        torch.testing.assert_close(following.memory.tokens_BND, expected.memory.tokens_BND, rtol=0, atol=0)


def test_a_past_of_its_own_times_leaves_the_loss_alone(model: MemoryPackTransformer3DModel) -> None:
    first = task(batch(2), 0)
    near_the_data = direct_forcing_at(TimesConfig(logit_mean=-30.0, logit_std=0.001))(model, first)
    torch.testing.assert_close(near_the_data.loss, direct_forcing(model, first).loss, rtol=0, atol=0)
    assert near_the_data.next_context is not None
    made = near_the_data.next_context.history_BCTHW[:, :, -9:]
    torch.testing.assert_close(made, segment_of(first.batch.latents_BCTHW, 0), rtol=1e-4, atol=1e-5)


def test_student_forcing_in_one_step_is_equation_7_at_pure_noise(model: MemoryPackTransformer3DModel) -> None:
    first = task(batch(2), 0)
    path, t = noised_segment(first), torch.zeros(1)
    noise = flow_sample(path.data, path.noise, t)
    velocity = velocity_at(model, noise, true_context(model, first.batch, 0, grad_steps=None), first)
    following = student_forcing(SampleConfig(num_inference_steps=1))(model, first).next_context
    assert following is not None
    torch.testing.assert_close(
        following.history_BCTHW[:, :, -9:], velocity_to_data(noise.x_t, velocity, t), rtol=1e-4, atol=1e-5
    )


def test_student_forcing_trains_on_the_same_loss_and_not_through_its_sample(
    model: MemoryPackTransformer3DModel,
) -> None:
    first = task(batch(2), 0)
    student = student_forcing(SampleConfig(num_inference_steps=3))(model, first)
    assert student.next_context is not None
    assert not student.next_context.history_BCTHW.requires_grad
    assert gradients(model, student.loss) == gradients(model, direct_forcing(model, first).loss)


def test_direct_forcing_needs_one_forward_pass_and_student_forcing_k_more(model: MemoryPackTransformer3DModel) -> None:
    def forwards(objective: Objective) -> int:
        calls: list[int] = []
        hook = model.register_forward_hook(lambda *_: calls.append(1))
        objective(model, task(batch(1), 0))
        hook.remove()
        return len(calls)

    assert forwards(teacher_forcing) == forwards(direct_forcing) == 1
    assert forwards(direct_forcing_at(TimesConfig())) == 2
    assert forwards(student_forcing(SampleConfig(num_inference_steps=5))) == 6


def test_history_noise_blurs_the_past_and_nothing_else(model: MemoryPackTransformer3DModel) -> None:
    noisy, clean = teacher_forcing_with(TeacherConfig(history_noise=0.5)), teacher_forcing_with(TeacherConfig())
    clips = batch(3)
    for n, changes in ((0, False), (2, True)):
        losses = [objective(model, task(clips, n)).loss.item() for objective in (noisy, clean, teacher_forcing)]
        assert losses[1] == losses[2]
        assert (losses[0] != losses[1]) == changes


def test_the_noise_of_the_past_is_no_stronger_than_asked() -> None:
    clips = batch(3)
    seen = noisy_past(task(clips, 2), 0.3).latents_BCTHW
    # x_t = (1 - sigma) x + sigma eps: regress on x to find 1 - sigma
    kept = float((seen * clips.latents_BCTHW).mean() / clips.latents_BCTHW.square().mean())
    assert 0.65 < kept < 1.0
    torch.testing.assert_close(noisy_past(task(clips, 2), 0.0).latents_BCTHW, clips.latents_BCTHW)


def test_direct_forcing_near_the_data_is_teacher_forcing(model: MemoryPackTransformer3DModel) -> None:
    clips, context = batch(3), None
    for n in range(3):
        direct = direct_forcing(model, task(clips, n, context, ALMOST_DATA))
        teacher = teacher_forcing(model, task(clips, n, flow=ALMOST_DATA))
        torch.testing.assert_close(direct.loss, teacher.loss, rtol=1e-4, atol=1e-5)
        context = direct.next_context


def test_direct_forcing_carries_no_graph_and_no_growing_state(model: MemoryPackTransformer3DModel) -> None:
    clips, context, sizes = batch(4), None, []
    for n in range(4):
        context = direct_forcing(model, task(clips, n, context)).next_context
        assert context is not None
        assert context.memory is not None
        assert not context.history_BCTHW.requires_grad
        assert not context.memory.tokens_BND.requires_grad
        sizes.append(context.history_BCTHW.numel() + context.memory.tokens_BND.numel())
    assert len(set(sizes)) == 1


def test_segments_out_of_order_are_our_mistake(model: MemoryPackTransformer3DModel) -> None:
    context = direct_forcing(model, task(batch(3), 0)).next_context
    with pytest.raises(AssertionError, match="chronological"):
        direct_forcing(model, task(batch(3), 2, context))


def test_only_the_last_norm_and_the_output_layer_are_trained(model: MemoryPackTransformer3DModel) -> None:
    freeze_all_but_head(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"norm_out.linear.weight", "norm_out.linear.bias", "proj_out.weight", "proj_out.bias"}
    lookalikes = [name for name, _ in model.named_parameters() if "proj_out." in name and name not in trained]
    assert lookalikes, "every single block owns a proj_out of its own"
