"""Runs a function in a killable child process, with a progress deadline and a memory limit.

Decoders hang in native code, abort, and eat memory (decord #373 spins for ever holding the GIL: no signal, no thread, only a
kill ends it). So untrusted video is touched only in a child that its parent may kill and replace. The child is a fresh
interpreter, not a fork: it is safe under threads, in Ray workers and in pytest, and it imports only what its function needs.
"""

import ctypes
import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from errno import EAGAIN, ENOMEM
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from preprocessing.effort import Effort
from preprocessing.reasons import Reason

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from preprocessing.isolation import _serve; _serve()"
_PINNED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "MALLOC_ARENA_MAX": "2",
}
"""One thread, for equal bytes on any machine; few arenas, so that the memory limit means memory."""

_ITEM, _TICK, _END, _RAISED, _NO_MEMORY = range(5)
_START_TIMEOUT_S = 300.0
"""For an interpreter and its imports on a busy machine or a slow disk."""
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals that no decoder sends itself: an operator does, or the kernel that is out of memory."""
_LAST_BREATH_S = 10.0
"""A child that has closed its end and still lives, in threads of its decoder, is killed after this."""
_PR_SET_PDEATHSIG = 1
_MIB = 1 << 20
_T = TypeVar("_T")


class ChildFailed(Exception):
    """The child hung, outgrew its limit or died; a new one takes the next call.

    Attributes:
        reason: `TIMEOUT`, `OUT_OF_MEMORY` or `CRASHED`.
        message: One line for people.
        from_outside: Whether somebody else ended it, so that what it worked on need not be to blame.
    """

    def __init__(self, reason: Reason, message: str, from_outside: bool = False) -> None:
        """Keep all as arguments, so that it can be pickled."""
        super().__init__(reason, message, from_outside)
        self.reason = reason
        self.message = message
        self.from_outside = from_outside

    def __str__(self) -> str:
        """Reason and message."""
        return f"{self.reason}: {self.message}"


class IsolatedWorker:
    """One killable child process that runs generator functions, one at a time, and is used again until it dies.

    The child starts with the first call. It dies with this process, also if that is killed (Linux: with the *thread* that
    started it, so use a worker in the thread that made it).
    """

    def __init__(self, *, progress_timeout_s: float, memory_limit_mb: int) -> None:
        """Remember the limits; nothing starts yet.

        Args:
            progress_timeout_s: No item for this long, while one is waited for, kills the child.
            memory_limit_mb: Address space in MiB that the child may grow by, beyond what its imports take.
        """
        self._progress_timeout_s = progress_timeout_s
        self._memory_limit_mb = memory_limit_mb
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        """Nothing starts before the first call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the child."""
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the child, None if there is none."""
        return self._child.pid if self._child is not None else None

    def close(self) -> None:
        """Kill the child, if there is one. The next call starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def spent(self) -> Effort:
        """What this process and all children it ever had have spent so far; the difference of two readings is the cost of a task."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_s = sum(one.ru_utime + one.ru_stime for one in used) + (self._child.cpu_s() if self._child else 0.0)
        return Effort(cpu_s=cpu_s, wall_s=time.monotonic())

    def stream(self, function: Callable[..., Iterator[_T | None]], *args: object) -> Iterator[_T]:
        """What a module-level generator function yields in the child, item by item.

        A `None` item is a sign of life and is not passed on. A consumer that stops early costs the child its life.

        Raises:
            ChildFailed: If the child made no progress, outgrew its memory or died.
            Exception: Whatever the function raised.
        """
        child = self._child = self._child or _Child(self._progress_timeout_s)
        finished = False
        try:
            child.send((function, args, self._memory_limit_mb))
            child.receive(_START_TIMEOUT_S)
            while True:
                tag, payload = child.receive(self._progress_timeout_s)
                if tag == _ITEM:
                    yield payload
                elif tag != _TICK:
                    finished = tag != _NO_MEMORY
                    break
        finally:
            if not finished:
                self.close()
        _raise_if_failed(tag, payload)

    def call(self, function: Callable[..., Iterator[_T | None]], *args: object) -> _T:
        """The last item of `stream`.

        Raises:
            ValueError: If the function yielded none.
        """
        last: list[_T] = []
        for item in self.stream(function, *args):
            last[:] = [item]
        if not last:
            raise ValueError(f"{function.__name__} yielded nothing; expected at least one item")
        return last[0]


def _raise_if_failed(tag: int, payload: Any) -> None:  # noqa: ANN401 - whatever the function raised
    if tag == _NO_MEMORY:
        raise ChildFailed(Reason.OUT_OF_MEMORY, payload)
    if tag == _RAISED:
        raise payload


class _Child:
    """The parent's end of one child process."""

    def __init__(self, timeout_s: float) -> None:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # a child may also stop in the middle of a message
            ours.setsockopt(socket.SOL_SOCKET, option, _timeval(timeout_s))
        self._stderr = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the child
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_PINNED},
            )
        self._connection = Connection(ours.detach())

    def send(self, task: tuple[object, ...]) -> None:
        self._stderr.seek(0)
        self._stderr.truncate()
        try:
            self._connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            self._explain_death()

    def receive(self, timeout_s: float) -> tuple[int, Any]:
        """The next message.

        Raises:
            ChildFailed: If none comes in time, or none will.
        """
        try:
            if self._connection.poll(timeout_s):
                return self._connection.recv()
        except BlockingIOError:
            pass
        except (EOFError, OSError):  # OSError: the child died in the middle of a message
            self._explain_death()
        raise ChildFailed(Reason.TIMEOUT, f"no progress for {timeout_s:g} s")

    def cpu_s(self) -> float:
        """CPU seconds of the child, which is not waited for yet."""
        import psutil

        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._stderr.close()

    def _explain_death(self) -> NoReturn:
        code = self._exit_code()
        last_words = self._last_words()
        if any(sign in last_words for sign in ("bad_alloc", "MemoryError", "Cannot allocate memory")):
            raise ChildFailed(Reason.OUT_OF_MEMORY, "the child ran out of memory and aborted")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        tail = f": {last_words.splitlines()[-1][:200]}" if last_words else ""
        raise ChildFailed(Reason.CRASHED, f"the child {how}{tail}", -code in _FROM_OUTSIDE)

    def _exit_code(self) -> int:
        try:
            return self._process.wait(_LAST_BREATH_S)
        except subprocess.TimeoutExpired:
            raise ChildFailed(Reason.CRASHED, "the child closed its connection and did not end") from None

    def _last_words(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), 4096, max(0, size - 4096)).decode(errors="replace").strip()


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))


_to_parent: Connection | None = None
"""Set in a child while it works."""

_sending = threading.Lock()
"""A function may decode in a thread of its own while the child's main thread sends."""


def sign_of_life() -> None:
    """Restart the progress deadline from inside a long step that has nothing to yield; elsewhere than in a child, nothing."""
    if _to_parent is not None and _sending.acquire(blocking=False):  # else an item is on its way, which says it better
        try:
            _to_parent.send((_TICK, None))
        finally:
            _sending.release()


def _serve() -> NoReturn:
    """The child's life: take a function, send what it yields, until the parent is gone."""
    global _to_parent
    fd, parent_pid = int(sys.argv[2]), int(sys.argv[3])
    _die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it kills us
    _to_parent = connection = Connection(fd)
    base = _address_space()
    try:
        while True:
            _limit_address_space(None)
            before = _address_space()
            function, args, limit_mb = connection.recv()  # imports the function's module
            base += _address_space() - before
            _limit_address_space(base + limit_mb * _MIB)
            connection.send((_TICK, None))
            _run(connection, function, args)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # a decoder's threads may never join


def _run(connection: Connection, function: Callable[..., Iterator[object]], args: tuple[object, ...]) -> None:
    try:
        for item in function(*args):
            with _sending:
                connection.send((_TICK if item is None else _ITEM, item))
        connection.send((_END, None))
    except (BrokenPipeError, ConnectionResetError):
        raise
    except MemoryError as error:
        connection.send((_NO_MEMORY, f"{function.__name__} outgrew its memory limit: {error}"))
    except Exception as error:  # noqa: BLE001 - the parent raises it again
        connection.send(_described(error))


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error is the memory limit's, whatever its class: a new child may fare better."""
    # OpenCV's words for a failed allocation; what a decoder gets that cannot start a thread for want of address space
    no_memory = isinstance(error, OSError) and error.errno in (EAGAIN, ENOMEM)
    return no_memory or isinstance(error, MemoryError) or "Insufficient memory" in str(error)


def _described(error: Exception) -> tuple[int, object]:
    if ran_out_of_memory(error):
        return _NO_MEMORY, str(error)
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except (pickle.PicklingError, TypeError, AttributeError, ValueError):
        return _RAISED, RuntimeError(f"{type(error).__name__}: {error}")
    return _RAISED, error


def _die_with(parent_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def _limit_address_space(limit: int | None) -> None:
    if sys.platform != "linux":
        return  # elsewhere the kernel ignores or refuses it
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = hard if limit is None else limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Bytes of address space in use, 0 where the kernel does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text("ascii").split()[0]) * resource.getpagesize() if statm.exists() else 0
