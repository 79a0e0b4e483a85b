"""The loss of a global step by time and by segment, the same on all ranks."""

import math
from collections.abc import Iterator, Sequence

from training.engine.base import Engine
from training.types import ClipLosses

NUM_BUCKETS = 5
"""Equal parts of the times from noise (0) to data (1)."""


class LossTable:
    """Sums of clips' losses over a global step."""

    def __init__(self, num_segments: int) -> None:
        """Nothing yet.

        Args:
            num_segments: Of the longest clip of the global step, the same on all ranks.
        """
        self._num_segments = num_segments
        self._sums = [0.0] * (NUM_BUCKETS + num_segments)
        self._counts = [0.0] * (NUM_BUCKETS + num_segments)
        self._not_finite: set[int] = set()

    @property
    def not_finite(self) -> frozenset[int]:
        """Positions of this rank's clips that had a loss which is NaN or infinite."""
        return frozenset(self._not_finite)

    def add(self, segment_index: int, positions: Sequence[int], losses: ClipLosses) -> None:
        """Take in the clips of this rank at one segment, whose positions in the global batch are given."""
        for position, t, loss in zip(positions, losses.t.tolist(), losses.loss.tolist(), strict=True):
            if not math.isfinite(loss):
                self._not_finite.add(position)
            for row in (min(int(t * NUM_BUCKETS), NUM_BUCKETS - 1), NUM_BUCKETS + segment_index):
                self._sums[row] += loss
                self._counts[row] += 1

    def means(self, engine: Engine) -> dict[str, float]:
        """Mean losses over all ranks as metrics; what the step did not touch is left out."""
        totals = engine.sum_over_ranks([*self._sums, *self._counts])
        sums, counts = totals[: len(self._sums)], totals[len(self._sums) :]
        return {name: total / count for name, total, count in zip(self._names(), sums, counts, strict=True) if count}

    def _names(self) -> Iterator[str]:
        for bucket in range(NUM_BUCKETS):
            yield f"loss_t{bucket / NUM_BUCKETS:g}-{(bucket + 1) / NUM_BUCKETS:g}"
        for segment in range(self._num_segments):
            yield f"loss_segment{segment}"
