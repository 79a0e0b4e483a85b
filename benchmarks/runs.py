"""Runs of the command line, watched: what they said, how they ended, and what they left."""

import hashlib
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from benchmarks.processes import Family, wait_for
from preprocessing.dataset import Dataset
from preprocessing.verify import verify

COMMAND = (sys.executable, "-c", "from pipeline.cli import main; main()")

STARTS = 5
"""How often a Ray that did not start in its 30 s is started again: on a busy machine it gives up."""

GONE_AFTER_S = 20.0
"""What a killed run left must be gone by then: Ray's processes notice the death of the one above within seconds."""

AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
AGENTS_GONE_AFTER_S = 90.0
"""But for its agents: where a driver was killed, they try to tell its dead GCS for the 60 s that Ray has set, and use no CPU."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command that was started."""

    process: "subprocess.Popen[str]"
    family: Family
    log: Path
    cluster: "SharedRay | None" = None

    def finish(self, timeout_s: float) -> dict:
        """What a ``--json`` command says.

        Raises:
            RuntimeError: If it failed.
        """
        said, _ = self.process.communicate(timeout=timeout_s)
        if self.process.returncode:
            raise RuntimeError(f"exit status {self.process.returncode}: {self.log.read_text()[-2000:]}")
        return json.loads(said)

    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill -9 of the first process alone."""
        self.process.kill()
        self.process.communicate()

    def workers(self, *names: str) -> tuple[psutil.Process, ...]:
        """Ray workers that are at work on tasks of these names."""
        return tuple(process for family in self._families() for process in family.workers(*names))

    def children(self) -> tuple[psutil.Process, ...]:
        """Decoding children."""
        return tuple(process for family in self._families() for process in family.children())

    def _families(self) -> tuple[Family, ...]:
        return (self.family,) if self.cluster is None else (self.family, self.cluster.family)

    def left(self) -> list[str]:
        """Titles of processes that should be gone, after a while; they are killed then. Agents have longer: `left_agents`."""
        return _kill_what_is_left(self._remains, GONE_AFTER_S)

    def left_agents(self) -> list[str]:
        """Titles of Ray's agents that should be gone; they are killed then."""
        return _kill_what_is_left(lambda: list(self.family.living()), AGENTS_GONE_AFTER_S)

    def _remains(self) -> list[psutil.Process]:
        """All of its own processes; of a shared Ray's those that still work."""
        own = [process for process in self.family.living() if process.name() not in AGENTS]
        return [*own, *(self.workers("_") if self.cluster else ()), *self.children()]


def _kill_what_is_left(remains: Callable[[], list[psutil.Process]], after_s: float) -> list[str]:
    wait_for(lambda: not remains(), after_s, every_s=0.2)
    titles = []
    for process in remains():
        with suppress(psutil.NoSuchProcess):
            titles.append(f"{process.pid} {process.name()}")
            process.kill()
    return titles


_HOLD_RAY = """
import os, time, ray
os.environ["RAY_agent_register_timeout_ms"] = "120000"
from pipeline.jobs.cluster import ray_cluster
with ray_cluster(None, num_cpus=2):
    print(ray.get_runtime_context().gcs_address, flush=True)
    time.sleep(1e6)
"""


class SharedRay:
    """A local Ray that outlives runs, so that each of them need not start one; it takes whoever has its token.

    Attributes:
        family: Its processes.
        address: Of its head.
        environ: What shows its token.
    """

    def __init__(self, *, nice: int) -> None:
        """Start one and wait for it.

        Args:
            nice: What it yields to others once it is up; while it starts it has 30 s, as Ray will have it.
        """
        self.environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
        for _ in range(STARTS):
            self.family = Family()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _HOLD_RAY],
                env=self.family.environ | self.environ, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            assert self._process.stdout is not None
            self.address = self._process.stdout.readline().strip()
            if self.address:
                break
            self.stop()
        else:
            raise RuntimeError(f"Ray did not start {STARTS} times")
        for process in self.family.living():
            process.nice(nice)

    def stop(self) -> None:
        """Kill its processes, and nobody else's."""
        for process in self.family.living():
            process.kill()
        self._process.wait()


@contextmanager
def shared_ray(wanted: bool, *, nice: int) -> Iterator[SharedRay | None]:
    """One Ray for the block, or none; then this process yields to others, and so do all that it starts."""
    cluster = SharedRay(nice=nice) if wanted else None
    psutil.Process().nice(nice)
    try:
        yield cluster
    finally:
        if cluster is not None:
            cluster.stop()


def start(*words: str, log: Path, cluster: SharedRay | None = None) -> Run:
    """Start ``longtake WORDS`` in a session of its own, its stderr appended to a log; on a Ray of its own if None is given."""
    family = Family()
    if cluster is not None:
        words, family.environ = (*words, "--address", cluster.address), family.environ | cluster.environ
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*COMMAND, *words],
            env=family.environ, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )  # fmt: skip
    return Run(process=process, family=family, log=log, cluster=cluster)


def _hear_ctrl_c() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would all that we start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def shards_and_manifest(dataset: Path) -> dict[str, str]:
    """SHA-256 of every file below shards/, and the name of the current manifest: what nothing may change."""
    files = sorted(path for path in (dataset / "shards").rglob("*") if path.is_file())
    hashes = {str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {**hashes, "manifest": str(Dataset.open(str(dataset)).record().manifest)}


def faults(dataset: Path, expected: dict[str, str], failed: dict[str, str]) -> list[str]:
    """What is wrong with a finished dataset, one line each.

    Args:
        dataset: Its folder.
        expected: `shards_and_manifest` of an undisturbed run.
        failed: Reason of every source that may fail, by name.
    """
    found, opened = shards_and_manifest(dataset), Dataset.open(str(dataset))
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    rows = opened.ledger.sources().to_pylist()
    wrong = {PurePosixPath(row["uri"]).name: str(row["reason"]) for row in rows if row["status"] == "failed"}
    scratch = sorted(path.name for path in (dataset / "scratch").rglob("*") if path.is_file())
    return [
        *(f"{name} differs" for name in names),
        *(f"{uri} failed: {reason}" for uri, reason in wrong.items() if failed.get(uri) != reason),
        *(f"{uri} should have failed" for uri in failed if uri not in wrong),
        *(f"quarantined: {line}" for line in (dataset / "quarantine.jsonl").read_text().splitlines()),
        *(f"left in scratch: {name}" for name in scratch),
        *(f"left half-written: {name}" for name in opened.storage.temporary()),
        *verify(opened),
    ]
