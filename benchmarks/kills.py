"""Kills at random moments of scan, plan and encode, each followed by the same command: ``python benchmarks/kills.py --json``.

Drivers, Ray workers and decoding children are killed with signal 9 while small rendered videos are preprocessed in waves of
three. Afterwards shards, indexes and manifest must be those of an undisturbed run to the byte, nothing may be quarantined, and
no process may be left. The same is asked of other numbers of workers, and of videos that are added later.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import psutil

from benchmarks.processes import wait_for
from benchmarks.runs import STARTS, Run, SharedRay, faults, shards_and_manifest, shared_ray, start
from preprocessing.rendering.demo_set import write_film
from preprocessing.rendering.edited import edited_films
from preprocessing.rendering.takes import takes

SETTINGS = (
    "--set",
    "encode.sizes_px=[[64, 64]]",
    "--set",
    "cluster.wave_sources=3",
    "--set",
    "plan.max_samples_per_shard=2",
)
TIMEOUT_S = 900.0
BROKEN = {"broken_empty.mp4": "undecodable", "broken_text.mkv": "undecodable"}
PHASES = ("scan", "plan", "encode")
TASKS, CHILD = ("scan_one", "_encode"), "child"
KILLS_PER_CHAIN = 5
"""Drivers killed one after the other on one dataset, before the command that ends it."""
WORKERS_PER_RUN, CHILDREN_PER_RUN = 4, 2
"""Three deaths of the child on one source are a quarantine by design: two cannot be."""
WORKER_COUNTS = (1, 4)
"""Tasks at once, beside the undisturbed run's: as many as there are CPUs."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """When the phases of an undisturbed run began, in seconds since its start."""

    scan_s: float
    plan_s: float
    encode_s: float
    end_s: float

    def length_s(self, phase: str) -> float:
        """How long a kill may wait after the first sign of a phase."""
        match phase:
            case "scan":
                return max(self.plan_s - self.scan_s, 1.0)
            case "plan":
                return 0.1
            case _:
                return max(self.end_s - self.encode_s, 1.0)


@dataclass(kw_only=True)
class Tally:
    """What came of one kind of trouble.

    Attributes:
        kills: How many happened, by phase or kind.
        runs: Commands that were started.
        faults: What was wrong afterwards.
    """

    kills: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    faults: list[str] = field(default_factory=list)

    def killed(self, kind: str) -> None:
        """Count one."""
        self.kills[kind] = self.kills.get(kind, 0) + 1

    def count(self, *kinds: str) -> int:
        """Kills of some kinds; of all for none."""
        return sum(number for kind, number in self.kills.items() if not kinds or kind in kinds)


class Bench:
    """Videos, an undisturbed run, and a folder for the disturbed ones."""

    def __init__(self, folder: Path, *, seed: int, between_runs: Callable[[], None], cluster: SharedRay | None) -> None:
        """Render the videos and preprocess them in peace."""
        self._folder, self._rng, self._between_runs, self._cluster = folder, Random(seed), between_runs, cluster
        self._count = 0
        self._killed: list[Run] = []
        self.videos = folder / "videos"
        render(self.videos)
        self.expected_at = self.new_dataset()
        self.clock = self._undisturbed(self.expected_at)
        self.expected = shards_and_manifest(self.expected_at)
        self.faults = self.check(self.expected_at)

    def new_dataset(self) -> Path:
        """A place for one."""
        self._count += 1
        return self._folder / f"dataset-{self._count}"

    def start(self, dataset: Path, *settings: str, inputs: Path | None = None) -> Run:
        """The command."""
        words = ("preprocess", str(inputs or self.videos), "--dataset", str(dataset), *SETTINGS, *settings)
        for _ in range(STARTS):
            self._between_runs()
            run = start(
                *words,
                "--tracking-uri",
                "none",
                "--json",
                log=self._folder / f"{dataset.name}.log",
                cluster=self._cluster,
            )
            wait_for(_any(lambda run=run: run.workers("_"), run.ended), TIMEOUT_S)
            if run.process.poll() != 1 or "timed out during startup" not in run.log.read_text()[-500:]:
                return run
        raise RuntimeError(f"Ray did not start {STARTS} times; see {self._folder / dataset.name}.log")

    def check(self, dataset: Path) -> list[str]:
        """What is wrong with a finished dataset, which goes if nothing is."""
        found = [f"{dataset.name}: {fault}" for fault in faults(dataset, self.expected, BROKEN)]
        if not found and dataset != self.expected_at:
            shutil.rmtree(dataset)
        return found

    def finish(self, run: Run, dataset: Path, tally: Tally) -> None:
        """Let a run end, and look at what it left."""
        run.finish(TIMEOUT_S)
        tally.faults += [f"{dataset.name}: left: {title}" for title in run.left()]
        tally.faults += self.check(dataset)

    def _undisturbed(self, dataset: Path) -> Clock:
        since_s, run, seen = time.monotonic(), self.start(dataset), {}
        for phase in PHASES:
            wait_for(_any(_sign(run, dataset, phase), run.ended), TIMEOUT_S)
            seen[f"{phase}_s"] = time.monotonic() - since_s
        run.finish(TIMEOUT_S)
        return Clock(**seen, end_s=time.monotonic() - since_s)

    def kill_drivers(self, kills: int) -> Tally:
        """Chains of kills, each at a random moment of a random phase; the last command of a chain is left alone."""
        tally = Tally()
        while tally.count() < kills:
            dataset = self.new_dataset()
            drawn = min(KILLS_PER_CHAIN, kills - tally.count())
            for phase in sorted((PHASES[(tally.count() + k) % 3] for k in range(drawn)), key=PHASES.index):
                self._kill_driver(dataset, phase, tally)
            tally.runs += 1
            self.finish(self.start(dataset), dataset, tally)
            _say(f"{tally.count()} of {kills} drivers, {len(tally.faults)} faults")
        tally.faults += [f"left after all: {title}" for run in self._killed for title in run.left_agents()]
        return tally

    def _kill_driver(self, dataset: Path, phase: str, tally: Tally) -> None:
        tally.runs += 1
        run = self.start(dataset)
        reached = wait_for(_any(_sign(run, dataset, phase), run.ended), TIMEOUT_S, every_s=0.005)
        time.sleep(self._rng.uniform(0, self.clock.length_s(phase)))
        if reached and run.process.poll() is None:
            tally.killed(phase)
        run.kill()
        tally.faults += [f"{dataset.name}: left after {phase}: {title}" for title in run.left()]
        self._killed.append(run)

    def kill_inside(self, workers: int, children: int) -> Tally:
        """Ray workers that scan or encode, and decoding children; the run goes on by itself."""
        tally = Tally()
        while (left := (workers - tally.count(*TASKS), children - tally.count(CHILD))) != (0, 0):
            dataset, kinds = (
                self.new_dataset(),
                [True] * min(left[0], WORKERS_PER_RUN) + [False] * min(left[1], CHILDREN_PER_RUN),
            )
            self._rng.shuffle(kinds)
            tally.runs += 1
            run = self.start(dataset)
            for of_worker in kinds:
                self._kill_one(run, of_worker, tally)
            self.finish(run, dataset, tally)
            _say(f"{tally.kills} of {workers} workers and {children} children, {len(tally.faults)} faults")
        return tally

    def _kill_one(self, run: Run, of_worker: bool, tally: Tally) -> None:
        """At a random moment, one that is at work then."""

        def victims() -> Sequence[psutil.Process]:
            return run.workers(*TASKS) if of_worker else run.children()

        wait_for(_any(victims, run.ended), TIMEOUT_S)
        time.sleep(self._rng.uniform(0.2, 3.0))
        wait_for(_any(victims, run.ended), TIMEOUT_S)
        found = victims()
        if not found:
            return
        victim = self._rng.choice(found)
        task = " ".join(victim.cmdline()).removeprefix("ray::").partition("(")[0].strip() if of_worker else CHILD
        victim.kill()
        tally.killed(task)

    def other_worker_counts(self) -> Tally:
        """One task and four tasks at once."""
        tally = Tally()
        for count in WORKER_COUNTS:
            dataset = self.new_dataset()
            tally.runs += 1
            settings = (f"cluster.max_tasks={count}", f"cluster.cpus_per_task={min(1.0, 2 / count)}")
            self.finish(self.start(dataset, *(word for s in settings for word in ("--set", s))), dataset, tally)
        return tally

    def videos_added_later(self) -> Tally:
        """A first folder, then a second one: the shards of the first keep bytes and times."""
        tally, dataset, folders = Tally(), self.new_dataset(), (self._folder / "a", self._folder / "b")
        for k, (_, files) in enumerate(groupby(sorted(self.videos.iterdir()), key=lambda path: path.stem)):
            folders[k % 2].mkdir(exist_ok=True)
            for path in files:  # a video, and its caption
                shutil.copy(path, folders[k % 2])
        before: dict[Path, tuple[int, bytes]] = {}
        for folder in folders:
            tally.runs += 1
            self.start(dataset, inputs=folder).finish(TIMEOUT_S)
            after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (dataset / "shards").rglob("*") if p.is_file()}
            tally.faults += [f"{path} was touched" for path, state in before.items() if after.get(path) != state]
            tally.faults += [] if len(after) > len(before) else [f"{folder.name} added no shards"]
            before = after
        return tally


def render(folder: Path) -> None:
    """Eight takes, two films with transitions, two files that are no videos."""
    folder.mkdir(parents=True, exist_ok=True)
    for film in (*takes()[:8], *edited_films()[:2]):
        write_film(film, folder, seed=1)
    (folder / "broken_empty.mp4").write_bytes(b"")
    (folder / "broken_text.mkv").write_text("not a video")


def _sign(run: Run, dataset: Path, phase: str) -> Callable[[], object]:
    """What tells that a phase has begun in this run."""
    match phase:
        case "scan":
            return lambda: run.workers("scan_one")
        case "plan":
            before = len(list(dataset.glob("ledger/clips-*")))
            return lambda: len(list(dataset.glob("ledger/clips-*"))) > before
        case _:
            return lambda: run.workers("_encode")


def _any(*conditions: Callable[[], object]) -> Callable[[], bool]:
    return lambda: any(condition() for condition in conditions)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--drivers", type=int, default=20, help="drivers to kill")
    parser.add_argument("--workers", type=int, default=20, help="Ray workers to kill")
    parser.add_argument("--children", type=int, default=10, help="decoding children to kill")
    parser.add_argument("--seed", type=int, default=1, help="draws the moments")
    parser.add_argument("--folder", type=Path, help="where to work; default: a new temporary folder")
    parser.add_argument("--nice", type=int, default=0, help="yield to others, once a shared Ray is up")
    parser.add_argument("--wait-for", type=Path, help="start no run while this file exists")
    parser.add_argument(
        "--shared-ray", action="store_true", help="one Ray for all runs, instead of one of its own for each"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def main() -> None:
    """Run all, print the table, exit 1 if anything was wrong."""
    options = _parser().parse_args()
    folder = options.folder or Path(mkdtemp(prefix="longtake-kills-"))

    def hold_on() -> None:
        while options.wait_for and options.wait_for.exists():
            time.sleep(2)

    with shared_ray(options.shared_ray, nice=options.nice) as cluster:
        run(Bench(folder, seed=options.seed, between_runs=hold_on, cluster=cluster), options)


def run(bench: Bench, options: argparse.Namespace) -> None:
    """All kinds of trouble, then the table; exit status 1 if anything was wrong."""
    _say(f"undisturbed: {asdict(bench.clock)}")
    tallies = {
        "drivers": bench.kill_drivers(options.drivers),
        "workers and children": bench.kill_inside(options.workers, options.children),
        "1 and 4 at once": bench.other_worker_counts(),
        "added later": bench.videos_added_later(),
    }
    wrong = [*bench.faults, *(fault for tally in tallies.values() for fault in tally.faults)]
    if options.json:
        print(json.dumps({name: asdict(tally) for name, tally in tallies.items()} | {"faults": wrong}, indent=1))
    else:
        print(
            "\n".join(
                [
                    f"{name:<20} {t.count():>3} kills {t.kills} in {t.runs} runs, {len(t.faults)} faults"
                    for name, t in tallies.items()
                ]
            )
        )
        print("\n".join(wrong) or "bytes and manifest equal, nothing quarantined, nothing left")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
