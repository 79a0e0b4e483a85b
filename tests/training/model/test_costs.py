from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from preprocessing.samples import CodecRecord
from training.config import MemoryConfig, ModelConfig, Structure
from training.model.costs import memory_tokens, segment_flops, segment_tokens
from training.model.memory_pack import first_context, next_context, predict_velocity
from training.model.presets import build_model
from training.types import Condition, SegmentContext

SIZE_PX = (48, 80)
"""Latents of 6 x 10, which neither the memory's kernel and window nor the compressed history divide."""


def counted(run: Callable[[], object]) -> int:
    """Operations as torch counts them; its counter knows no fused attention on the CPU, so attention is spelt out."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("structure", ["A", "B", "C"])
def test_the_formulas_are_what_torch_counts(
    structure: Structure, tiny_codec: CodecRecord, condition_of: Callable[[list[int]], Condition]
) -> None:
    config = ModelConfig(memory=MemoryConfig(width=24, num_heads=2, depth=2, structure=structure))
    model = build_model(config, tiny_codec, device="cpu", seed=0)
    condition, latents = condition_of([6]), torch.zeros(1, 4, 9, 6, 10)
    flops = segment_flops(config, tiny_codec, SIZE_PX)

    def backbone(context: SegmentContext) -> int:
        return counted(
            lambda: predict_velocity(
                model, latents, torch.tensor([0.5]), context, condition, guidance_scale=1.0, rope_mode="f1"
            )
        )

    first = first_context(latents[:, :, :1])
    second = next_context(model, first, condition, latents)
    third = next_context(model, second, condition, latents)
    assert backbone(first) == flops.backbone(0) == flops.first_segment
    assert backbone(third) == flops.backbone(2) == flops.segment
    assert counted(lambda: next_context(model, first, condition, latents)) == flops.psi(1)
    assert (
        counted(lambda: next_context(model, second, condition, latents)) == flops.update == flops.psi(2) - flops.psi(1)
    )
    assert third.memory is not None
    assert third.memory.tokens_BND.shape[1] == segment_tokens(config, tiny_codec, SIZE_PX).memory


def test_without_memory_there_is_the_backbone_alone(tiny_codec: CodecRecord) -> None:
    flops = segment_flops(ModelConfig(memory=MemoryConfig(enabled=False)), tiny_codec, SIZE_PX)
    assert flops.segment == flops.first_segment > 0
    assert flops.psi(5) == 0


@pytest.fixture
def hunyuan(tiny_codec: CodecRecord) -> CodecRecord:
    return replace(
        tiny_codec, latent_channels=16, text_dim=4096, text_tokens=256, pooled_dim=768, image_dim=1152, image_tokens=729
    )


def test_the_tokens_of_framepack_at_480p(hunyuan: CodecRecord) -> None:
    config = ModelConfig(preset="framepack_f1", memory=MemoryConfig(enabled=False))
    tokens = segment_tokens(config, hunyuan, (480, 832))
    assert (tokens.noise, tokens.clean, tokens.history_2x, tokens.history_4x) == (14_040, 3_120, 390, 416)
    assert (tokens.latent, tokens.total) == (17_966, 18_951)


@pytest.mark.parametrize(
    ("kernel", "structure", "num_tokens"),
    [
        ((1, 4, 4), "A", 3510), ((2, 4, 4), "A", 1950), ((3, 4, 4), "A", 1170), ((4, 8, 8), "A", 312),
        ((2, 4, 4), "B", 985), ((2, 4, 4), "C", 2935),
    ],
)  # fmt: skip
def test_the_tokens_of_the_memory_at_480p(
    kernel: tuple[int, int, int], structure: Structure, num_tokens: int, hunyuan: CodecRecord
) -> None:
    assert memory_tokens(MemoryConfig(kernel=kernel, structure=structure), hunyuan, (480, 832)) == num_tokens


def test_a_segment_of_framepack_at_480p_is_about_half_a_petaflop_and_psi_costs_next_to_nothing(
    hunyuan: CodecRecord,
) -> None:
    memory = MemoryConfig(width=1024, kernel=(2, 4, 4), window=(4, 5, 13), num_heads=8)
    flops = segment_flops(ModelConfig(preset="framepack_f1", memory=memory), hunyuan, (480, 832))
    assert flops.first_segment == pytest.approx(522e12, rel=0.02)
    assert flops.segment / flops.first_segment == pytest.approx(1.16, abs=0.02)
    assert flops.psi(40) < 0.02 * flops.segment
