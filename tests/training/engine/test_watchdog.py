import threading
from pathlib import Path

import pytest

from training.engine.watchdog import LOOKS, Beat, Patience, Pulse, hang_message, watch


def watched(pulse: Pulse, folder: Path, heard: list[str], hung: threading.Event, rank: int = 0):  # noqa: ANN201
    def on_hang(message: str) -> None:
        heard.append(message)
        hung.set()

    return watch(pulse, folder, rank=rank, num_ranks=2, timeout_s=0.2, on_hang=on_hang)


def beats(*meetings: int, num_bytes: int = 0) -> dict[int, Beat]:
    """Of each rank; the last one writes."""
    written = [0] * (len(meetings) - 1) + [num_bytes]
    return {rank: Beat(meetings=m, num_bytes=n) for rank, (m, n) in enumerate(zip(meetings, written, strict=True))}


def test_a_rank_that_waits_in_vain_names_who_did_not_come(tmp_path: Path) -> None:
    heard, hung, waiting = [], threading.Event(), Pulse()
    with watched(Pulse(), tmp_path, heard, hung, rank=1), watched(waiting, tmp_path, heard, hung), waiting.meeting():
        assert hung.wait(5)
    assert heard == ["rank 1 did not come to where rank 0 waits: no progress for 0.2 s (train.engine.step_timeout_s)"]


def test_a_rank_that_computes_for_long_is_left_alone(tmp_path: Path) -> None:
    heard, hung = [], threading.Event()
    with watched(Pulse(), tmp_path, heard, hung):
        assert not hung.wait(0.6)


def test_a_rank_that_waits_for_one_that_makes_progress_is_left_alone() -> None:
    patience = Patience()
    looks = [beats(1, step) for step in range(5) for _ in range(LOOKS)]
    assert not any(patience.runs_out(look, waiting=True) for look in looks)


def test_a_rank_that_waits_while_another_writes_is_left_alone() -> None:
    patience = Patience()
    looks = [beats(2, 1, num_bytes=written) for written in range(5) for _ in range(LOOKS)]
    assert not any(patience.runs_out(look, waiting=True) for look in looks)


def test_files_that_grow_are_progress_while_a_rank_writes_and_not_after(tmp_path: Path) -> None:
    pulse = Pulse()
    with pulse.meeting(writing=tmp_path):
        (tmp_path / "a").write_bytes(b"12")
        assert pulse.beat() == Beat(meetings=1, num_bytes=2)
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "b").write_bytes(b"345")
        assert pulse.beat() == Beat(meetings=1, num_bytes=5)
    assert pulse.beat() == Beat(meetings=1)


def test_what_a_rank_reads_is_progress(tmp_path: Path) -> None:
    pulse = Pulse()
    with pulse.meeting(writing=tmp_path):
        pulse.has_read()
    pulse.has_read()
    assert pulse.beat() == Beat(meetings=1, num_read=2)
    looks = [{0: Beat(meetings=2), 1: Beat(meetings=1, num_read=n)} for n in range(5) for _ in range(LOOKS)]
    patience = Patience()
    assert not any(patience.runs_out(look, waiting=True) for look in looks)


def test_a_rank_that_waits_for_one_that_reads_is_left_alone(tmp_path: Path) -> None:
    heard, hung, waiting, reading = [], threading.Event(), Pulse(), Pulse()
    with watched(reading, tmp_path, heard, hung, rank=1), watched(waiting, tmp_path, heard, hung), waiting.meeting():
        for _ in range(60):
            reading.has_read()
            assert not hung.wait(0.02)
        assert hung.wait(5)  # it reads no more


def test_patience_runs_out_after_a_time_out_of_looks_without_progress() -> None:
    patience = Patience()
    looks = [patience.runs_out(beats(1, 0), waiting=True) for _ in range(LOOKS + 2)]
    assert looks == [False] * (LOOKS + 1) + [True]


def test_what_was_waited_before_does_not_count() -> None:
    patience = Patience()
    waiting = [True] * LOOKS + [False] + [True] * LOOKS
    assert not any(patience.runs_out(beats(1, 0), waiting=now) for now in waiting)


def test_a_rank_that_never_wrote_did_not_come_either(tmp_path: Path) -> None:
    heard, hung, waiting = [], threading.Event(), Pulse()
    with watched(waiting, tmp_path, heard, hung), waiting.meeting():
        assert hung.wait(5)
    assert "rank 1 did not come" in heard[0]


@pytest.mark.parametrize(
    ("meetings", "expected"),
    [
        ({0: 5, 1: 4, 2: 5}, "rank 1 did not come to where ranks 0, 2 wait"),
        ({0: 5, 1: 4, 2: 4}, "ranks 1, 2 did not come to where rank 0 waits"),
        ({0: 5, 1: 5}, "all ranks wait for each other"),
    ],
)
def test_who_has_met_the_others_less_often_is_missing(meetings: dict[int, int], expected: str) -> None:
    assert hang_message(meetings, 600.0).startswith(expected)
