"""A worker killed between two checkpoints, for each ZeRO stage and each stage of training: ``python benchmarks/resume.py --json``.

Ten steps in one go, and ten of which the run has four behind it in a checkpoint when a worker is killed with signal 9. Ray
starts the workers again by itself; afterwards the weights must be those of the run in one go to the byte, so must every loss,
and MLflow must have every step once. Then the same ten steps by two workers, one, and two again, after a kill of the whole
run each time: the losses must agree to 1e-5.
"""

import argparse
import json
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp

import psutil

from benchmarks.processes import wait_for
from benchmarks.runs import Run, start
from tests.training.small_dataset import make_dataset
from training.checkpoint_files import complete_steps
from training.metrics_log import MetricsLog

STEPS, SAVE_EVERY = 10, 4
TIMEOUT_S = 600.0
LOSS_TOLERANCE = 1e-5
ZERO_STAGES = (1, 2, 3)
WORKER = "RayTrainWorker"
"""In the title of each of Ray Train's workers."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What came of a worker's death.

    Attributes:
        killed_after: Steps that the run had behind it in a checkpoint.
        equal_files: Whether all weight files of the two models have the same bytes.
        equal_losses: Whether all losses are the same numbers.
        steps_twice: Metrics in MLflow that have a step more than once.
    """

    zero_stage: int
    stage: str
    killed_after: int
    equal_files: bool
    equal_losses: bool
    steps_twice: int

    @property
    def holds(self) -> bool:
        """Whether nothing was lost or done twice."""
        return self.equal_files and self.equal_losses and self.steps_twice == 0 and self.killed_after < STEPS


@dataclass(frozen=True, kw_only=True)
class Regrouping:
    """What came of two workers, then one, then two.

    Attributes:
        loss_error: Largest difference of a loss to the run in one go, as a share of it.
    """

    zero_stage: int
    stage: str
    loss_error: float

    @property
    def holds(self) -> bool:
        """Whether it is no more than the order of additions makes."""
        return self.loss_error < LOSS_TOLERANCE


def train(dataset: Path, run: Path, stage: str, zero_stage: int, init: Path | None, num_workers: int = 2) -> Run:
    """One stage."""
    run.mkdir(parents=True, exist_ok=True)
    order = "train.teacher.memory_dropout=0.3" if stage == "teacher" else "train.direct.curriculum=[1, 2]"
    settings = [
        "model.preset=tiny", "model.memory.width=24", "model.memory.num_heads=2", f"train.engine.zero_stage={zero_stage}",
        "train.validation.video=null",
        f"train.{stage}.steps={STEPS}", f"train.{stage}.global_batch=2", f"train.checkpoint.every_steps={SAVE_EVERY}",
        f"train.engine.num_workers={num_workers}", "train.engine.cpus_per_worker=0.5", order,
    ]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    begun = ["--init", str(init)] if init else []
    return start(
        "train", "--recipe", "embedded", "--dataset", str(dataset), "--run", str(run), "--stage", stage, "--json",
        *begun, *words, log=run / "log",
    )  # fmt: skip


def wait_for_checkpoint(run: Run, checkpoints: Path, *, after: int) -> int:
    """Steps behind the run when it has a checkpoint after this step.

    Raises:
        RuntimeError: If it ended before.
    """
    if (
        not wait_for(lambda: max(complete_steps(checkpoints), default=0) > after or run.ended(), TIMEOUT_S)
        or run.ended()
    ):
        raise RuntimeError(f"the run ended before it was killed: {run.log.read_text()[-2000:]}")
    return max(complete_steps(checkpoints))


def kill_a_worker(run: Run) -> None:
    """One of Ray Train's; the others are left waiting."""
    next(process for process in run.family.living() if is_worker(process)).kill()


def is_worker(process: psutil.Process) -> bool:
    """Whether it is one of Ray Train's."""
    try:
        return WORKER in " ".join(process.cmdline())
    except psutil.Error:
        return False


def whole(work: Path, dataset: Path, stage: str, zero_stage: int) -> tuple[Path, Path | None]:
    """The run in one go, and the model that its stage began from; trained where it has not been."""
    run = work / f"whole-{zero_stage}"
    init = run / "teacher" / "model" if stage == "direct" else None
    train(dataset, run, stage, zero_stage, init).finish(TIMEOUT_S)
    return run / stage, init


def kill(work: Path, dataset: Path, stage: str, zero_stage: int) -> Kill:
    """A run one of whose workers is killed, against the one in one go."""
    undisturbed, init = whole(work, dataset, stage, zero_stage)
    disturbed = work / f"killed-{zero_stage}"
    run = train(dataset, disturbed, stage, zero_stage, init)
    done = wait_for_checkpoint(run, disturbed / stage / "checkpoints", after=0)
    kill_a_worker(run)
    run.finish(TIMEOUT_S)
    return Kill(
        zero_stage=zero_stage,
        stage=stage,
        killed_after=done,
        equal_files=weight_files(undisturbed / "model") == weight_files(disturbed / stage / "model"),
        equal_losses=losses(undisturbed) == losses(disturbed / stage),
        steps_twice=steps_twice(work / "mlflow.db"),
    )


def regroup(work: Path, dataset: Path, stage: str, zero_stage: int) -> Regrouping:
    """Two workers to the first checkpoint, one to the second, two to the end, against two all the way."""
    undisturbed, init = whole(work, dataset, stage, zero_stage)
    regrouped, done = work / f"regrouped-{zero_stage}", 0
    for num_workers in (2, 1):
        run = train(dataset, regrouped, stage, zero_stage, init, num_workers)
        done = wait_for_checkpoint(run, regrouped / stage / "checkpoints", after=done)
        run.kill()
        run.left()
    train(dataset, regrouped, stage, zero_stage, init).finish(TIMEOUT_S)
    pairs = zip(losses(regrouped / stage), losses(undisturbed), strict=True)
    error = max(abs(ours - theirs) / theirs for (_, ours), (_, theirs) in pairs)
    return Regrouping(zero_stage=zero_stage, stage=stage, loss_error=error)


def weight_files(model: Path) -> dict[str, bytes]:
    """The weights of a model folder as they lie on disk."""
    return {path.name: path.read_bytes() for path in sorted(model.glob("*.safetensors"))}


def losses(stage: Path) -> list[tuple[int, float]]:
    """Every logged loss."""
    return [(step, values["loss"]) for step, values in MetricsLog(stage / "metrics.jsonl").read().items() if step]


def steps_twice(database: Path) -> int:
    """Steps that some metric of some MLflow run has more than once."""
    query = "select count(*) from (select 1 from metrics group by run_uuid, key, step having count(*) > 1)"
    with sqlite3.connect(database) as connection:
        ((count,),) = connection.execute(query).fetchall()
    return count


def main(arguments: Sequence[str]) -> int:
    """Prints a row for each combination; 1 if one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--zero-stages", type=int, nargs="+", choices=ZERO_STAGES, default=ZERO_STAGES)
    options = parser.parse_args(arguments)
    work = Path(mkdtemp(prefix="longtake-resume-"))
    dataset = make_dataset(work / "dataset")
    rows: list[Kill | Regrouping] = []
    for zero_stage in options.zero_stages:
        for stage in ("teacher", "direct"):
            for measure in (kill, regroup):
                rows.append(measure(work, dataset, stage, zero_stage))
                print(rows[-1], file=sys.stderr)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "holds": all(row.holds for row in rows)}))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
