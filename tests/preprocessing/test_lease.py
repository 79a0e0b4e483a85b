import json
import subprocess
import sys
from collections.abc import Callable
from threading import Barrier, Thread

import pytest

from preprocessing.lease import (
    HEARTBEAT_S,
    LEASE_KEY,
    MISSED_BEATS,
    HeartbeatLease,
    LeaseLost,
    LeaseTaken,
    is_dead,
    this_process,
)
from preprocessing.object_store import ObjectStorage
from preprocessing.storage import open_object_store


@pytest.fixture
def store(request: pytest.FixtureRequest) -> ObjectStorage:
    return open_object_store("memory", f"leases/{request.node.name}")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def beat(owner: str, time_s: float, process: str = "") -> bytes:
    return json.dumps({"owner": owner, "process": process, "token": owner, "time_s": time_s}).encode()


def test_a_lease_is_free_when_its_beats_are_missed_and_not_before(store: ObjectStorage) -> None:
    clock = Clock()
    store.write_atomic(LEASE_KEY, beat("bob", clock.now_s - MISSED_BEATS * HEARTBEAT_S + 1))
    with pytest.raises(LeaseTaken, match="bob"):
        HeartbeatLease(store, "ann", clock_s=clock)
    clock.now_s += 2
    with HeartbeatLease(store, "ann", clock_s=clock):
        assert b"ann" in store.read_bytes(LEASE_KEY)
    assert not store.exists(LEASE_KEY)


def test_the_lease_of_a_dead_process_of_this_machine_is_free_at_once(store: ObjectStorage) -> None:
    say = "from preprocessing.lease import this_process; print(this_process())"
    dead = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, check=True).stdout.strip()
    assert is_dead(dead)
    assert not is_dead(this_process())
    assert not is_dead("another machine/" + dead.partition("/")[2])
    assert not is_dead("")
    store.write_atomic(LEASE_KEY, beat("bob", 1000.0, dead))
    with HeartbeatLease(store, "ann", clock_s=Clock()):
        pass
    store.write_atomic(LEASE_KEY, beat("bob", 1000.0, this_process()))
    with pytest.raises(LeaseTaken):
        HeartbeatLease(store, "ann", clock_s=Clock())


def test_a_driver_that_slept_writes_nothing_more_once_another_one_took_over(store: ObjectStorage) -> None:
    with store.lease("ann"):
        store.write_atomic("ledger/a", b"1")
        held = store._held[0]
        held._beat_s -= MISSED_BEATS * HEARTBEAT_S  # as if stopped for a minute
        other = open_object_store("memory", store.root)
        other.write_atomic(LEASE_KEY, beat("bob", 9e12))
        for write in (lambda: store.write_atomic("ledger/b", b"2"), lambda: store.delete("ledger/a")):
            with pytest.raises(LeaseLost, match="belongs to bob now"):
                write()
    assert (store.list("ledger"), store.read_bytes("ledger/a")) == (("ledger/a",), b"1")
    assert b"bob" in store.read_bytes(LEASE_KEY)


def test_a_driver_that_slept_goes_on_if_nobody_took_over(store: ObjectStorage) -> None:
    with store.lease("ann"):
        held = store._held[0]
        held._beat_s -= MISSED_BEATS * HEARTBEAT_S
        store.write_atomic("a", b"1")
        assert held._clock_s() - held._beat_s < HEARTBEAT_S


def test_a_lease_that_says_nothing_is_free(store: ObjectStorage) -> None:
    store.write_atomic(LEASE_KEY, b"not json")
    with HeartbeatLease(store, "ann"):
        pass


def winners(open_store: Callable[[], ObjectStorage], drivers: int) -> list[str]:
    """Who gets the lease, of drivers that all ask at the same moment."""
    barrier, found = Barrier(drivers), []
    release = Barrier(drivers)

    def drive(name: str) -> None:
        store = open_store()
        barrier.wait()
        try:
            with HeartbeatLease(store, name):
                found.append(name)
                release.wait()
        except LeaseTaken:
            release.wait()

    threads = [Thread(target=drive, args=(f"driver {k}",)) for k in range(drivers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
