"""The processes of a run: found by a mark in their environment wherever they were adopted, watched, and killed one by one.

A process that leaves the tree (Ray's daemons are adopted by init) is still known by the mark, and one that overwrites its
environment with its title (Ray's workers) by its parent.
"""

import os
import time
import uuid
from collections.abc import Callable

import psutil

from benchmarks.marks import MARK, has_mark

DECODING_CHILD = "preprocessing.isolation"
"""In the command line of every decoding child."""


class Family:
    """All processes of one run, from its first look on.

    Attributes:
        environ: For the run's first process.
    """

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        self.environ = os.environ | dict([self._mark.split("=")])
        self._known: dict[int, psutil.Process] = {}
        self._others: set[int] = {os.getpid()}

    def living(self) -> tuple[psutil.Process, ...]:
        """Those that are there now; one that came and went between two looks is never seen."""
        for pid in psutil.pids():
            if pid not in self._known and pid not in self._others:
                self._sort_in(pid)
        self._known = {pid: process for pid, process in self._known.items() if _lives(process)}
        return tuple(self._known.values())

    def _sort_in(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            ours = process.ppid() in self._known or has_mark(pid, self._mark)
        except psutil.Error:
            return
        if ours:
            self._known[pid] = process
        else:
            self._others.add(pid)

    def children(self) -> tuple[psutil.Process, ...]:
        """The decoding children."""
        return tuple(process for process in self.living() if DECODING_CHILD in " ".join(_words(process)))

    def workers(self, *names: str) -> tuple[psutil.Process, ...]:
        """The Ray workers that are at work on tasks of these names."""
        titles = tuple(f"ray::{name}" for name in names)
        return tuple(process for process in self.living() if " ".join(_words(process)).startswith(titles))

    def wait_until_gone(self, timeout_s: float) -> tuple[psutil.Process, ...]:
        """Those that are left when all have ended, or the time is over."""
        end_s = time.monotonic() + timeout_s
        while (left := self.living()) and time.monotonic() < end_s:
            time.sleep(0.1)
        return left


def wait_for(condition: Callable[[], object], timeout_s: float, every_s: float = 0.02) -> bool:
    """Whether something came true in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(every_s)
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
