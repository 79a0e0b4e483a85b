"""Which task comes next where several kinds of them share a window. Pure."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Gives the next item of the kind that has the fewest out, so that slow ones never keep the others from starting.

    A kind that is used up leaves its share to the rest. Items are asked for one by one, when they are due.
    """

    def __init__(self, *kinds: Iterable[T]) -> None:
        """Nothing out yet; at a tie the kind that is named first comes first."""
        self._left: dict[int, Iterator[T]] = {kind: iter(items) for kind, items in enumerate(kinds)}
        self._out = [0] * len(kinds)

    def take(self) -> tuple[int, T] | None:
        """The next item and its kind; None if nothing is left."""
        while self._left:
            kind = min(self._left, key=lambda kind: (self._out[kind], kind))
            for item in self._left[kind]:
                self._out[kind] += 1
                return kind, item
            del self._left[kind]
        return None

    def done(self, kind: int) -> None:
        """One item of a kind is no longer out."""
        self._out[kind] -= 1

    def again(self, kind: int, item: T) -> None:
        """An item that is done comes once more, before the rest of its kind."""
        self._left[kind] = chain([item], self._left.get(kind, ()))
