"""The paper's Tables 2 and 3 in small: what memory and Direct Forcing do to drift, on rendered scenes.

    python -m benchmarks.toy_study [--out study.jsonl] [--seeds 3] [--minutes 90]
    python -m benchmarks.toy_study --out study.jsonl --report docs/study.md

The rows are the recipes `table2_*_small` and `table3_*_small`, and Direct Forcing with one thing changed each. A row is
one model of one seed: it is trained as `longtake train` would, by the same code in one process and without a cluster,
continues held-out start frames, and is scored as `longtake evaluate` would. All rows of a seed see the same clips in
the same order, and their videos begin from the same frames, prompts and noise. Rows of a stage have equal numbers of
steps, as in the paper; their seconds stand beside.

`--minutes` is for all rows of a seed on one core, about: at 90 a recipe trains the steps that it names, else as large a
share of them. A second run goes on with the rows that are missing; each is there whole or not at all.
"""

import argparse
import logging
import time
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.study_report import write_report
from benchmarks.study_rows import (
    DATA,
    FULL_MINUTES,
    TEACHER,
    VARIANTS,
    Budget,
    Point,
    Row,
    Training,
    Variant,
    append_row,
    budget_of,
    read_rows,
    recipe_of,
    refuse_other_budget,
)
from benchmarks.study_scenes import CODEC, FORM, SIZES_PX, TRAIN_CLIPS, TRAIN_SEGMENTS, ClipSet, clip_set
from benchmarks.study_strips import strip_path, write_strip
from benchmarks.study_videos import CURVES, continue_clips, decode, figures_of
from evaluation.metrics.exposure import CONTRAST
from pipeline.config import Recipe
from preprocessing.members import from_bfloat16
from preprocessing.rendering.scenes import Frames
from preprocessing.samples import clip_num_latents
from training.batches import clip_batch, step_batches
from training.checkpoint import start_weights
from training.config import GenerateConfig
from training.engine.base import freeze_all_but_head
from training.engine.plain import PlainEngine
from training.loop import LoopCallbacks, train, validate
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.weights import export_diffusers
from training.objectives.base import ObjectiveModule
from training.stage import StageJob, global_steps, stage_settings
from training.types import SegmentBatch

CPU = torch.device("cpu")

STRETCHES = 3
"""Of a stage whose drift is followed."""

QUIET = LoopCallbacks(
    report=lambda _step, _metrics: None,
    validate=dict,
    before=dict,
    measure=lambda _step, _waited_s, _computed_s: {},
    updated=lambda _step: None,
    make_video=lambda _step: None,
    save=lambda _step, _metrics: None,
)
"""A study has nothing to log, and begins a row again that was killed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class World:
    """The clips of a seed."""

    train: ClipSet
    held_out: ClipSet

    def held_out_batch(self, num_segments: int, positions: range) -> SegmentBatch:
        """Some of the held-out clips, each at its own position in any batch."""
        samples = list(self.held_out.samples.values())
        return clip_batch([samples[i] for i in positions], positions, num_segments=num_segments, device=CPU)


def world_of(seed: int, budget: Budget) -> World:
    """The clips of a seed; held-out ones are as long as what is generated."""
    return World(
        train=clip_set("train", seed, num_clips=TRAIN_CLIPS, num_segments=TRAIN_SEGMENTS),
        held_out=clip_set(
            "held-out", seed, num_clips=budget.num_clips, num_segments=max(TRAIN_SEGMENTS, budget.num_segments)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Study:
    """One seed of the study.

    Attributes:
        out: The file of rows; the teacher's weights and the strips lie beside it.
    """

    seed: int
    budget: Budget
    world: World
    out: Path

    def measure(self, variant: Variant) -> Row:
        """Train a variant, let it continue the held-out start frames, and score its videos."""
        recipe = recipe_of(variant, self.budget, self.seed)
        job = self._job(variant, recipe)
        model = start_weights(job.model, CODEC.record, init=job.init, seed=self.seed)
        if job.trains_head_only:
            freeze_all_but_head(model)
        training = self._train(variant, job, model, recipe.generate)
        if variant.name == TEACHER:
            export_diffusers(
                model, self._teacher, config=job.model, codec=CODEC.record, fps=FORM.fps, sizes_px=SIZES_PX
            )
        return self._row(variant.name, self._continue(job, model, recipe.generate), training)

    def measure_data(self) -> Row:
        """The held-out clips themselves, through the codec."""
        num_latents = clip_num_latents(self.budget.num_segments)
        clips = [from_bfloat16(sample.latents_CTHW) for sample in self.world.held_out.samples.values()]
        return self._row(DATA, [decode(latents_CTHW[:, :num_latents]) for latents_CTHW in clips], None)

    @property
    def _teacher(self) -> Path:
        return self.out.with_name(f"{self.out.stem}-teachers") / f"seed{self.seed}"

    def _job(self, variant: Variant, recipe: Recipe) -> StageJob:
        """The stage as `longtake train` has it, but for the shards and the folder, which there are none of."""
        init = self._teacher if variant.from_teacher else None
        return StageJob(
            stage=variant.stage, model=recipe.model, train=recipe.train, datasets=(), init=init, folder=self._teacher
        )

    def _train(
        self, variant: Variant, job: StageJob, model: MemoryPackTransformer3DModel, generate: GenerateConfig
    ) -> Training:
        engine = PlainEngine(ObjectiveModule(model), job.settings.optimizer)
        settings = stage_settings(job)
        work = (
            (step, step_batches(step, self.world.train.read, rank=0, num_ranks=1, device=CPU))
            for step in global_steps(job, self.world.train.rows)
        )
        points: list[Point] = []
        seconds = 0.0
        for start, end in stretches(settings.num_steps, STRETCHES if variant.follows else 1):
            begun = time.process_time()
            train(engine, settings, islice(work, end - start), QUIET)
            seconds += time.process_time() - begun
            if end < settings.num_steps:
                drifts = figures_of(self._continue(job, model, generate), CURVES).drifts
                points.append(Point(steps=end, seconds=seconds, drifts=drifts))
        losses = validate(engine, settings, self.budget.num_clips, self._held_out_clip)
        return Training(
            steps=settings.num_steps,
            seconds=seconds,
            val_loss=losses["val_loss"],
            val_loss_direct=losses["val_loss_direct"],
            points=points,
        )

    def _held_out_clip(self, i: int) -> SegmentBatch:
        return self.world.held_out_batch(TRAIN_SEGMENTS, range(i, i + 1))

    def _continue(self, job: StageJob, model: MemoryPackTransformer3DModel, generate: GenerateConfig) -> list[Frames]:
        clips = self.world.held_out_batch(1, range(self.budget.num_clips))
        return continue_clips(
            model, clips, num_segments=self.budget.num_segments, settings=generate, rope_mode=job.model.rope_mode
        )

    def _row(self, name: str, videos: list[Frames], training: Training | None) -> Row:
        write_strip(strip_path(self.out, self.seed, name), videos[0])
        return Row(
            variant=name,
            seed=self.seed,
            minutes=self.budget.minutes,
            num_segments=self.budget.num_segments,
            training=training,
            figures=figures_of(videos),
        )


def stretches(num_steps: int, count: int) -> list[tuple[int, int]]:
    """The steps cut into about equal ranges, half-open; fewer where there are fewer steps."""
    bounds = sorted({round(num_steps * i / count) for i in range(count + 1)})
    return list(pairwise(bounds))


def measure_missing(out: Path, num_seeds: int, budget: Budget) -> None:
    """Fill the file with what it lacks, seed by seed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    refuse_other_budget(out, read_rows(out), budget)
    for seed in range(num_seeds):
        there = {row.variant for row in read_rows(out) if row.seed == seed}
        if there.issuperset({DATA, *(variant.name for variant in VARIANTS)}):
            continue
        study = Study(seed=seed, budget=budget, world=world_of(seed, budget), out=out)
        if DATA not in there:
            append_row(out, study.measure_data())
        for variant in VARIANTS:
            if variant.name not in there:
                row = study.measure(variant)
                append_row(out, row)
                logger.info("%s", row_line(row))


def row_line(row: Row) -> str:
    """A row as it comes."""
    contrast = [drift for drift in row.figures.drifts[CONTRAST.name] if drift is not None]
    assert row.training is not None
    return (
        f"seed {row.seed}, {row.variant}: {row.training.steps} steps in {row.training.seconds:.0f} s,"
        f" held-out loss {row.training.val_loss:.3f}, drift of contrast {np.mean(contrast):.4f}"
    )


def main() -> None:
    """Measure what is missing, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study.jsonl"), help="rows; a second run goes on with it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES, help="of one core, for all rows of a seed")
    parser.add_argument(
        "--report", type=Path, metavar="MD", help="measure nothing; put the rows' tables and curves into this page"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if arguments.report:
        write_report(arguments.out, arguments.report)
    else:
        measure_missing(arguments.out, arguments.seeds, budget_of(arguments.minutes))


if __name__ == "__main__":
    main()
