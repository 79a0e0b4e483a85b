"""CPU seconds of a command and everything it starts, exactly: the command runs in a control group of its own.

Nothing else counts all: samples of /proc miss short lives, and `wait4` misses Ray's workers, because its raylet ignores SIGCHLD
and the kernel then forgets what the dead have used.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_EVERY_S = 0.05
"""How often processes are looked at, to tell who used the time; the total does not depend on it."""

UNSEEN = "unseen"
"""Label of what processes used between the last look at them and their end."""

_PATIENCE_S = 30.0
"""For processes that outlive the command, as some of Ray's do, before they are killed."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Label = Callable[[Sequence[str]], str]
"""Names a process by its command line."""


@dataclass(frozen=True, kw_only=True)
class CpuUse:
    """What a command used.

    Attributes:
        cpu_s: User and system time of all its processes, in seconds.
        by_label: The same by label of process, and `UNSEEN`.
        wall_s: Time until the last process ended.
        status: Exit status of the command.
        left: Processes that had to be killed.
    """

    cpu_s: float
    by_label: Mapping[str, float]
    wall_s: float
    status: int
    left: int


def cpu_seconds(command: Sequence[str], label: Label, env: Mapping[str, str]) -> CpuUse:
    """Run a command to its end, and that of all it started; its stdout goes to our stderr.

    Args:
        command: Program and arguments.
        label: Names its processes.
        env: Added to the environment.

    Raises:
        OSError: If no control group can be made.
    """
    group = _make_group()
    try:
        start_s = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env={**os.environ, **env},
            preexec_fn=lambda: _enter(group.path),
        )
        seen, left = _watch(process, group.path, label)
        cpu_s, sums = group.usage_s(), defaultdict[str, float](float)
        for name, used_s in seen.values():
            sums[name] += used_s
        return CpuUse(
            cpu_s=cpu_s,
            by_label={**sums, UNSEEN: cpu_s - sum(sums.values())},
            wall_s=time.monotonic() - start_s,
            status=process.wait(),
            left=left,
        )
    finally:
        group.path.rmdir()


@dataclass(frozen=True, kw_only=True)
class _Group:
    path: Path
    usage_s: Callable[[], float]


def _make_group() -> _Group:
    """An empty control group below our own: version 2 where that is mounted, else version 1's accounting."""
    name = f"cpu-seconds-{uuid.uuid4().hex}"
    for kind, controller, usage_s in (("cgroup2", "", _usage_v2_s), ("cgroup", "cpuacct", _usage_v1_s)):
        for root in _mount_points(kind, controller):
            path = root / _own_group(controller).lstrip("/") / name
            try:
                path.mkdir()
            except OSError:  # read-only, or not ours
                continue
            return _Group(path=path, usage_s=lambda path=path, usage_s=usage_s: usage_s(path))
    raise OSError("no control group can be made here: run as root, or under systemd-run --user --scope -p Delegate=yes")


def _mount_points(kind: str, controller: str) -> list[Path]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [
        Path(place)
        for _, place, found, options, *_ in mounts
        if found == kind and controller in f"{options},".split(",")
    ]


def _own_group(controller: str) -> str:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return next((path for _, controllers, path in lines if controller in controllers.split(",")), "/")


def _usage_v2_s(path: Path) -> float:
    figures = dict(line.split() for line in (path / "cpu.stat").read_text().splitlines())
    return int(figures["usage_usec"]) / 1e6


def _usage_v1_s(path: Path) -> float:
    return int((path / "cpuacct.usage").read_text()) / 1e9


def _enter(path: Path) -> None:
    (path / "cgroup.procs").write_text("0")


def _watch(process: "subprocess.Popen[bytes]", path: Path, label: Label) -> tuple[dict[int, tuple[str, float]], int]:
    """Wait until nothing runs in the group; label and seconds by process id, and how many had to be killed."""
    seen: dict[int, tuple[str, float]] = {}
    killed: set[int] = set()
    ended_s = None
    while pids := [int(word) for word in (path / "cgroup.procs").read_text().split()]:
        for pid in pids:
            _look(pid, label, seen)
        if process.poll() is not None:
            ended_s = ended_s or time.monotonic()
            if time.monotonic() - ended_s > _PATIENCE_S:
                killed |= {*pids}
                _kill(pids)
        time.sleep(SAMPLE_EVERY_S)
    return seen, len(killed)


def _look(pid: int, label: Label, seen: dict[int, tuple[str, float]]) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended
        return
    if command != [""]:  # else it is ending
        seen[pid] = label(command), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
