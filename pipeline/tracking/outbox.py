"""What waits for a server that is away: kept in its order, and delivered when the server is back."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.tracking.server import is_refusal, tracking_errors
from pipeline.tracking.uris import without_secrets

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_AFTER_S = 30.0
"""Before a server that went away is asked again."""


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """Something to write.

    Attributes:
        what: For people.
        write: May be begun again, however far it came.
    """

    what: str
    write: Callable[[T], object]


class Outbox(Generic[T]):
    """Entries for a server that may be away in the beginning, in between, or until the end; for one thread at a time.

    The server is asked at every entry; where it was away, at the first one after `RETRY_AFTER_S`. What it answers never leaves
    this class: one warning says that it is away, one that it is back, and one in the end what never arrived. A server that
    refuses to be connected to is not asked again.
    """

    def __init__(
        self, connect: Callable[[], T], *, server: str, kept_in: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Asks nothing yet.

        Args:
            connect: Gives what entries write to.
            server: Who that is, for people.
            kept_in: Where the same things can be read if the server never comes back, for people.
            clock: Seconds that never go back.
        """
        self._connect = connect
        self._server, self._kept_in = without_secrets(server), without_secrets(kept_in)
        self._clock = clock
        self._connection: T | None = None
        self._waiting: list[Entry[T]] = []
        self._ask_again_at = -math.inf
        self._is_off = False

    def add(self, what: str, write: Callable[[T], object]) -> None:
        """Delivers an entry behind those that wait, or lets it wait too."""
        if self._is_off:
            return
        self._waiting.append(Entry(what=what, write=write))
        if self._clock() >= self._ask_again_at:
            self.deliver()

    def close(self, what: str, write: Callable[[T], object]) -> bool:
        """Delivers the last entry, asking also a server that was away a moment ago, and says what never arrived.

        Returns:
            Whether the server answered to every entry; one that it refused would be refused again.
        """
        if self._is_off:
            return False
        self._waiting.append(Entry(what=what, write=write))
        self.deliver()
        if self._waiting:
            kinds = Counter(entry.what for entry in self._waiting)
            missing = ", ".join(kind if times == 1 else f"{kind} ({times} times)" for kind, times in kinds.items())
            logger.warning("%s did not come back; not tracked: %s; see %s", self._server, missing, self._kept_in)
        return not (self._waiting or self._is_off)

    def deliver(self) -> None:
        """Asks the server now, whether or not something waits."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            while self._waiting:
                self._write(self._connection, self._waiting[0])
                del self._waiting[0]
        except tracking_errors() as error:
            if self._connection is None and is_refusal(error):
                self._turn_off(error)
            else:
                self._put_off(error)
            return
        if self._is_away:
            self._ask_again_at = -math.inf
            logger.warning("%s answers again: what it missed is tracked now", self._server)

    @property
    def _is_away(self) -> bool:
        return self._ask_again_at > -math.inf

    def _write(self, connection: T, entry: Entry[T]) -> None:
        """What is refused must not hold up the rest."""
        try:
            entry.write(connection)
        except tracking_errors() as error:
            if not is_refusal(error):
                raise
            logger.warning("not tracked: %s: %s", entry.what, without_secrets(str(error)))

    def _turn_off(self, error: Exception) -> None:
        self._is_off = True
        self._waiting.clear()
        logger.warning("tracking is off: %s; the work goes on without it", without_secrets(str(error)))

    def _put_off(self, error: Exception) -> None:
        if not self._is_away:
            message = without_secrets(str(error))
            logger.warning("tracking is away: %s; the work goes on, and what is missed is tracked later", message)
        self._ask_again_at = self._clock() + RETRY_AFTER_S
