"""What a piece of work took. It stands in the ledger only, never in shards or manifests."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Time that was spent.

    Attributes:
        cpu_s: CPU time, user and system, of a worker and all its decoding children.
        wall_s: Time on the clock.
    """

    cpu_s: float
    wall_s: float

    def __sub__(self, earlier: Self) -> "Effort":
        """What was spent since an earlier reading, to the millisecond."""
        return Effort(cpu_s=round(self.cpu_s - earlier.cpu_s, 3), wall_s=round(self.wall_s - earlier.wall_s, 3))
