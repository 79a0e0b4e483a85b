"""Sources to Ray tasks to scans in the ledger."""

import time
from collections.abc import Iterator, Sequence

import ray

from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import Task, run_bounded
from pipeline.jobs.scan_task import scan_one, sha256_of
from pipeline.progress import Meter
from preprocessing import motion, scan, transitions
from preprocessing.ledger import Ledger
from preprocessing.samples import Source, SourceScan
from preprocessing.scan import ScanSettings

COMMIT_EVERY_S = 5.0
"""Scans wait at most this long in the driver's memory."""

COMMIT_EVERY_SCANS = 64
"""So many scans are committed at once, at most."""


def scan_fingerprint(recipe: Recipe) -> str:
    """Changes if what scanning measures would change."""
    versions = {"scan": scan.VERSION, "transitions": transitions.VERSION, "motion": motion.VERSION}
    return fingerprint(versions, recipe.scan, recipe.transitions, recipe.motion)


class ScanCollector:
    """Gathers scans in the driver and commits them in small batches."""

    def __init__(self, ledger: Ledger, settings_fingerprint: str) -> None:
        """Nothing gathered yet."""
        self._ledger = ledger
        self._fingerprint = settings_fingerprint
        self._waiting: list[SourceScan] = []
        self._since_s = time.monotonic()

    def add(self, found: SourceScan) -> None:
        """Takes one scan, and commits if enough were gathered or enough time went by."""
        self._waiting.append(found)
        if len(self._waiting) >= COMMIT_EVERY_SCANS or time.monotonic() - self._since_s >= COMMIT_EVERY_S:
            self.commit()

    def commit(self) -> None:
        """Writes what was gathered to the ledger."""
        self._ledger.append_scans(self._waiting, self._fingerprint)
        self._waiting, self._since_s = [], time.monotonic()


def scan_tasks(sources: Sequence[Source], recipe: Recipe, collector: ScanCollector, meter: Meter) -> Iterator[Task]:
    """One Ray task a source."""
    settings = ScanSettings(scan=recipe.scan, transitions=recipe.transitions, motion=recipe.motion)
    remote = ray.remote(num_cpus=recipe.cluster.cpus_per_task, max_retries=0)(scan_one)

    def done(found: SourceScan) -> None:
        collector.add(found)
        meter.advance(note=found.source.name)

    for source in sources:
        yield Task(name=source.name, submit=lambda source=source: remote.remote(source, settings), done=done)


def read_hashes(sources: Sequence[Source], recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the files of some sources, by location, read by workers; those that cannot be read are left out."""
    remote = ray.remote(num_cpus=recipe.cluster.cpus_per_task, max_retries=0)(sha256_of)
    files = {source.location: source for source in sources}
    found: dict[str, str] = {}
    tasks = (
        Task(
            name=location,
            submit=lambda source=source: remote.remote(source),
            done=lambda sha256, location=location: found.update({location: sha256}),
        )
        for location, source in files.items()
    )
    run_bounded(tasks, max_in_flight=recipe.cluster.max_tasks)
    return {location: sha256 for location, sha256 in found.items() if sha256}
