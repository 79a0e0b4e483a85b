"""Ends a run whose ranks wait for each other in vain, and says which of them did not come.

Ranks that lose step with each other do not fail: a collective operation waits, and a time-out of the process group was
seen not to end it (gloo, torch 2.13). So every rank writes to a file how often it has met the others, and a thread of a
rank that waits reads what all ranks wrote. No progress of anybody for the time-out ends it: never how long a step takes.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

LOOKS = 10
"""Looks at the heartbeats within one time-out."""


class Pulse:
    """What an engine says of itself to the watchdog; read by another thread.

    Attributes:
        meetings: Points that all ranks pass together at which this rank has arrived.
        waiting: Whether it is at such a point.
    """

    def __init__(self) -> None:
        """Has met nobody."""
        self.meetings, self.waiting = 0, False

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Around what all ranks must do together."""
        self.meetings += 1
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False


class Patience:
    """Of a rank that waits: runs out after a time-out's looks at which no rank had made progress.

    Looks are counted and not seconds: a machine that stood still for an hour has not waited for anybody.
    """

    def __init__(self) -> None:
        """Has seen nobody."""
        self._seen: Mapping[int, int] = {}
        self._looks = 0

    def runs_out(self, meetings: Mapping[int, int], *, waiting: bool) -> bool:
        """Take one more look.

        Args:
            meetings: How often each rank has met the others by now.
            waiting: Whether this rank is waiting for them.
        """
        if meetings != self._seen or not waiting:
            self._seen, self._looks = meetings, 0
        else:
            self._looks += 1
        return self._looks > LOOKS


OnHang = Callable[[str], None]
"""Takes the message, and ends the process."""


@contextmanager
def watch(
    pulse: Pulse, folder: Path, *, rank: int, num_ranks: int, timeout_s: float, on_hang: OnHang
) -> Iterator[None]:
    """Inside, a thread watches over this rank.

    Args:
        pulse: Of this rank's engine.
        folder: For the heartbeats, on a disk that all ranks share.
        rank: This rank.
        num_ranks: All ranks.
        timeout_s: How long this rank may wait while no rank makes progress.
        on_hang: Called once, in the thread, with a message that names the ranks that did not come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _beat(folder, rank, 0)  # an earlier run may have left another number
    stop = threading.Event()
    arguments = (pulse, folder, rank, num_ranks, timeout_s, on_hang, stop)
    thread = threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(
    pulse: Pulse, folder: Path, rank: int, num_ranks: int, timeout_s: float, on_hang: OnHang, stop: threading.Event
) -> None:
    patience = Patience()
    while not stop.wait(timeout_s / LOOKS):
        with suppress(OSError):  # a full disk ends the run elsewhere, with its own message
            _beat(folder, rank, pulse.meetings)
        meetings = {other: _meetings(folder, other) for other in range(num_ranks)}
        if patience.runs_out(meetings, waiting=pulse.waiting):
            on_hang(hang_message(meetings, timeout_s))
            return


def _beat(folder: Path, rank: int, meetings: int) -> None:
    temporary = folder / f".rank-{rank:05}.tmp"
    temporary.write_text(json.dumps({"meetings": meetings}))
    temporary.replace(_heartbeat(folder, rank))


def _meetings(folder: Path, rank: int) -> int:
    """-1 for a rank that has not written yet."""
    try:
        return json.loads(_heartbeat(folder, rank).read_text())["meetings"]
    except FileNotFoundError:
        return -1


def _heartbeat(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05}.json"


def hang_message(meetings: Mapping[int, int], timeout_s: float) -> str:
    """Which ranks did not come, by how often each has met the others."""
    last = max(meetings.values())
    missing = [rank for rank, count in meetings.items() if count < last]
    if not missing:
        return f"all ranks wait for each other, and none made progress for {timeout_s:g} s: the network between them is cut"
    waiting = [rank for rank, count in meetings.items() if count == last]
    return (
        f"{_ranks(missing)} did not come to where {_ranks(waiting)} {'waits' if len(waiting) == 1 else 'wait'}: no progress"
        f" for {timeout_s:g} s (train.engine.step_timeout_s)"
    )


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
