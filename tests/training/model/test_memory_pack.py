from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preprocessing.samples import CodecRecord
from training.config import MemoryConfig, ModelConfig, Structure
from training.model.memory_pack import (
    MemoryPackTransformer3DModel,
    context_memory,
    first_context,
    next_context,
    predict_velocity,
)
from training.model.presets import build_model
from training.model.rope import RopeMode
from training.model.weights import as_diffusers
from training.types import Condition, SegmentContext

ConditionOf = Callable[[list[int]], Condition]


def latents(seed: int, batch: int, frames: int = 9) -> Tensor:
    return torch.randn(batch, 4, frames, 4, 6, generator=torch.Generator().manual_seed(seed))


def context_after(model: MemoryPackTransformer3DModel, condition: Condition, num_segments: int) -> SegmentContext:
    batch = len(condition.text_BLD)
    context = first_context(latents(100, batch, frames=1))
    for n in range(num_segments):
        context = next_context(model, context, condition, latents(n, batch))
    return context


def velocity(
    model: MemoryPackTransformer3DModel,
    context: SegmentContext,
    condition: Condition,
    rope_mode: RopeMode = "relative_start",
) -> Tensor:
    batch = len(condition.text_BLD)
    t = torch.linspace(0.3, 0.6, 2)[:batch]
    return predict_velocity(model, latents(50, batch), t, context, condition, guidance_scale=2.0, rope_mode=rope_mode)


@pytest.mark.parametrize("prompt_lengths", [[4], [4, 6]])
@pytest.mark.parametrize("num_segments", [0, 2])
def test_without_memory_the_output_is_that_of_diffusers_to_the_bit(
    prompt_lengths: list[int], num_segments: int, tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    condition, batch = condition_of(prompt_lengths), len(prompt_lengths)
    context = replace(context_after(tiny_model, condition, num_segments), memory=None)
    history, indices = context.history_BCTHW, torch.arange(29)
    with torch.no_grad():
        ours = velocity(tiny_model, context, condition, "f1")
        theirs = as_diffusers(tiny_model)(
            hidden_states=latents(50, batch),
            timestep=(1 - torch.linspace(0.3, 0.6, 2)[:batch]) * 1000,
            encoder_hidden_states=condition.text_BLD,
            encoder_attention_mask=condition.text_mask_BL,
            pooled_projections=condition.pooled_BD,
            image_embeds=condition.image_BND,
            indices_latents=indices[20:],
            guidance=torch.full((batch,), 2000.0),
            latents_clean=torch.cat([context.start_latent_BCTHW, history[:, :, -1:]], dim=2),
            indices_latents_clean=indices[[0, 19]],
            latents_history_2x=history[:, :, 16:18],
            indices_latents_history_2x=indices[17:19],
            latents_history_4x=history[:, :, :16],
            indices_latents_history_4x=indices[1:17],
        ).sample
    assert torch.equal(ours, -theirs)


def test_memory_begins_with_the_first_segment_and_stays_one_size(
    tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    condition = condition_of([4])
    assert context_after(tiny_model, condition, 0).memory is None
    memories = [context_memory(tiny_model, context_after(tiny_model, condition, n)) for n in (1, 2, 5)]
    assert {m.tokens_BND.shape for m in memories if m is not None} == {(1, 3 * 1 * 2, 32)}
    assert [m.num_segments for m in memories if m is not None] == [1, 2, 5]


def test_memory_changes_the_output_and_forgetting_it_does_not_crash(
    tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    condition = condition_of([4])
    context = context_after(tiny_model, condition, 2)
    with_memory = velocity(tiny_model, context, condition)
    without = velocity(tiny_model, replace(context, memory=None), condition)
    assert (with_memory - without).abs().max() > 1e-4


def test_a_model_without_memory_keeps_none(
    plain_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    context = context_after(plain_model, condition_of([4]), 2)
    assert plain_model.semantic_pack is None
    assert context.memory is None
    assert context.segment_index == 2


def test_history_is_what_came_before(tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf) -> None:
    context = context_after(tiny_model, condition_of([4]), 3)
    assert torch.equal(context.history_BCTHW, torch.cat([latents(n, 1) for n in range(3)], dim=2)[:, :, -19:])
    assert torch.equal(context.start_latent_BCTHW, latents(100, 1, frames=1))


@pytest.mark.parametrize("structure", ["A", "B", "C"])
def test_a_batch_of_two_equals_two_batches_of_one(
    structure: Structure, tiny_codec: CodecRecord, condition_of: ConditionOf
) -> None:
    """Prompts of unequal length: padding, in the text and in the memory of B and C, is nothing."""
    config = ModelConfig(memory=MemoryConfig(width=24, num_heads=2, structure=structure))
    model = build_model(config, tiny_codec, device="cpu", seed=0)
    condition = condition_of([4, 6])
    context = context_after(model, condition, 2)
    together = velocity(model, context, condition)
    for i in range(2):
        one = slice(i, i + 1)
        alone = predict_velocity(
            model,
            latents(50, 2)[one],
            torch.linspace(0.3, 0.6, 2)[one],
            _pick(context, one),
            Condition(
                text_BLD=condition.text_BLD[one],
                text_mask_BL=condition.text_mask_BL[one],
                pooled_BD=condition.pooled_BD[one],
                image_BND=condition.image_BND[one],
            ),
            guidance_scale=2.0,
            rope_mode="relative_start",
        )
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-5)


def _pick(context: SegmentContext, one: slice) -> SegmentContext:
    memory = context.memory
    assert memory is not None
    return SegmentContext(
        history_BCTHW=context.history_BCTHW[one],
        memory=replace(memory, tokens_BND=memory.tokens_BND[one], mask_BN=memory.mask_BN[one]),
        start_latent_BCTHW=context.start_latent_BCTHW[one],
        segment_index=context.segment_index,
    )


def test_the_index_of_the_start_image_matters(
    tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    condition = condition_of([4])
    context = context_after(tiny_model, condition, 4)
    modes: tuple[RopeMode, ...] = ("f1", "relative_start", "absolute")
    f1, relative, absolute = (velocity(tiny_model, context, condition, mode) for mode in modes)
    assert not torch.equal(f1, relative)
    assert not torch.equal(relative, absolute)


def test_without_context_tokens_relative_and_absolute_positions_are_the_same_model(
    plain_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    """What tells the two apart is attention to text and image, which carry no rotation: silence their keys' pull."""
    condition = condition_of([4])
    with torch.no_grad():
        for block in plain_model.transformer_blocks:
            block.attn.norm_added_k.weight.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        plain_model.single_transformer_blocks = torch.nn.ModuleList()
        context = context_after(plain_model, condition, 4)
        relative, absolute = (velocity(plain_model, context, condition, m) for m in ("relative_start", "absolute"))
    torch.testing.assert_close(relative, absolute, rtol=0, atol=2e-5)


def test_every_parameter_learns_once_there_is_a_past(
    tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    condition = condition_of([4, 6])
    velocity(tiny_model, context_after(tiny_model, condition, 2), condition).square().mean().backward()
    silent = [name for name, p in tiny_model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_gradient_checkpointing_changes_no_gradient(
    tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    condition = condition_of([4])
    gradients = []
    for checkpointing in (False, True):
        tiny_model.zero_grad()
        if checkpointing:
            tiny_model.enable_gradient_checkpointing()
        velocity(tiny_model, context_after(tiny_model, condition, 2), condition).square().mean().backward()
        gradients.append([p.grad.clone() for p in tiny_model.parameters() if p.grad is not None])
    assert tiny_model.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_half_precision_weights_give_a_velocity_in_fp32(
    tiny_model: MemoryPackTransformer3DModel, condition_of: ConditionOf
) -> None:
    condition = condition_of([4])
    expected = velocity(tiny_model, context_after(tiny_model, condition, 2), condition)
    model = tiny_model.to(torch.bfloat16)
    actual = velocity(model, context_after(model, condition, 2), condition)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() < 0.1 * expected.norm()


def test_zero_memory_is_another_model_than_guided_memory(tiny_codec: CodecRecord, condition_of: ConditionOf) -> None:
    condition = condition_of([4])
    outputs = []
    for init in ("guidance", "zero"):
        config = ModelConfig(memory=MemoryConfig(width=24, num_heads=2, init=init))
        model = build_model(config, tiny_codec, device="cpu", seed=0)
        outputs.append(velocity(model, context_after(model, condition, 1), condition))
    assert not torch.equal(*outputs)
