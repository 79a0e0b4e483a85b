"""Runs stages in a process of its own, for test_train_job.py to kill: python train_worker.py DATASET RUN STAGE..."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import build_recipe
from pipeline.jobs.cluster import ray_cluster
from pipeline.jobs.train import run_training
from tests.training.small_dataset import MODEL, train_config
from training.config import StageName
from training.types import StageSummary

STEPS = 12


def run(dataset: str, run_dir: Path, stage: StageName) -> tuple[StageSummary, dict[str, float]]:
    """The summary, and the loss of every step as the driver was told."""
    teacher = {**train_config().teacher.model_dump(mode="json"), "steps": STEPS}
    train = train_config(2, teacher=teacher).model_dump(mode="json")
    recipe = build_recipe({"description": "test", "model": MODEL.model_dump(mode="json"), "train": train})
    curves: dict[str, float] = {}
    summary = run_training(
        recipe,
        dataset_uris=[dataset],
        run_dir=run_dir,
        stage=stage,
        init=None,
        on_metrics=lambda new: curves.update({str(step): values["loss"] for step, values in new.items() if step}),
    )
    return summary, curves


def main(dataset: str, run_dir: Path, stages: Sequence[str]) -> None:
    with ray_cluster("local", num_cpus=2):
        for stage in stages:
            summary, losses = run(dataset, run_dir, "teacher" if stage == "teacher" else "direct")
            seen = {"weights": summary.weights_sha256, "losses": losses}
            (run_dir / f"{stage}-seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
