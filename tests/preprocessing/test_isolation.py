import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing import isolation
from preprocessing.isolation import ChildFailed, IsolatedWorker, sign_of_life
from preprocessing.reasons import Reason


def count(n: int) -> Iterator[int | None]:
    for i in range(n):
        yield None
        yield i


def pids() -> Iterator[int]:
    yield os.getpid()


def sleep_after_one(seconds: float) -> Iterator[int]:
    yield 1
    time.sleep(seconds)
    yield 2


def tick_slowly(n: int) -> Iterator[int | None]:
    for _ in range(n):
        time.sleep(0.3)
        yield None
    yield n


def spin_with_the_gil() -> Iterator[int]:
    yield 1
    sum(range(1 << 60))  # one C call that never lets go


def grow(mib: int) -> Iterator[int]:
    yield int(np.ones(mib << 20, np.uint8)[-1])


def die(number: int) -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), number)


def die_in_the_middle_of_an_item() -> Iterator[NDArray[np.uint8]]:
    yield np.zeros(1, np.uint8)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    yield np.zeros(8 << 20, np.uint8)


def abort_like_cxx() -> Iterator[int]:
    yield 1
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def refuse(message: str) -> Iterator[int]:
    raise ValueError(message)
    yield


def work(cpu_s: float) -> Iterator[int]:
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass
    yield 1


class Unpicklable(Exception):
    def __init__(self, _one: str, _two: str) -> None:
        super().__init__("said once")


def raise_unpicklable() -> Iterator[int]:
    raise Unpicklable("a", "b")
    yield


def environment() -> Iterator[str]:
    yield os.environ["OMP_NUM_THREADS"]


@pytest.fixture
def worker() -> Iterator[IsolatedWorker]:
    with IsolatedWorker(progress_timeout_s=1.0, memory_limit_mb=300) as worker:
        yield worker


def test_items_arrive_in_order_and_ticks_do_not(worker: IsolatedWorker) -> None:
    assert list(worker.stream(count, 5)) == [0, 1, 2, 3, 4]
    assert worker.call(count, 5) == 4


def test_one_child_serves_many_calls_until_it_dies(worker: IsolatedWorker) -> None:
    first = worker.call(pids)
    assert first == worker.call(pids) != os.getpid()
    with pytest.raises(ChildFailed):
        worker.call(die, signal.SIGSEGV)
    assert worker.call(pids) != first


def test_a_hang_is_a_timeout_even_with_the_interpreter_lock_held(worker: IsolatedWorker) -> None:
    got = []
    with pytest.raises(ChildFailed, match="no progress for 1 s") as failure:
        got.extend(worker.stream(spin_with_the_gil))
    assert failure.value.reason is Reason.TIMEOUT


def test_what_came_before_a_hang_was_delivered(worker: IsolatedWorker) -> None:
    stream = worker.stream(sleep_after_one, 60)
    assert next(stream) == 1
    with pytest.raises(ChildFailed):
        next(stream)


def test_a_death_in_the_middle_of_an_item_is_a_death(worker: IsolatedWorker) -> None:
    stream = worker.stream(die_in_the_middle_of_an_item)
    next(stream)
    time.sleep(0.8)  # the second item waits half sent, for it is larger than the pipe
    with pytest.raises(ChildFailed, match="SIGKILL") as failure:
        next(stream)
    assert failure.value.reason is Reason.CRASHED


def test_progress_restarts_the_deadline(worker: IsolatedWorker) -> None:
    assert worker.call(tick_slowly, 5) == 5


def test_a_slow_consumer_is_not_a_hang(worker: IsolatedWorker) -> None:
    stream = worker.stream(count, 3)
    assert next(stream) == 0
    time.sleep(1.2)
    assert list(stream) == [1, 2]


@pytest.mark.parametrize(("function", "args"), [(grow, (400,)), (abort_like_cxx, ())])
def test_outgrowing_the_memory_limit_is_told_apart(worker: IsolatedWorker, function, args) -> None:  # noqa: ANN001
    with pytest.raises(ChildFailed) as failure:
        worker.call(function, *args)
    assert failure.value.reason is Reason.OUT_OF_MEMORY
    assert worker.call(grow, 50) == 1


def test_death_is_a_crash_with_its_signal(worker: IsolatedWorker) -> None:
    with pytest.raises(ChildFailed, match="SIGSEGV") as failure:
        worker.call(die, signal.SIGSEGV)
    assert failure.value.reason is Reason.CRASHED


def test_who_was_killed_from_outside_is_told_from_who_died_of_its_file(worker: IsolatedWorker) -> None:
    for number, from_outside in ((signal.SIGSEGV, False), (signal.SIGKILL, True)):
        with pytest.raises(ChildFailed) as failure:
            worker.call(die, number)
        assert failure.value.from_outside == from_outside
        assert pickle.loads(pickle.dumps(failure.value)).from_outside == from_outside  # noqa: S301 - our own bytes


def hang_up_and_live() -> Iterator[int]:
    yield 1
    os.closerange(3, 4096)
    time.sleep(60)


def test_a_child_that_hangs_up_and_lives_on_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_LAST_BREATH_S", 0.3)
    with IsolatedWorker(progress_timeout_s=30, memory_limit_mb=2048) as patient:
        pid = patient.call(pids)
        with pytest.raises(ChildFailed, match="closed its connection"):
            patient.call(hang_up_and_live)
    assert not Path(f"/proc/{pid}").exists()


def test_what_the_function_raises_is_raised_here_and_the_child_lives_on(worker: IsolatedWorker) -> None:
    pid = worker.call(pids)
    with pytest.raises(ValueError, match="so it is"):
        worker.call(refuse, "so it is")
    with pytest.raises(RuntimeError, match="Unpicklable: said once"):
        worker.call(raise_unpicklable)
    assert worker.call(pids) == pid


def test_a_consumer_may_leave_early(worker: IsolatedWorker) -> None:
    stream = worker.stream(count, 1000)
    assert next(stream) == 0
    stream.close()
    assert worker.call(count, 2) == 1


def test_threads_are_pinned(worker: IsolatedWorker) -> None:
    assert worker.call(environment) == "1"


def test_the_child_dies_with_a_parent_killed_by_force(tmp_path: Path) -> None:
    script = (
        "import sys; from preprocessing.isolation import IsolatedWorker; from tests.preprocessing import test_isolation as t\n"
        "worker = IsolatedWorker(progress_timeout_s=60, memory_limit_mb=300)\n"
        "print(worker.call(t.pids), flush=True); worker.call(t.spin_with_the_gil)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child_pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{child_pid}").exists()


def alive_but_silent(n: int) -> Iterator[int]:
    for _ in range(n):
        time.sleep(0.3)
        sign_of_life()
    yield n


def test_a_sign_of_life_restarts_the_deadline(worker: IsolatedWorker) -> None:
    assert worker.call(alive_but_silent, 5) == 5
    sign_of_life()  # outside a child it does nothing


def test_what_a_child_spent_is_counted_once_while_it_lives_and_after_its_death() -> None:
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=256) as worker:
        since = worker.spent()
        worker.call(work, 0.3)
        living = worker.spent() - since
        worker.close()
        dead = worker.spent() - since
        assert 0.3 <= living.cpu_s <= dead.cpu_s <= living.cpu_s + 0.2
        assert living.wall_s >= 0.3
        with pytest.raises(ChildFailed):
            worker.call(die, signal.SIGKILL)
        assert (worker.spent() - since).cpu_s > dead.cpu_s
