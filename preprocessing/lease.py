"""The right to write a dataset on an object store, where nothing can be locked: an object with a heartbeat.

A driver creates the object where there is none, and renews it every `HEARTBEAT_S`. Puts are conditional where the store knows that
(S3: If-None-Match, If-Match; Google: on creation), so that two drivers never both believe that they hold it; elsewhere the holder
reads its own name back. A lease is free when `MISSED_BEATS` are missed, or at once if its driver ran on this machine and is dead.
The clocks of two machines may differ by less than that.
"""

import getpass
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Protocol, Self

LEASE_KEY = ".lease"
HEARTBEAT_S = 10.0
"""Time between two renewals."""
MISSED_BEATS = 6
"""A lease without so many renewals is free."""


def lease_owner() -> str:
    """Who we are, for the driver that finds the place taken."""
    return f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}"


class LeaseTaken(Exception):
    """Another driver writes this dataset; `owner` says which."""

    def __init__(self, owner: str) -> None:
        """Keep the owner for the caller's message."""
        super().__init__(f"another driver is at work on this dataset: {owner or 'unknown owner'}")
        self.owner = owner


class LeaseLost(Exception):
    """This driver was silent for too long, and another one may have taken over: it writes nothing more."""


class VersionedStore(Protocol):
    """What a lease needs of an object store."""

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Bytes and version of an object, None if there is none."""
        ...

    def write_version(self, key: str, data: bytes, replaces: str | None) -> str:
        """Write if the object still has this version (None: if there is none); FileExistsError if not. Gives the new version."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object."""
        ...


class HeartbeatLease:
    """A held lease; renewed by a thread of its own until it is released."""

    def __init__(self, store: VersionedStore, owner: str, *, clock_s: Callable[[], float] = time.time) -> None:
        """Take the lease.

        Raises:
            LeaseTaken: If another driver holds it.
        """
        self._store, self._owner, self._clock_s = store, owner, clock_s
        self._token = uuid.uuid4().hex
        self._lock, self._stopped = Lock(), Event()
        self._lost = ""
        current = store.read_version(LEASE_KEY)
        if current is not None and not _is_free(current[0], clock_s()):
            raise LeaseTaken(_owner_of(current[0]))
        try:
            self._put(None if current is None else current[1])
        except FileExistsError as error:
            raise LeaseTaken(self._holder()) from error
        if not self._is_ours():  # the store does not know conditional puts, and another driver came last
            raise LeaseTaken(self._holder())
        self._beater = Thread(target=self._keep_beating, daemon=True)
        self._beater.start()

    def __enter__(self) -> Self:
        """It is held already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self._stopped.set()
        self._beater.join()
        with self._lock:
            if not self._lost and self._is_ours():
                self._store.delete(LEASE_KEY)

    def check(self) -> None:
        """Cheap while beats come; after a silence, for example of a stopped process, the store is asked.

        Raises:
            LeaseLost: If the lease is no longer ours.
        """
        if self._clock_s() - self._beat_s > 2 * HEARTBEAT_S:
            self._beat()
        if self._lost:
            raise LeaseLost(f"this driver lost the lease of the dataset and stops: {self._lost}")

    def _keep_beating(self) -> None:
        while not self._stopped.wait(HEARTBEAT_S) and not self._lost:
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            try:
                self._renew()
            except FileExistsError:
                self._lost = f"it belongs to {self._holder() or 'nobody'} now"
            except OSError as error:  # the store may answer again in time
                if self._clock_s() - self._beat_s > (MISSED_BEATS - 1) * HEARTBEAT_S:
                    self._lost = f"the store did not answer: {error}"

    def _renew(self) -> None:
        try:
            self._put(self._version)
        except FileExistsError:
            if not self._is_ours():  # else an earlier put arrived, and only its answer was lost
                raise
            self._put(self._version)

    def _put(self, replaces: str | None) -> None:
        now_s = self._clock_s()
        beat = {"owner": self._owner, "process": this_process(), "token": self._token, "time_s": now_s}
        self._version = self._store.write_version(LEASE_KEY, json.dumps(beat).encode(), replaces)
        self._beat_s = now_s

    def _is_ours(self) -> bool:
        current = self._store.read_version(LEASE_KEY)
        if current is None or _beat_of(current[0]).get("token") != self._token:
            return False
        self._version = current[1]
        return True

    def _holder(self) -> str:
        current = self._store.read_version(LEASE_KEY)
        return "" if current is None else _owner_of(current[0])


def _beat_of(data: bytes) -> dict:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _owner_of(data: bytes) -> str:
    return str(_beat_of(data).get("owner", ""))


def _is_free(data: bytes, now_s: float) -> bool:
    beat = _beat_of(data)
    silence_s = now_s - float(beat.get("time_s", 0.0))
    return silence_s > MISSED_BEATS * HEARTBEAT_S or is_dead(str(beat.get("process", "")))


def this_process() -> str:
    """A name of this process that no other one has had since its machine started; empty where the kernel does not say."""
    return _process(os.getpid())


def is_dead(process: str) -> bool:
    """Whether a process named by `this_process` ran on this machine, in our process namespace, and is gone."""
    machine, _, rest = process.rpartition("/")
    if not machine or not this_process().startswith(f"{machine}/"):
        return False
    return _process(int(rest.partition("-")[0])) != process


def _process(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
        started = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{boot}/{namespace}/{pid}-{started}"
