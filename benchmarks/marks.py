"""Processes that were started under a mark in their environment, and their memory; needs nothing but Python."""

import os
from collections.abc import Iterator
from pathlib import Path

MARK = "LONGTAKE_BENCHMARK"
"""Environment variable by which descendants are known."""


def has_mark(pid: int, mark: str) -> bool:
    """Whether the environment of a process held the mark when it started."""
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or is not ours
        return False


def marked(mark: str) -> Iterator[int]:
    """Processes whose environment at their start held the mark."""
    return (pid for pid in _pids() if pid != os.getpid() and has_mark(pid, mark))


def pss_mb(pid: int) -> float:
    """Memory of a process in MiB; a page that n processes share counts as 1 / n of it."""
    return _memory_kb(pid, "smaps_rollup", "Pss:") / 1024


def peak_rss_mb(pid: int) -> float:
    """The most memory in MiB that a process ever had, shared pages and all."""
    return _memory_kb(pid, "status", "VmHWM:") / 1024


def _memory_kb(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _pids() -> Iterator[int]:
    return (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
