"""Ends a run whose ranks wait for each other in vain, and says which of them did not come.

Ranks that lose step with each other do not fail: a collective operation waits, and a time-out of the process group was
seen not to end it (gloo, torch 2.13). So every rank writes to a file how often it has met the others, and a thread of a
rank that waits reads what all ranks wrote. No progress of anybody for the time-out ends it: never how long a step takes,
nor how long a checkpoint is written or read, as long as its files grow and pieces of it are read. A disk that hangs and holds the heartbeats as well hangs
this thread too.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

LOOKS = 10
"""Looks at the heartbeats within one time-out."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a rank has done by now; another beat is progress.

    Attributes:
        meetings: Points that all ranks pass together at which it has arrived.
        num_bytes: What it sees written, while it writes or waits for files.
        num_read: Pieces of files that it has read, where others may be waiting for that.
    """

    meetings: int
    num_bytes: int = 0
    num_read: int = 0


NEVER = Beat(meetings=-1)
"""Of a rank that has not written yet."""


class Pulse:
    """What a rank says of itself to the watchdog; read by another thread.

    Attributes:
        waiting: Whether it is at a point that all ranks pass together.
    """

    def __init__(self) -> None:
        """Has met nobody."""
        self.waiting = False
        self._meetings, self._num_read = 0, 0
        self._writing: Path | None = None

    @contextmanager
    def meeting(self, *, writing: Path | None = None) -> Iterator[None]:
        """Around what all ranks must do together; growth of the files in `writing` counts as progress inside."""
        self._meetings, self._writing, self.waiting = self._meetings + 1, writing, True
        try:
            yield
        finally:
            self._writing, self.waiting = None, False

    def has_read(self) -> None:
        """One more piece of a file."""
        self._num_read += 1

    def beat(self) -> Beat:
        """What it has done by now."""
        writing = self._writing
        num_bytes = 0 if writing is None else bytes_in(writing)
        return Beat(meetings=self._meetings, num_bytes=num_bytes, num_read=self._num_read)


def bytes_in(folder: Path) -> int:
    """Sizes of all files below a folder, in which others write, rename and remove."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over folders that vanish
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


class Patience:
    """Of a rank that waits: runs out after a time-out's looks at which no rank had made progress.

    Looks are counted and not seconds: a machine that stood still for an hour has not waited for anybody.
    """

    def __init__(self) -> None:
        """Has seen nobody."""
        self._seen: Mapping[int, Beat] = {}
        self._looks = 0

    def runs_out(self, beats: Mapping[int, Beat], *, waiting: bool) -> bool:
        """Take one more look.

        Args:
            beats: What each rank has done by now.
            waiting: Whether this rank is waiting for them.
        """
        if beats != self._seen or not waiting:
            self._seen, self._looks = beats, 0
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
        pulse: Of this rank.
        folder: For the heartbeats, on a disk that all ranks share.
        rank: This rank.
        num_ranks: All ranks.
        timeout_s: How long this rank may wait while no rank makes progress.
        on_hang: Called once, in the thread, with a message that names the ranks that did not come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, rank, pulse.beat())  # an earlier run may have left another one
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
            _write(folder, rank, pulse.beat())
        beats = {other: _read(folder, other) for other in range(num_ranks)}
        if patience.runs_out(beats, waiting=pulse.waiting):
            on_hang(hang_message({other: beat.meetings for other, beat in beats.items()}, timeout_s))
            return


def _write(folder: Path, rank: int, beat: Beat) -> None:
    temporary = folder / f".rank-{rank:05}.tmp"
    temporary.write_text(json.dumps(asdict(beat)))
    temporary.replace(_heartbeat(folder, rank))


def _read(folder: Path, rank: int) -> Beat:
    try:
        return Beat(**json.loads(_heartbeat(folder, rank).read_text()))
    except FileNotFoundError:
        return NEVER


def _heartbeat(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05}.json"


def hang_message(meetings: Mapping[int, int], timeout_s: float) -> str:
    """Which ranks did not come, by how often each has met the others."""
    last = max(meetings.values())
    missing = [rank for rank, count in meetings.items() if count < last]
    if not missing:
        return (
            f"all ranks wait for each other, and none made progress for {timeout_s:g} s (train.engine.step_timeout_s): the"
            " network between them is cut, or the disk that they write to does not answer"
        )
    waiting = [rank for rank, count in meetings.items() if count == last]
    return (
        f"{_ranks(missing)} did not come to where {_ranks(waiting)} {'waits' if len(waiting) == 1 else 'wait'}: no progress"
        f" for {timeout_s:g} s (train.engine.step_timeout_s)"
    )


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
