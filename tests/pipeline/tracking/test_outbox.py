"""A server that is away costs a warning; what it missed waits, in its order."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED

from pipeline.tracking.outbox import RETRY_AFTER_S, Outbox


class Server:
    """Takes numbers while it is there."""

    def __init__(self) -> None:
        self.is_there = True
        self.got: list[int] = []
        self.asked = 0

    def connect(self) -> "Server":
        self._answer()
        return self

    def take(self, number: int) -> None:
        self._answer()
        self.got.append(number)

    def _answer(self) -> None:
        self.asked += 1
        if not self.is_there:
            raise ConnectionError("http://user:secret@host refuses")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def put(outbox: Outbox[Server], number: int) -> None:
    outbox.add("metrics", lambda server: server.take(number))


def end(outbox: Outbox[Server], number: int) -> bool:
    return outbox.close("status FINISHED", lambda server: server.take(number))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def outbox(server: Server, clock: Clock) -> Outbox[Server]:
    return Outbox(server.connect, server="http://user:secret@host", kept_in="metrics.jsonl", clock=clock)


def test_a_server_that_is_away_from_the_start_gets_everything_when_it_answers(
    outbox: Outbox[Server], server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.is_there = False
    outbox.deliver()
    put(outbox, 1)
    server.is_there = True
    put(outbox, 2)
    assert server.got == []  # too early to ask again

    clock.now_s = RETRY_AFTER_S
    put(outbox, 3)

    assert server.got == [1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "tracking is away: http://host refuses; the work goes on, and what is missed is tracked later",
        "http://host answers again: what it missed is tracked now",
    ]


def test_a_server_that_stays_away_is_asked_twice_a_minute_and_warned_about_once(
    outbox: Outbox[Server], server: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.is_there = False
    for second in range(600):
        clock.now_s = float(second)
        put(outbox, second)
    assert server.asked == 20
    assert len(caplog.records) == 1


def test_what_never_arrived_is_named_in_the_end_with_the_place_where_it_is(
    outbox: Outbox[Server], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    put(outbox, 1)
    server.is_there = False
    for number in (2, 3):
        put(outbox, number)
    assert not end(outbox, 4)
    away, end_of_it = (record.getMessage() for record in caplog.records)
    assert away.startswith("tracking is away")
    assert end_of_it == (
        "http://host did not come back; not tracked: metrics (2 times), status FINISHED; see metrics.jsonl"
    )
    assert server.got == [1]


def test_the_end_asks_a_server_again_that_was_away_a_moment_ago(outbox: Outbox[Server], server: Server) -> None:
    server.is_there = False
    put(outbox, 1)
    server.is_there = True
    assert end(outbox, 2)
    assert server.got == [1, 2]


@given(st.lists(st.booleans(), max_size=20))
def test_whatever_the_outages_everything_arrives_once_and_in_order(there: list[bool]) -> None:
    server, clock = Server(), Clock()
    outbox = Outbox(server.connect, server="host", kept_in="metrics.jsonl", clock=clock)
    for number, is_there in enumerate(there):
        server.is_there = is_there
        put(outbox, number)
        assert server.got == list(range(len(server.got)))
        clock.now_s += 0.7 * RETRY_AFTER_S
    server.is_there = True
    end(outbox, len(there))
    assert server.got == list(range(len(there) + 1))


def test_a_server_that_lets_nobody_in_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def refuse() -> Server:
        asked.append(1)
        raise MlflowException("who are you?", error_code=PERMISSION_DENIED)

    outbox = Outbox(refuse, server="host", kept_in="metrics.jsonl", clock=Clock())
    for number in range(3):
        put(outbox, number)
    assert not end(outbox, 3)
    assert len(asked) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "tracking is off: who are you?; the work goes on without it"
    ]


def refuse_it(error: Exception, _server: Server) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [MlflowException("a bad name", error_code=INVALID_PARAMETER_VALUE), FileNotFoundError("it is gone")]
)
def test_what_is_refused_does_not_hold_up_the_rest(
    error: Exception, outbox: Outbox[Server], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.add("artifact a.png", partial(refuse_it, error))
    put(outbox, 1)
    assert server.got == [1]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("not tracked: artifact a.png: ")
