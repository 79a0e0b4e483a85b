"""What a training step costs: ``python -m benchmarks.train_step [--rounds 9] [--json]``.

The `small` preset as the default recipe has it: its codec, clips of 128 x 128 pixels; one rank, one thread. What is compared runs in turns, and figures are medians
over the rounds, with the lowest and the highest where they are times. `ours_over_bare` is a whole stage of `longtake train`
(Ray Train, DeepSpeed, loader, tracking) against a bare loop of torch over the same clips, model and objective, step by step.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from pipeline.config import Recipe, build_recipe, load_recipe
from pipeline.jobs.stage import train_stage
from pipeline.tracking.tracked_run import Tracking
from preprocessing.codecs.catalog import planned_record
from tests.training.small_dataset import make_dataset
from training.batches import current_versions, open_data, sample_reader, step_batches
from training.config import FlowConfig, SampleConfig, TrainConfig
from training.engine.base import freeze_all_but_head
from training.metrics_log import MetricsLog
from training.model.costs import segment_flops
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.objectives.base import Objective, SegmentTask, segment_of
from training.objectives.direct_forcing import direct_forcing
from training.objectives.student_forcing import student_forcing
from training.objectives.teacher_forcing import teacher_forcing
from training.order import teacher_steps
from training.types import Condition, RandomKey, SegmentBatch
from training.workload import Workload

RECIPE = load_recipe("embedded")
MODEL, CODEC = RECIPE.model, planned_record(RECIPE.encode)
SIZE_PX = (128, 128)
TEACHER_SEGMENT = 2
LONG_CLIP = 40
STUDENT = SampleConfig(num_inference_steps=5)
SKIPPED_STEPS = 5
"""Of a stage, before its caches are warm."""


def clip(num_segments: int) -> SegmentBatch:
    """One clip of random numbers."""
    rng = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=rng)
    height, width = (side // CODEC.spatial_stride for side in SIZE_PX)
    return SegmentBatch(
        clip_ids=("clip",),
        latents_BCTHW=normal(1, CODEC.latent_channels, 1 + 9 * num_segments, height, width),
        start_latent_BCTHW=normal(1, CODEC.latent_channels, 1, height, width),
        condition=Condition(
            text_BLD=normal(1, CODEC.text_tokens, CODEC.text_dim),
            text_mask_BL=torch.ones(1, CODEC.text_tokens, dtype=torch.long),
            pooled_BD=normal(1, CODEC.pooled_dim),
            image_BND=normal(1, CODEC.image_tokens, CODEC.image_dim),
        ),
        positions=(0,),
    )


def first_task(batch: SegmentBatch) -> SegmentTask:
    """Its first segment."""
    return SegmentTask(
        batch=batch, segment_index=0, context=None, use_memory=True, use_history=True,
        key=RandomKey(seed=0, stage="benchmark", step=0), flow=FlowConfig(), rope_mode="relative_start",
    )  # fmt: skip


class Trainer:
    """A model, its optimizer, and the seconds of what they do."""

    def __init__(self, *, head_only: bool) -> None:
        """Fresh weights."""
        self.model: MemoryPackTransformer3DModel = build_model(MODEL, CODEC, device="cpu", seed=0)
        if head_only:
            freeze_all_but_head(self.model)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-4)

    def update(self) -> None:
        """Clip, step, and clear."""
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def teacher_s(self, segment_index: int) -> float:
        """Seconds of a step on one segment after its true past."""
        task = replace(first_task(clip(segment_index + 1)), segment_index=segment_index)
        begun = time.perf_counter()
        teacher_forcing(self.model, task).loss.backward()
        self.update()
        return time.perf_counter() - begun

    def segments_s(self, objective: Objective, batch: SegmentBatch, num_segments: int | None = None) -> list[float]:
        """Seconds of each of the first segments of a clip, or of all; the update of the weights counts with the last."""
        task, num_segments, seconds = first_task(batch), num_segments or batch.num_segments, []
        for n in range(num_segments):
            begun = time.perf_counter()
            output = objective(self.model, replace(task, segment_index=n))
            (output.loss / num_segments).backward()
            if n == num_segments - 1:
                self.update()
            seconds.append(time.perf_counter() - begun)
            task = replace(task, context=output.next_context)
        return seconds

    def psi_s(self, num_segments: int, *, with_gradient: bool) -> float:
        """Seconds of psi over a clip, alone."""
        task = first_task(clip(num_segments))
        begun = time.perf_counter()
        with torch.set_grad_enabled(with_gradient):
            memory = self._psi(task, num_segments)
            if with_gradient:
                memory.square().mean().backward()
        return time.perf_counter() - begun

    def _psi(self, task: SegmentTask, num_segments: int) -> Tensor:
        pack = self.model.semantic_pack
        assert pack is not None
        memory = pack.initial_memory(task.batch.condition)
        for n in range(num_segments):
            memory = pack.update(memory, segment_of(task.batch.latents_BCTHW, n))
        return memory.tokens_BND


def spread(values: list[float]) -> list[float]:
    """Lowest, median, highest."""
    return [min(values), median(values), max(values)]


def objectives(rounds: int) -> dict[str, object]:
    """Seconds of a segment under each objective, and of psi, and their ratios."""
    teacher, head = Trainer(head_only=False), Trainer(head_only=True)
    rows = list(islice(_rounds(teacher, head), rounds + 1))[1:]
    seconds = {name: [row[name] for row in rows] for name in rows[0]}
    middle = {name: median(values) for name, values in seconds.items()}
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "direct_over_teacher": middle["direct"] / middle["teacher"],
        "student_over_direct": middle["student"] / middle["direct"],
        "student_over_direct_counted": counted("student") / counted("direct"),
        "psi_share": middle["psi"] / middle["long_clip"],
        "psi_share_teacher": middle["psi_with_gradient"] / (middle["psi_with_gradient"] + middle["teacher_first"]),
        "segment_40_over_4": middle["segment_40"] / middle["segment_4"],
    }


def _rounds(teacher: Trainer, head: Trainer) -> Iterator[dict[str, float]]:
    student = student_forcing(STUDENT)
    while True:
        long = head.segments_s(direct_forcing, clip(LONG_CLIP))
        yield {
            "teacher": teacher.teacher_s(TEACHER_SEGMENT),
            "teacher_first": teacher.teacher_s(0),
            "direct": sum(head.segments_s(direct_forcing, clip(TEACHER_SEGMENT + 1))) / (TEACHER_SEGMENT + 1),
            "student": sum(head.segments_s(student, clip(TEACHER_SEGMENT + 1))) / (TEACHER_SEGMENT + 1),
            "long_clip": sum(long),
            "segment_4": median(long[2:6]),
            "segment_40": median(long[-5:-1]),
            "psi": head.psi_s(LONG_CLIP, with_gradient=False),
            "psi_with_gradient": teacher.psi_s(LONG_CLIP, with_gradient=True),
        }


def counted(stage: str) -> int:
    """Operations of the same segments."""
    train = TrainConfig.model_validate({"direct": {"student": STUDENT.model_dump()}}, strict=False)
    workload = Workload(config=MODEL, train=train, stage=stage, codec=CODEC)  # pyright: ignore[reportArgumentType]
    flops = segment_flops(MODEL, CODEC, SIZE_PX)
    return sum(workload.segment(flops, n) for n in range(TEACHER_SEGMENT + 1))


def whole_steps(work: Path, num_steps: int) -> dict[str, object]:
    """Seconds of the steps of a stage of `longtake train` and of a bare loop over the same clips."""
    recipe = build_recipe(
        {
            "description": "one rank of the small preset",
            "model": MODEL.model_dump(mode="json"),
            "train": {
                "engine": {"num_workers": 1, "zero_stage": 1},
                "teacher": {"steps": num_steps, "memory_dropout": 0.0},
                "checkpoint": {"every_steps": num_steps},
                "validation": {"every_steps": num_steps, "num_clips": 1, "max_segments": 1, "video": None},
            },
        }
    )
    dataset = make_dataset(work / "dataset", train=(3,) * 8, held_out=(3,), codec=CODEC, size_px=SIZE_PX)
    before = bare_steps(recipe, dataset, num_steps)
    train_stage(
        recipe, dataset_uris=[str(dataset)], run_dir=work / "run", stage="teacher", init=None, address=None,
        tracking=Tracking(uri=None, line=None),
    )  # fmt: skip
    rows = MetricsLog(work / "run" / "teacher" / "metrics.jsonl").read()
    ours = [rows[step + 1]["step_s"] for step in range(num_steps)]
    after = bare_steps(recipe, dataset, num_steps)
    pairs = list(zip(ours, before, after, strict=True))[SKIPPED_STEPS:]
    ratios = [mine / ((a + b) / 2) for mine, a, b in pairs]
    return {
        "whole_step_s": spread([mine for mine, _, _ in pairs]),
        "bare_step_s": spread([(a + b) / 2 for _, a, b in pairs]),
        "data_wait_share": median(rows[step + 1]["data_wait_share"] for step in range(SKIPPED_STEPS, num_steps)),
        "ours_over_bare": median(ratios),
    }


def bare_steps(recipe: Recipe, dataset: Path, num_steps: int) -> list[float]:
    """Seconds of each step; the clips are in memory before it."""
    trainer, read, data = Trainer(head_only=False), sample_reader(), open_data(current_versions([str(dataset)]))
    steps = teacher_steps(data.train, seed=recipe.train.seed, global_batch=1, memory_dropout=0.0, history_dropout=0.0)
    seconds = []
    for step in islice(steps, num_steps):
        (batch,) = step_batches(step, read, rank=0, num_ranks=1, device=torch.device("cpu"))
        task = replace(first_task(batch), segment_index=step.segment_index or 0)
        begun = time.perf_counter()
        teacher_forcing(trainer.model, task).loss.backward()
        trainer.update()
        seconds.append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60, help="of the stage that is held against a bare loop")
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = objectives(arguments.rounds) | whole_steps(Path(folder), arguments.steps)
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
