"""How far a small picture is a sum of two others. Pure."""

from typing import NamedTuple

import numpy as np

from preprocessing.likeness import SmallPicture

_MAX_SUM = 1.06
"""Of both shares, which is 1 in a dissolve. A pan over waves is a sum as well, sin(x) = (sin(x - d) + sin(x + d)) / 2 cos d: 1 / cos d."""
_EXACT_EXCESS = 0.02
"""Over 1, of a sum that explains all: a mix of still pictures stays under 0.01."""
_EXCESS_A_RESIDUE = 0.2
"""More for each unit of the residue's relative size: what the sides do not explain also blurs their shares."""


class Mixture(NamedTuple):
    """The best sum of two sides for a middle, by least squares.

    Attributes:
        before: Share of the earlier side.
        after: Share of the later side.
        explained: Part of the middle's variance that the sum explains.
        alone: Part that the better side explains without the other.
    """

    before: float
    after: float
    explained: float
    alone: float

    @property
    def total(self) -> float:
        """Of both shares."""
        return self.before + self.after

    @property
    def progress(self) -> float:
        """How far from before to after the middle is: 0 to 1."""
        return self.after / self.total if self.total > 0 else 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the shares add up as in a mix: the better the sides explain the middle, the closer to 1."""
        residue = max(0.0, 1 - self.explained) ** 0.5
        return self.total <= min(_MAX_SUM, 1 + _EXACT_EXCESS + _EXCESS_A_RESIDUE * residue)


def mixture(before: SmallPicture, middle: SmallPicture, after: SmallPicture) -> Mixture:
    """The middle as a sum of its sides; all zeros if a side shows nothing."""
    first, second, both = (_dot(a, b) for a, b in ((before, before), (after, after), (before, after)))
    to_first, to_second, whole = _dot(before, middle), _dot(after, middle), _dot(middle, middle)
    determinant = first * second - both * both
    if determinant <= 1e-9 * first * second or whole <= 0:
        return Mixture(0.0, 0.0, 0.0, 0.0)
    share_before = (second * to_first - both * to_second) / determinant
    share_after = (first * to_second - both * to_first) / determinant
    explained = (share_before * to_first + share_after * to_second) / whole
    alone = max(to_first * to_first / first, to_second * to_second / second) / whole
    return Mixture(share_before, share_after, explained, alone)


def _dot(first: SmallPicture, second: SmallPicture) -> float:
    return float(np.dot(first.centred_P, second.centred_P))
