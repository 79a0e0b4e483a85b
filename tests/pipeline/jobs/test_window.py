"""What is in flight while scans and encodes share a window."""

from collections import Counter, deque
from collections.abc import Iterator

import pytest

from pipeline.jobs.window import FairQueue


def started(queue: FairQueue[str], window: int, *, slow: int) -> Iterator[tuple[int, str]]:
    """In which order a window of tasks starts them, where those of one kind only end if no others are out."""
    out: deque[tuple[int, str]] = deque()
    while True:
        while len(out) < window and (taken := queue.take()):
            out.append(taken)
            yield taken
        if not out:
            return
        ends = next((task for task in out if task[0] != slow), out[0])
        out.remove(ends)
        queue.done(ends[0])


def test_scans_start_at_once_and_never_wait_for_encodes() -> None:
    encodes, scans = [f"encode {i}" for i in range(200)], [f"scan {i}" for i in range(256)]
    order = [name for _, name in started(FairQueue(encodes, scans), 64, slow=0)]
    assert order[:4] == ["encode 0", "scan 0", "encode 1", "scan 1"]
    assert Counter(name.split()[0] for name in order[: 32 + 256]) == {"encode": 32, "scan": 256}
    assert sorted(order) == sorted(encodes + scans)


@pytest.mark.parametrize("slow", [0, 1])
def test_a_kind_without_tasks_leaves_the_whole_window_to_the_other(slow: int) -> None:
    alone = FairQueue[str](*([[], list("abcdef")] if slow else [list("abcdef"), []]))
    taken = [alone.take() for _ in range(4)]
    assert taken == [(slow, name) for name in "abcd"]


def test_tasks_are_made_when_they_are_due() -> None:
    made: list[int] = []
    queue = FairQueue((made.append(i) or i for i in range(9)), ())
    queue.take()
    assert made == [0]


def test_a_task_that_lost_its_worker_comes_next_of_its_kind_also_if_it_was_the_last() -> None:
    queue = FairQueue(["a", "b"], ["x"])
    assert [queue.take(), queue.take()] == [(0, "a"), (1, "x")]
    for kind, name in ((0, "a"), (1, "x")):
        queue.done(kind)
        queue.again(kind, name)
    assert [queue.take(), queue.take(), queue.take(), queue.take()] == [(0, "a"), (1, "x"), (0, "b"), None]
