"""The held-out clips of a stage: which are scored, as which batches, and what is done about broken ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preprocessing.members import StoredSample
from training.batches import SampleReader, clip_batch
from training.broken_samples import HealthyReader, readable
from training.config import TrainConfig
from training.engine.base import Engine
from training.loop import Metrics
from training.order import keyed_seed
from training.types import ClipRow, SegmentBatch

LoadClip = Callable[[int], SegmentBatch]
"""Loads one of the clips that are measured, as a batch of its own."""

Figures = Callable[[int, LoadClip], Metrics]
"""(how many clips, loads one of them) to what is measured of them."""


def validation_clips(held_out: tuple[ClipRow, ...], config: TrainConfig) -> tuple[ClipRow, ...]:
    """The held-out clips that are scored, drawn by seed; the same in all stages."""
    return tuple(sorted(held_out, key=lambda row: keyed_seed(config.seed, row.clip_id))[: config.validation.num_clips])


@dataclass(frozen=True, kw_only=True)
class HeldOutClips:
    """The clips that are scored.

    Attributes:
        rows: Their places key their times and noise, whichever of them are broken.
        read: Reads one of them.
        read_healthy: Finds the broken ones, to leave them out; None takes all to be healthy.
        max_segments: Leading segments of each that are scored.
    """

    rows: tuple[ClipRow, ...]
    read: SampleReader
    read_healthy: HealthyReader | None
    max_segments: int

    def measure(self, engine: Engine, figures: Figures) -> Metrics:
        """Figures of the clips, none if there are no clips; all ranks must call it.

        `val_broken_samples` counts those that are left out, on all ranks alike, because some rank cannot read them.

        Raises:
            BrokenSampleError: If one cannot be read that is not left out.
        """
        places = self._places(engine)
        found = figures(len(places), lambda i: self._batch(places[i], engine)) if places else {}
        num_broken = len(self.rows) - len(places)
        return {**found, "val_broken_samples": float(num_broken)} if num_broken else found

    def first(self, engine: Engine) -> StoredSample | None:
        """The first that every rank can read, None if there is none; all ranks must call it.

        Raises:
            BrokenSampleError: If it cannot be read and broken ones are not left out.
        """
        places = self._places(engine)
        return self.read(self.rows[places[0]]) if places else None

    def _places(self, engine: Engine) -> Sequence[int]:
        if self.read_healthy is None or not self.rows:
            return range(len(self.rows))
        return readable(engine, self.rows, self.read_healthy)

    def _batch(self, place: int, engine: Engine) -> SegmentBatch:
        row = self.rows[place]
        num_segments = min(row.num_segments, self.max_segments)
        return clip_batch([self.read(row)], (place,), num_segments=num_segments, device=engine.device)
