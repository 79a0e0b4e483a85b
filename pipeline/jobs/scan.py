"""Sources to Ray tasks to scans in the ledger."""

import time
from collections.abc import Iterator, Sequence

import ray

from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import Task, decoding_child
from pipeline.progress import Meter
from preprocessing import motion, scan, transitions
from preprocessing.ledger import Ledger
from preprocessing.samples import Source, SourceScan
from preprocessing.scan import ScanSettings, scan_source

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
    remote = ray.remote(num_cpus=recipe.cluster.cpus_per_task, max_retries=0)(_scan)

    def done(found: SourceScan) -> None:
        collector.add(found)
        meter.advance(note=found.source.uri)

    for source in sources:
        yield Task(name=source.uri, submit=lambda source=source: remote.remote(source, settings), done=done)


def _scan(source: Source, settings: ScanSettings) -> SourceScan:
    return scan_source(
        source, settings, decoding_child(settings.scan.progress_timeout_s, settings.scan.memory_limit_mb)
    )
