"""Whether the memory brings back what went out of sight: SemanticPack against no memory (the paper's Fig. 5 in small).

    python -m benchmarks.recall [--out recall.jsonl] [--variants none A zero B C] [--seeds 3] [--steps 1800] [--json]

In the clips of `recall_scenes.py` something is seen early, is in no frame that FramePack's history still holds, and
comes back in the last segment. A tiny model of each variant and seed learns that segment by teacher forcing, every
step on new clips, psi with gradient through all its updates. Then it makes the segment, after its true past, of clips
that it never saw. The error is the mean squared distance of what came back to what it was, in units of the colours'
variance: 0 is perfect recall, 1 the mean of all colours, 2 a colour by chance. `elsewhere` is that of the rest of the
picture, which needs no memory.

A variant is compared with `none` clip by clip, with the same noise: the share of the error that it removes, for each
seed, and over all with a 95 % bootstrap interval over the held-out clips. Recall is shown where every seed has less
error and the interval excludes zero.

A row of the file is one trained model; a second run goes on with the rows that are missing.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor

from benchmarks.recall_scenes import CODEC, RETURN_SEGMENT, SCENES, Scene, SceneBatch, scene_batch
from training.config import FlowConfig, MemoryConfig, ModelConfig, OptimizerConfig
from training.engine.base import learning_rates_at
from training.engine.plain import PlainEngine
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.objectives.base import ObjectiveModule, SegmentTask, segment_of
from training.objectives.teacher_forcing import teacher_forcing, true_context
from training.order import keyed_normals
from training.sampling import sample_segment, schedule
from training.types import RandomKey, SegmentBatch

MEMORY = MemoryConfig(width=64, num_heads=2)
NO_MEMORY = "none"
VARIANTS: Mapping[str, MemoryConfig] = {
    NO_MEMORY: MemoryConfig(enabled=False),
    "A": MEMORY,
    "zero": MEMORY.model_copy(update={"init": "zero"}),
    "B": MEMORY.model_copy(update={"structure": "B"}),
    "C": MEMORY.model_copy(update={"structure": "C"}),
}
"""F1 alone; MemoryPack; zero-MemoryPack; the other structures (paper, Table 2)."""

OPTIMIZER = OptimizerConfig(learning_rate=2e-3, warmup_steps=100, decay="cosine")
FLOW = FlowConfig(shift=7.0)
GLOBAL_BATCH = 16
INFERENCE_STEPS = 10
HELD_OUT_CLIPS = 128
CONFIDENCE = 0.95

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trained model and its errors on the held-out clips.

    Attributes:
        steps: Optimizer steps.
        loss: Mean over the last tenth of the steps.
        seconds: Of training.
        returns: By scene, the error of what comes back in each clip.
        elsewhere: By scene, the error of the rest of the picture.
    """

    variant: str
    seed: int
    steps: int
    loss: float
    seconds: float
    returns: Mapping[Scene, Sequence[float]]
    elsewhere: Mapping[Scene, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant against no memory in one scene.

    Attributes:
        removed: Share of the error that is gone, over all seeds; negative where there is more.
        low: Of its interval over clips.
        high: Of its interval over clips.
        by_seed: The same share of each seed.
    """

    variant: str
    scene: Scene
    removed: float
    low: float
    high: float
    by_seed: Sequence[float]

    @property
    def verdict(self) -> str:
        """Recall is shown, or what speaks against it."""
        if all(share > 0 for share in self.by_seed):
            return "recall" if self.low > 0 else "not shown: the interval includes zero"
        return "not shown: a seed without less error"


def task_of(batch: SegmentBatch, key: RandomKey) -> SegmentTask:
    """The segment of the return."""
    return SegmentTask(
        batch=batch,
        segment_index=RETURN_SEGMENT,
        context=None,
        use_memory=True,
        use_history=True,
        key=key,
        flow=FLOW,
        rope_mode="relative_start",
    )


def train(model: MemoryPackTransformer3DModel, *, name: str, seed: int, steps: int) -> float:
    """Teach the model the segment of the return; the mean loss of the last tenth of the steps."""
    engine = PlainEngine(ObjectiveModule(model), OPTIMIZER)
    losses: list[float] = []
    for step in range(steps):
        batch = scene_batch(GLOBAL_BATCH, "train", seed, step).clips
        key = RandomKey(seed=seed, stage="recall", step=step)
        with engine.accumulate((1,)):
            output = engine.forward(teacher_forcing, task_of(batch, key))
            engine.backward(output.loss)
        engine.step(learning_rates_at(step, steps, OPTIMIZER, memory_warmup_steps=0))
        losses.append(output.loss.item())
        if (step + 1) % 100 == 0:
            logger.info("%s, seed %d, step %d of %d: loss %.3f", name, seed, step + 1, steps, mean(losses[-100:]))
    return mean(losses[-max(1, steps // 10) :])


def squared_errors(model: MemoryPackTransformer3DModel, batch: SegmentBatch) -> Tensor:
    """Of the returning segment as the model makes it after the true past, mean over channels, (B, T, H, W)."""
    data = segment_of(batch.latents_BCTHW, RETURN_SEGMENT)
    key = RandomKey(seed=0, stage="held out", step=0)
    made = sample_segment(
        model,
        true_context(model, batch, RETURN_SEGMENT, grad_steps=0),
        batch.condition,
        noise=keyed_normals(key, positions=batch.positions, segment=RETURN_SEGMENT, shape=data[0].shape),
        times=schedule(INFERENCE_STEPS, FLOW.shift),
        guidance_scale=FLOW.guidance_scale,
        rope_mode="relative_start",
    )
    return (made - data).square().mean(dim=1)


def errors_where(squared_BTHW: Tensor, where_BTHW: Tensor) -> dict[Scene, list[float]]:
    """The mean of each clip where it is asked for, by scene: scenes take turns in a batch."""
    sums = (squared_BTHW * where_BTHW).sum(dim=(1, 2, 3)) / where_BTHW.sum(dim=(1, 2, 3))
    return {scene: sums[i :: len(SCENES)].tolist() for i, scene in enumerate(SCENES)}


def measure(variant: str, seed: int, steps: int, held_out: SceneBatch) -> Row:
    """Train a model and let it bring back what it saw."""
    config = ModelConfig(preset="tiny", memory=VARIANTS[variant])
    model = build_model(config, CODEC, device="cpu", seed=seed)
    begun = time.perf_counter()
    loss = train(model, name=variant, seed=seed, steps=steps)
    seconds = time.perf_counter() - begun
    squared = squared_errors(model, held_out.clips)
    return Row(
        variant=variant,
        seed=seed,
        steps=steps,
        loss=loss,
        seconds=seconds,
        returns=errors_where(squared, held_out.returns_BTHW),
        elsewhere=errors_where(squared, ~held_out.returns_BTHW),
    )


def read_rows(path: Path, steps: int) -> list[Row]:
    """The models that are already measured.

    Raises:
        ValueError: If one of them was trained for another number of steps.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    for row in rows:
        if row.steps != steps:
            raise ValueError(f"{path} holds models of {row.steps} steps, not of {steps}: give another --out")
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """There whole or as it was."""
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def measure_missing(path: Path, variants: Sequence[str], num_seeds: int, steps: int) -> list[Row]:
    """All rows of the file after those that are missing have joined it, seed by seed."""
    rows = read_rows(path, steps)
    held_out = scene_batch(HELD_OUT_CLIPS, "held out")
    for seed in range(num_seeds):
        for variant in variants:
            if any((row.variant, row.seed) == (variant, seed) for row in rows):
                continue
            rows.append(measure(variant, seed, steps, held_out))
            write_rows(path, rows)
    return rows


def share_removed(none: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    """The share of the error without memory that is gone."""
    return 1 - other.mean(axis=axis) / none.mean(axis=axis)


def compare(rows: Sequence[Row], variant: str, scene: Scene) -> Comparison:
    """A variant against no memory, over the seeds that both have."""
    errors = {(row.variant, row.seed): np.asarray(row.returns[scene]) for row in rows}
    seeds = sorted(seed for name, seed in errors if name == variant and (NO_MEMORY, seed) in errors)
    none, other = (np.stack([errors[name, seed] for seed in seeds]) for name in (NO_MEMORY, variant))
    # a clip is the same in all seeds: what is drawn again is the clip, with all its errors
    clips = (none.mean(axis=0), other.mean(axis=0))
    rng = np.random.default_rng(0)
    interval = bootstrap(clips, share_removed, paired=True, confidence_level=CONFIDENCE, rng=rng).confidence_interval
    return Comparison(
        variant=variant,
        scene=scene,
        removed=float(share_removed(*clips)),
        low=float(interval.low),
        high=float(interval.high),
        by_seed=share_removed(none, other).tolist(),
    )


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """Every variant that was measured beside no memory, in every scene."""
    seeds = {name: {row.seed for row in rows if row.variant == name} for name in VARIANTS}
    names = [name for name in VARIANTS if name != NO_MEMORY and seeds[name] & seeds[NO_MEMORY]]
    return [compare(rows, name, scene) for name in names for scene in SCENES]


def row_figures(row: Row) -> dict[str, object]:
    """A row with means in place of the errors of every clip."""
    means = {
        name: {scene: mean(errors) for scene, errors in getattr(row, name).items()} for name in ("returns", "elsewhere")
    }
    return {"variant": row.variant, "seed": row.seed, "loss": row.loss, "seconds": row.seconds, **means}


def report(rows: Sequence[Row]) -> dict[str, object]:
    """All figures as plain values."""
    found = [{**asdict(each), "verdict": each.verdict} for each in comparisons(rows)]
    return {"rows": [row_figures(row) for row in rows], "comparisons": found}


def print_report(rows: Sequence[Row]) -> None:
    """A line for each model and scene, then one for each comparison."""
    for row in sorted(rows, key=lambda row: (list(VARIANTS).index(row.variant), row.seed)):
        for scene in SCENES:
            returns, elsewhere = mean(row.returns[scene]), mean(row.elsewhere[scene])
            print(
                f"{row.variant:5} seed {row.seed} {scene:7} error of what returns {returns:.3f}, elsewhere {elsewhere:.3f}"
            )
    for each in comparisons(rows):
        seeds = " ".join(f"{share:+.1%}" for share in each.by_seed)
        print(
            f"{each.variant:5} against none, {each.scene:7} removes {each.removed:.1%} [{each.low:.1%}, {each.high:.1%}]"
            f" of the error; by seed {seeds}: {each.verdict}"
        )


def main() -> None:
    """Measure what is missing and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("recall.jsonl"), help="rows; a second run goes on with it")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    rows = measure_missing(arguments.out, arguments.variants, arguments.seeds, arguments.steps)
    if arguments.json:
        sys.stdout.write(json.dumps(report(rows)) + "\n")
    else:
        print_report(rows)


if __name__ == "__main__":
    main()
