"""One rank of a two-rank run, started by test_zero.py in a process of its own: python rank_worker.py RANK PORT OUT CASES."""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from preprocessing.samples import CodecRecord
from training.config import EngineConfig, FlowConfig, MemoryConfig, ModelConfig, OptimizerConfig
from training.engine.base import Engine, freeze_all_but_head
from training.engine.zero import ZeroEngine
from training.loop import StageSettings, train_step
from training.model.presets import build_model
from training.objectives.base import ObjectiveModule
from training.objectives.direct_forcing import direct_forcing
from training.objectives.teacher_forcing import teacher_forcing
from training.order import keyed_normals, stacks_of_rank
from training.types import ClipRow, Condition, GlobalStep, RandomKey, SegmentBatch

NUM_RANKS = 2
CODEC = CodecRecord(
    codec_id="tiny", latent_channels=4, spatial_stride=8, text_dim=16, text_tokens=6, pooled_dim=8, image_dim=12,
    image_tokens=5, weights_sha256="0" * 64, options={},
)  # fmt: skip
MODEL = ModelConfig(preset="tiny", memory=MemoryConfig(width=24, num_heads=2))


def clip(i: int, num_segments: int) -> ClipRow:
    return ClipRow(clip_id=f"clip{i}", dataset="d", shard="a/b", num_segments=num_segments, height_px=64, width_px=64)


def direct_plan() -> list[GlobalStep]:
    """Clips of 3 and 5 segments in one global batch: one on each of two ranks."""
    clips, num_segments = (clip(0, 3), clip(1, 5)), (3, 5)
    return [
        GlobalStep(step=k, clips=clips, num_segments=num_segments, segment_index=None, use_memory=True)
        for k in range(2)
    ]


def even_plan() -> list[GlobalStep]:
    """As many segments on either rank."""
    return [
        GlobalStep(step=k, clips=(clip(0, 3), clip(1, 3)), num_segments=(3, 3), segment_index=None, use_memory=True)
        for k in range(2)
    ]


def teacher_plan() -> list[GlobalStep]:
    """n and memory dropout that change the graph from step to step."""
    clips = tuple(clip(i, 4) for i in range(4))
    drawn = [(2, True), (0, True), (3, False), (3, True)]
    return [
        GlobalStep(step=k, clips=clips, num_segments=(n + 1,) * 4, segment_index=n, use_memory=use_memory)
        for k, (n, use_memory) in enumerate(drawn)
    ]


PLANS = {"direct": direct_plan, "even": even_plan, "teacher": teacher_plan}


def batches(step: GlobalStep, rank: int, num_ranks: int) -> list[SegmentBatch]:
    """Clips of random numbers that depend on the position alone."""
    return [_batch(step, positions) for positions in stacks_of_rank(step, rank=rank, num_ranks=num_ranks)]


def _batch(step: GlobalStep, positions: tuple[int, ...]) -> SegmentBatch:
    def data(name: int, *shape: int) -> Tensor:
        return keyed_normals(RandomKey(seed=name, stage="data", step=0), positions=positions, segment=0, shape=shape)

    return SegmentBatch(
        clip_ids=tuple(step.clips[p].clip_id for p in positions),
        latents_BCTHW=data(0, 4, 46, 8, 8)[:, :, : 1 + 9 * step.num_segments[positions[0]]],
        start_latent_BCTHW=data(1, 4, 1, 8, 8),
        condition=Condition(
            text_BLD=data(2, 6, 16), text_mask_BL=torch.tensor([[1, 1, 1, 1, 0, 0]]).repeat(len(positions), 1),
            pooled_BD=data(3, 8), image_BND=data(4, 5, 12),
        ),
        positions=positions,
    )  # fmt: skip


def settings(stage: str) -> StageSettings:
    return StageSettings(
        name=stage, objective=teacher_forcing if stage == "teacher" else direct_forcing, seed=3, num_steps=4,
        flow=FlowConfig(), rope_mode="relative_start", optimizer=optimizer(), save_every=9, validate_every=9,
    )  # fmt: skip


def optimizer() -> OptimizerConfig:
    return OptimizerConfig(learning_rate=1e-3, clip_norm=0.0)


def module(stage: str) -> ObjectiveModule:
    model = build_model(MODEL, CODEC, device="cpu", seed=0)
    if stage != "teacher":
        freeze_all_but_head(model)
    return ObjectiveModule(model)


def run_case(stage: str, zero_stage: int, dtype: str, out: Path) -> dict[str, object]:
    """Gradients of every step as one file, losses returned; the optimizer steps in between."""
    from deepspeed.utils import safe_get_full_grad

    wrapped = module(stage)
    config = EngineConfig.model_validate({"num_workers": NUM_RANKS, "zero_stage": zero_stage, "dtype": dtype})
    engine: Engine = ZeroEngine(wrapped, config, optimizer())
    losses, gradients = [], {}
    for step in PLANS[stage]():
        losses.append(train_step(engine, settings(stage), step, batches(step, engine.rank, engine.num_ranks)))
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                gradient = parameter.grad if zero_stage == 0 else safe_get_full_grad(parameter)
                gradients[f"{step.step} {name}"] = torch.zeros(1) if gradient is None else gradient.float().clone()
        engine.step(1e-3)
    if engine.rank == 0:
        save_file(gradients, out / f"{stage}-{zero_stage}-{dtype}.safetensors")
    return {"losses": losses}


def resume_case(stage: str, zero_stage: int, folder: Path) -> dict[str, object]:
    """The largest difference in any weight between two steps, and two steps with a checkpoint in between."""
    config = EngineConfig.model_validate({"num_workers": NUM_RANKS, "zero_stage": zero_stage})
    first, second = PLANS[stage]()[:2]
    whole, resumed = module(stage), module(stage)
    engine = ZeroEngine(whole, config, optimizer())
    _step(engine, stage, first)
    folder.mkdir(exist_ok=True)
    engine.save(folder)
    dist.barrier()
    _step(engine, stage, second)
    again = ZeroEngine(resumed, config, optimizer())
    again.load(folder)
    _step(again, stage, second)
    with engine.whole_parameters(), again.whole_parameters():
        pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
        return {"difference": max(float((a - b).abs().max()) for a, b in pairs)}


def _step(engine: Engine, stage: str, step: GlobalStep) -> None:
    train_step(engine, settings(stage), step, batches(step, engine.rank, engine.num_ranks))
    engine.step(1e-3)


def main(rank: int, port: int, out: Path, cases: list[tuple[str, int, str]]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(NUM_RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    dist.init_process_group("gloo")
    results = {}
    for stage, zero_stage, dtype in cases:
        name, resume = f"{stage}-{zero_stage}-{dtype}", dtype == "resume"
        try:
            results[name] = (
                resume_case(stage, zero_stage, out / name) if resume else run_case(stage, zero_stage, dtype, out)
            )
        except ValueError as error:
            results[name] = {"refused": str(error)}
        except Exception:
            traceback.print_exc()
            raise
    (out / f"results-{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), [tuple(case) for case in json.loads(sys.argv[4])])
