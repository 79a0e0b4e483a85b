"""One rank, started by test_zero.py in a process of its own: python rank_worker.py RANK NUM_RANKS PORT OUT CASES.

A case is (kind, plan, ZeRO stage, engine settings); each leaves results under its name, and files in a folder of it.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from preprocessing.samples import CodecRecord
from training.broken_samples import stand_in, without_broken
from training.checkpoint import write_checkpoint
from training.checkpoint_files import read_checkpoint
from training.config import (
    EngineConfig,
    FlowConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    SampleConfig,
    ValidationConfig,
    VideoConfig,
)
from training.engine.base import Engine, LearningRates, freeze_all_but_head, part_of
from training.engine.ema import Ema
from training.engine.fragments import StoredFragments, load_fragments
from training.engine.watchdog import Pulse, watch
from training.engine.zero import ZeroEngine, _import_deepspeed
from training.loop import StageSettings, train_step, update_weights
from training.loss_table import LossTable
from training.model.presets import build_model
from training.nonfinite import NonFiniteError
from training.objectives.base import ObjectiveModule, SegmentTask
from training.objectives.direct_forcing import direct_forcing
from training.objectives.teacher_forcing import teacher_forcing
from training.order import backwards_per_rank, keyed_normals, stacks_of_rank
from training.sampled_video import sample_segments
from training.types import CheckpointRecord, ClipRow, Condition, GlobalStep, RandomKey, SegmentBatch

HANG_EXIT_CODE = 70
RATES = LearningRates(backbone=1e-3, memory=1e-3)
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
        for k in range(4)
    ]


def even_plan() -> list[GlobalStep]:
    """As many segments on either rank."""
    return [
        GlobalStep(step=k, clips=(clip(0, 3), clip(1, 3)), num_segments=(3, 3), segment_index=None, use_memory=True)
        for k in range(4)
    ]


def one_stage_plan() -> list[GlobalStep]:
    """All parameters, by Direct Forcing and one teacher step; as many segments on either rank."""
    return _with_a_teacher_step(even_plan())


def uneven_one_stage_plan() -> list[GlobalStep]:
    """The same with clips of 3 and 5 segments."""
    return _with_a_teacher_step(direct_plan())


def _with_a_teacher_step(steps: list[GlobalStep]) -> list[GlobalStep]:
    first, second, third, *_ = steps
    return [first, replace(second, num_segments=(3, 3), segment_index=2), third]


def teacher_plan() -> list[GlobalStep]:
    """n and memory dropout that change the graph from step to step."""
    return _teacher_steps(tuple(clip(i, 4) for i in range(4)))


def mixed_plan() -> list[GlobalStep]:
    """Teacher forcing on clips of two sizes: one rank has two batches, the other one."""
    return _teacher_steps((clip(0, 4), replace(clip(1, 4), width_px=96), clip(2, 4), clip(3, 4)))


def _teacher_steps(clips: tuple[ClipRow, ...]) -> list[GlobalStep]:
    drawn = [(2, True), (0, True), (3, False), (3, True)]
    return [
        GlobalStep(step=k, clips=clips, num_segments=(n + 1,) * 4, segment_index=n, use_memory=use_memory)
        for k, (n, use_memory) in enumerate(drawn)
    ]


PLANS = {
    "direct": direct_plan, "even": even_plan, "teacher": teacher_plan, "mixed": mixed_plan, "one stage": one_stage_plan,
    "uneven one stage": uneven_one_stage_plan,
}  # fmt: skip
HEAD_ONLY = ("direct", "even")
"""Plans that train nothing else."""


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


def is_teacher(plan: str) -> bool:
    return plan in ("teacher", "mixed")


def settings(plan: str) -> StageSettings:
    return StageSettings(
        name=plan, objective=teacher_forcing if is_teacher(plan) else direct_forcing, seed=3, num_steps=4, memory_warmup_steps=0,
        flow=FlowConfig(), rope_mode="relative_start", optimizer=optimizer(), save_every=9, validate_every=9,
        skip_nonfinite=False, skip_broken=False,
    )  # fmt: skip


def optimizer() -> OptimizerConfig:
    return OptimizerConfig(learning_rate=1e-3, clip_norm=0.0)


def module(plan: str) -> ObjectiveModule:
    model = build_model(MODEL, CODEC, device="cpu", seed=0)
    if plan in HEAD_ONLY:
        freeze_all_but_head(model)
    return ObjectiveModule(model)


def spoiled(batch: SegmentBatch) -> SegmentBatch:
    """A NaN in the clip at position 1."""
    latents = batch.latents_BCTHW.clone()
    latents[[i for i, position in enumerate(batch.positions) if position == 1]] = float("nan")
    return replace(batch, latents_BCTHW=latents)


@dataclass(frozen=True)
class Case:
    """One engine on this rank, and what it is taken through."""

    plan: str
    zero_stage: int
    settings: Mapping[str, object]
    folder: Path
    pulse: Pulse = field(default_factory=Pulse)

    def engine(self) -> tuple[ZeroEngine, ObjectiveModule]:
        wrapped = module(self.plan)
        config = EngineConfig.model_validate(
            {
                "num_workers": dist.get_world_size(),
                "zero_stage": self.zero_stage,
                "persistence_threshold": 0,  # else ZeRO-3 would leave all parameters of so small a model whole
                **self.settings,
            }
        )
        return ZeroEngine(wrapped, config, optimizer(), self.pulse), wrapped

    def steps(self) -> list[GlobalStep]:
        return PLANS[self.plan]()

    def accumulate(self, engine: Engine, step: GlobalStep) -> float:
        return train_step(engine, settings(self.plan), step, batches(step, engine.rank, engine.num_ranks), LossTable(5))

    def take(self, engine: Engine, step: GlobalStep) -> float:
        loss = self.accumulate(engine, step)
        assert engine.step(RATES).applied
        return loss

    def keep_gradients(self, engine: Engine, wrapped: ObjectiveModule, name: str) -> None:
        """Gathers them on all ranks; rank 0 writes."""
        gradients = {n: full_gradient(p, self.zero_stage) for n, p in wrapped.named_parameters() if p.requires_grad}
        if engine.rank == 0:
            save_file(gradients, self.folder / f"{name}.safetensors")


def full_gradient(parameter: nn.Parameter, zero_stage: int) -> Tensor:
    from deepspeed.utils import safe_get_full_grad

    gradient = parameter.grad if zero_stage == 0 else safe_get_full_grad(parameter)
    return torch.zeros(1) if gradient is None else gradient.float().clone()


def gradients_case(case: Case) -> dict[str, object]:
    """Gradients of every step as a file each; the optimizer steps in between."""
    engine, wrapped = case.engine()
    met, losses = case.pulse.beat().meetings, []
    for step in case.steps():
        losses.append(case.accumulate(engine, step))
        case.keep_gradients(engine, wrapped, str(step.step))
        engine.step(RATES)
    whole = sum(parameter.numel() > 0 for parameter in wrapped.parameters())
    engine.has_read()
    return {"losses": losses, "whole": whole, "met_at_start": met, "read": case.pulse.beat().num_read}


def segment_case(case: Case) -> dict[str, object]:
    """Two steps with an optimizer step after each segment."""
    engine, _ = case.engine()
    return by_segment(engine, case.plan)


def by_segment(engine: Engine, plan: str) -> dict[str, object]:
    """Losses by segment of each step, and the number of optimizer steps."""
    used, losses = replace(settings(plan), update="segment"), []
    for step in PLANS[plan]()[:2]:
        table = LossTable(5)
        update_weights(engine, used, step, batches(step, engine.rank, engine.num_ranks), RATES, table)
        losses.append(table.means(engine))
    return {"losses": losses, "num_updates": engine.num_updates}


def average_case(case: Case) -> dict[str, object]:
    """Two steps with a moving average: the loss of a third with it and, after that, without."""
    engine, _ = case.engine()
    ema = Ema(engine, decay=0.5)
    first, second, third, *_ = case.steps()
    for step in (first, second):
        case.take(engine, step)
        ema.update(step.step + 1)
    keep(engine, case.folder)
    with ema.swapped():
        averaged = case.accumulate(engine, third)
        engine.discard()
    return {"averaged": averaged, "live": case.accumulate(engine, third)}


def spoiled_case(case: Case) -> dict[str, object]:
    """A step, one that has a NaN in it, and the gradient of a third."""
    engine, wrapped = case.engine()
    first, second, third, *_ = case.steps()
    case.take(engine, first)
    message = ""
    try:
        ours = [spoiled(batch) for batch in batches(second, engine.rank, engine.num_ranks)]
        train_step(engine, settings(case.plan), second, ours, LossTable(5))
    except NonFiniteError as error:
        message = str(error)
    engine.discard()
    case.accumulate(engine, third)
    case.keep_gradients(engine, wrapped, "third")
    return {"message": message}


def broken_case(case: Case) -> dict[str, object]:
    """The gradient of a step the second half of whose clips cannot be read: the last rank has none but stand-ins."""
    engine, wrapped = case.engine()
    step, *_ = case.steps()
    half = len(step.clips) // 2
    planned = batches(step, engine.rank, engine.num_ranks)
    ours = [stand_in(step, b.positions[0], CODEC, engine.device) if b.positions[0] >= half else b for b in planned]
    step = without_broken(engine, step, ours)
    loss = train_step(engine, settings(case.plan), step, ours, LossTable(5))
    case.keep_gradients(engine, wrapped, "healthy")
    return {"loss": loss, "broken": sorted(step.broken)}


def video_case(case: Case) -> dict[str, object]:
    """A step, what the model makes of a start image then, and the gradient of the next step."""
    engine, wrapped = case.engine()
    first, second, *_ = case.steps()
    case.take(engine, first)
    segments = sampled_start(engine, case.plan)
    case.accumulate(engine, second)
    case.keep_gradients(engine, wrapped, "second")
    return {"segments": segments.flatten().tolist()}


def sampled_start(engine: Engine, plan: str) -> Tensor:
    """Two segments after the start image of the plan's first clip."""
    step = GlobalStep(step=0, clips=(clip(0, 1),), num_segments=(1,), segment_index=None, use_memory=True)
    config = ValidationConfig(
        sample=SampleConfig(num_inference_steps=2), video=VideoConfig(every_steps=1, num_segments=2)
    )
    return sample_segments(engine, settings(plan), batches(step, 0, 1)[0], config)


def poisoned_case(case: Case) -> dict[str, object]:
    """A step whose loss is finite and whose gradient is not, and the loss of the next."""
    engine, _ = case.engine()
    first, second, *_ = case.steps()
    with engine.accumulate(backwards_per_rank(first, engine.num_ranks)):
        for batch in batches(first, engine.rank, engine.num_ranks):
            output = engine.forward(teacher_forcing, validation_task(case, first, batch))
            engine.backward(output.loss * float("inf"))
    applied = engine.step(RATES).applied
    engine.discard()
    return {"applied": applied, "loss": case.accumulate(engine, second)}


def validation_task(case: Case, step: GlobalStep, batch: SegmentBatch) -> SegmentTask:
    used = settings(case.plan)
    return SegmentTask(
        batch=batch, segment_index=0, context=None, use_memory=False, use_history=True,
        key=RandomKey(seed=0, stage="poison", step=step.step), flow=used.flow, rope_mode=used.rope_mode,
    )  # fmt: skip


def warmup_case(case: Case) -> dict[str, object]:
    """The largest change of any of this rank's weights in a step of the memory alone."""
    engine, _ = case.engine()
    begun = dict(module(case.plan).named_parameters())
    case.accumulate(engine, case.steps()[0])
    engine.step(LearningRates(backbone=0.0, memory=1e-3))
    changes: dict[str, float] = {"backbone": 0.0, "memory": 0.0}
    for piece in engine.fragments:
        old = begun[piece.name].detach().flatten()[piece.start : piece.start + len(piece.weight)]
        part = part_of(piece.name)
        changes[part] = max(changes[part], float((piece.weight - old).abs().max()))
    return dict(changes)


def resume_case(case: Case) -> dict[str, object]:
    """A step and a checkpoint, then two steps: straight on, and by a new engine that begins at the checkpoint."""
    engine, _ = case.engine()
    first, *others = case.steps()[:3]
    losses = [case.take(engine, first)]
    keep(engine, case.folder)
    losses += [case.take(engine, step) for step in others]
    keep(engine, case.folder / "straight")
    again = resumed(case)
    for step in others:
        case.take(again, step)
    keep(again, case.folder / "resumed")
    return {"losses": losses}


def go_on_case(case: Case) -> dict[str, object]:
    """What any number of ranks left in the folder, kept again as soon as it is loaded; then the next step."""
    engine = resumed(case)
    keep(engine, case.folder / f"loaded-by-{engine.num_ranks}")
    loss = case.take(engine, case.steps()[engine.num_updates])
    keep(engine, case.folder / f"next-by-{engine.num_ranks}")
    return {"loss": loss}


def keep(engine: Engine, folder: Path) -> None:
    """A checkpoint of all ranks."""
    folder.mkdir(exist_ok=True)
    write_checkpoint(engine, folder, record(engine))
    dist.barrier()


def resumed(case: Case) -> Engine:
    """A new engine at the checkpoint in the folder of the case."""
    engine, _ = case.engine()
    stored = read_checkpoint(case.folder)
    load_fragments(StoredFragments(case.folder, num_ranks=stored.num_ranks), engine.fragments)
    engine.restore_num_updates(stored.num_updates)
    engine.publish()
    return engine


def hang_case(case: Case) -> dict[str, object]:
    """One rank sleeps before its second step."""
    engine, _ = case.engine()
    note = case.folder / f"hang-{engine.rank}"
    guard = watch(
        case.pulse, case.folder / "heartbeats", rank=engine.rank, num_ranks=engine.num_ranks, timeout_s=3.0,
        on_hang=lambda message: (note.write_text(message), os._exit(HANG_EXIT_CODE)),
    )  # fmt: skip
    with guard:
        for step in case.steps()[:2]:
            if step.step == 1 and engine.rank == 1:
                time.sleep(600)
            case.take(engine, step)
    return {}


KINDS = {
    "gradients": gradients_case, "segment": segment_case, "average": average_case, "spoiled": spoiled_case, "broken": broken_case,
    "poisoned": poisoned_case, "video": video_case, "resume": resume_case, "go_on": go_on_case, "hang": hang_case,
    "warmup": warmup_case,
}  # fmt: skip


def record(engine: Engine) -> CheckpointRecord:
    return CheckpointRecord(
        stage="teacher", step=engine.num_updates, num_updates=engine.num_updates, val_loss=None, settings={},
        plan_hash="", base_sha256="", num_ranks=engine.num_ranks,
    )  # fmt: skip


def run_case(kind: str, plan: str, zero_stage: int, settings: Mapping[str, object], folder: Path) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    try:
        return KINDS[kind](Case(plan, zero_stage, settings, folder))
    except ValueError as error:
        return {"refused": str(error)}


def main(rank: int, num_ranks: int, port: int, out: Path, cases: Mapping[str, tuple[str, str, int, dict]]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    dist.init_process_group("gloo")
    _import_deepspeed()
    gc.freeze()  # ZeRO-3 collects garbage with each engine: half a second where all that was imported is looked through
    results = {name: run_case(*case, out / name) for name, case in cases.items()}
    (out / f"results-{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), json.loads(sys.argv[5]))
