import threading
from collections.abc import Iterator

import pytest

from preprocessing.clip_frames import ahead


def test_items_are_made_ahead_and_never_more_than_allowed() -> None:
    made, enough = [], threading.Event()

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            if len(made) == 4:
                enough.set()
            yield i

    stream = ahead(items(), depth=3)
    assert next(stream) == 0
    assert enough.wait(10)  # one taken and three that wait
    assert made == [0, 1, 2, 3]
    assert list(stream) == list(range(1, 10))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise MemoryError

    stream = ahead(items(), depth=5)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(MemoryError):
        next(stream)


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    stream = ahead(iter(range(1000)), depth=3)
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
