from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from preprocessing.samples import CodecRecord
from training.config import EngineConfig, MemoryConfig, ModelConfig, TrainConfig
from training.engine.base import freeze_all_but_head
from training.footprint import Footprint, Parameters, count_parameters, footprint
from training.model.memory_pack import first_context, next_context, predict_velocity
from training.model.presets import build_model
from training.types import Condition

SIZE_PX = (128, 128)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PLAIN = ModelConfig(preset="small", memory=MemoryConfig(enabled=False))
MEMORY = ModelConfig(preset="small", memory=MemoryConfig(width=128, num_heads=2))


@pytest.fixture
def codec(tiny_codec: CodecRecord) -> CodecRecord:
    return replace(tiny_codec, latent_channels=16)


def saved_bytes(module: nn.Module, run: Callable[[], object]) -> int:
    """What autograd keeps for the backward pass, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for at, tensor in saved.items() if at not in weights)


class Made(TorchDispatchMode):
    """Inside, notes the floating-point tensors that are made and are no views of others, however they are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 - torch's signature
        result = func(*args, **(kwargs or {}))
        before = {StorageWeakRef(tensor.untyped_storage()) for tensor in args if isinstance(tensor, Tensor)}
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                self.storages |= {ref: storage.nbytes() for ref in {StorageWeakRef(storage)} - before}
        return result

    def alive_bytes(self) -> int:
        return sum(nbytes for storage, nbytes in self.storages.items() if not storage.expired())


def planned(
    config: ModelConfig,
    codec: CodecRecord,
    engine: EngineConfig,
    stage: Literal["teacher", "direct"] = "teacher",
    num_segments: int = 2,
) -> Footprint:
    parameters = count_parameters(config, codec, head_only=stage == "direct")
    train = TrainConfig(engine=engine)
    return footprint(config, train, stage, parameters, codec=codec, size_px=SIZE_PX, num_segments=num_segments)


def holding(footprint: Footprint, name: str) -> float:
    return next(h.num_bytes for h in (*footprint.states, *footprint.passes) if h.name == name)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_activations_are_what_autograd_keeps(
    dtype: Literal["fp32", "bf16"], codec: CodecRecord, condition_of: Callable[[list[int]], Condition]
) -> None:
    model = build_model(PLAIN, codec, device="cpu", seed=0).to(DTYPES[dtype])
    latents = torch.zeros(1, 16, 9, 16, 16)

    def forward() -> Tensor:
        return predict_velocity(
            model, latents, torch.tensor([0.5]), first_context(latents[:, :, :1]), condition_of([6]),
            guidance_scale=1.0, rope_mode="f1",
        )  # fmt: skip

    def teacher(*, checkpointing: bool) -> float:
        engine = EngineConfig(num_workers=1, dtype=dtype, activation_checkpointing=checkpointing)
        return holding(planned(PLAIN, codec, engine), "activations")

    assert teacher(checkpointing=False) == pytest.approx(saved_bytes(model, forward), rel=0.05)
    model.enable_gradient_checkpointing()
    assert teacher(checkpointing=True) == pytest.approx(saved_bytes(model, forward), rel=0.15)
    model.disable_gradient_checkpointing()
    freeze_all_but_head(model)
    direct = planned(PLAIN, codec, EngineConfig(num_workers=1, dtype=dtype), "direct")
    assert holding(direct, "activations") == pytest.approx(saved_bytes(model, forward), rel=0.15)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_activations_of_psi_are_what_autograd_keeps(
    dtype: Literal["fp32", "bf16"], codec: CodecRecord, condition_of: Callable[[list[int]], Condition]
) -> None:
    model = build_model(MEMORY, codec, device="cpu", seed=0).to(DTYPES[dtype])
    latents, condition = torch.zeros(1, 16, 9, 16, 16), condition_of([6])
    second = next_context(model, first_context(latents[:, :, :1]), condition, latents)
    kept = saved_bytes(model, lambda: next_context(model, second, condition, latents))
    engine = EngineConfig(num_workers=1, dtype=dtype)
    assert holding(planned(MEMORY, codec, engine), "activations of psi") == pytest.approx(kept, rel=0.15)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_of_psi_s_updates_that_are_computed_again_only_psi_stays(
    dtype: Literal["fp32", "bf16"], codec: CodecRecord, condition_of: Callable[[list[int]], Condition]
) -> None:
    model = build_model(MEMORY, codec, device="cpu", seed=0).to(DTYPES[dtype])
    model.enable_gradient_checkpointing()
    latents, condition = torch.zeros(1, 16, 9, 16, 16), condition_of([6])
    context = next_context(model, first_context(latents[:, :, :1]), condition, latents)
    with Made() as made:
        for _ in range(3):
            context = next_context(model, context, condition, latents)
    engine = EngineConfig(num_workers=1, dtype=dtype, activation_checkpointing=True)
    expected = holding(planned(MEMORY, codec, engine, num_segments=4), "activations of psi")
    kept = made.alive_bytes() - context.history_BCTHW.untyped_storage().nbytes()
    assert expected == pytest.approx(kept, rel=0.15)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_teacher_steps_of_the_direct_stage_keep_of_psi_what_the_teacher_s_do(
    checkpointing: bool, codec: CodecRecord
) -> None:
    def passes(stage: Literal["teacher", "direct"], num_segments: int, **direct: object) -> dict[str, float]:
        train = {"engine": {"activation_checkpointing": checkpointing}, "direct": {"curriculum": (1, 3), **direct}}
        parameters = Parameters(total=1000, trained=1000)
        held = footprint(
            MEMORY, TrainConfig.model_validate(train), stage, parameters,
            codec=codec, size_px=SIZE_PX, num_segments=num_segments,
        )  # fmt: skip
        return {h.name: h.num_bytes for h in held.passes}

    expected = passes("teacher", 3)
    assert "activations of psi" in expected
    for shares in ({"ground_truth_share": 1.0, "final_ground_truth_share": 0.0}, {"final_ground_truth_share": 0.1}):
        assert passes("direct", 9, trained="all", **shares) == expected  # the curriculum ends at 3 segments
    without_psi = passes("teacher", 1)
    assert passes("direct", 9, trained="all") == without_psi
    assert "activations of psi" not in passes("direct", 9, ground_truth_share=1.0)  # of the head alone


def test_zero_shares_what_its_stage_says_among_the_ranks(codec: CodecRecord) -> None:
    def states(zero_stage: Literal[0, 1, 2, 3]) -> dict[str, float]:
        engine = EngineConfig(num_workers=4, zero_stage=zero_stage)
        parameters = Parameters(total=1000, trained=1000)
        held = footprint(
            PLAIN, TrainConfig(engine=engine), "teacher", parameters, codec=codec, size_px=SIZE_PX, num_segments=2
        )
        return {h.name: h.num_bytes for h in held.states}

    assert [states(z)["weights"] for z in (0, 1, 2, 3)] == [4000, 4000, 4000, 1000]
    assert [states(z)["gradients"] for z in (0, 1, 2, 3)] == [4000, 4000, 1000, 1000]
    assert [states(z)["optimizer states"] for z in (0, 1, 2, 3)] == [8000, 3000, 3000, 3000]


def test_a_single_rank_shares_nothing_and_offloading_leaves_no_optimizer_states(codec: CodecRecord) -> None:
    alone = planned(PLAIN, codec, EngineConfig(num_workers=1, zero_stage=1))
    total = count_parameters(PLAIN, codec, head_only=False).total
    assert holding(alone, "optimizer states") == 12 * total
    offloaded = planned(PLAIN, codec, EngineConfig(num_workers=1, zero_stage=1, offload_optimizer=True))
    assert offloaded.peak_bytes == alone.peak_bytes - 12 * total
