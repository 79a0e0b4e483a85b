import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow has an environment of its own: make test-dags")

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from longtake_job import LongtakeJob, RayJobTrigger, cluster_of

from tests.dags.conftest import FakeRay

CONTEXT: Any = {}


def job(**options: Any) -> LongtakeJob:
    settings = {"command": ["longtake", "doctor"], "run_key": "k", "time_limit": timedelta(hours=1), "poll_s": 0.05}
    return LongtakeJob(task_id="doctor", **(settings | options))


def deferred(operator: LongtakeJob) -> RayJobTrigger:
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(CONTEXT)
    assert caught.value.method_name == "finish"
    assert not caught.value.kwargs, "what finish needs comes in the event"
    assert isinstance(caught.value.trigger, RayJobTrigger)
    return caught.value.trigger


def event_of(trigger: RayJobTrigger) -> dict[str, Any]:
    async def first() -> Any:
        return await anext(trigger.run())

    return asyncio.run(asyncio.wait_for(first(), timeout=20)).payload


def test_a_job_is_submitted_waited_for_and_its_name_comes_back(fake_ray: FakeRay) -> None:
    fake_ray.scripts = [["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]]
    operator = job()
    event = event_of(deferred(operator))
    assert operator.finish(CONTEXT, event) == fake_ray.submitted[0]["submission_id"]
    assert operator.execute(CONTEXT) == fake_ray.submitted[0]["submission_id"], "a success is not waited for again"


@pytest.mark.parametrize(("exit_status", "kind"), [(1, AirflowException), (2, AirflowFailException)])
def test_a_wrong_command_is_not_tried_again_and_any_other_failure_is(
    fake_ray: FakeRay, exit_status: int, kind: type[Exception]
) -> None:
    fake_ray.scripts, fake_ray.exit_status = [["PENDING", "FAILED"]], exit_status
    operator = job()
    event = event_of(deferred(operator))
    with pytest.raises(AirflowException, match=f"exit status {exit_status}") as caught:
        operator.finish(CONTEXT, event)
    assert type(caught.value) is kind


def test_at_its_deadline_the_job_is_stopped_and_the_task_fails(fake_ray: FakeRay) -> None:
    fake_ray.scripts = [["RUNNING"]]
    operator = job(time_limit=timedelta(seconds=0.3))
    event = event_of(deferred(operator))
    with pytest.raises(AirflowException, match="DEADLINE"):
        operator.finish(CONTEXT, event)
    assert fake_ray.stopped == [fake_ray.submitted[0]["submission_id"]]


def test_a_trigger_that_is_made_again_keeps_the_deadline_and_stores_no_token(fake_ray: FakeRay) -> None:
    trigger = deferred(job())
    classpath, stored = trigger.serialize()
    assert classpath == "longtake_job.RayJobTrigger"
    again = RayJobTrigger(**stored)
    assert again.serialize() == (classpath, stored)
    assert datetime.fromisoformat(stored["deadline"]) > datetime.now(UTC)
    assert "test-token" not in str(stored)


def test_a_cluster_that_is_away_for_a_while_is_waited_for(fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longtake_job.LOST_AFTER", timedelta(seconds=0.3))
    trigger = deferred(job())
    fake_ray.left.clear()
    event = event_of(trigger)
    assert (event["status"], event["exit_status"]) == ("LOST", None)


def test_a_connection_is_a_host_with_or_without_its_scheme() -> None:
    plain = Connection(conn_id="c", conn_type="http", host="head", port=8265, password="t")
    assert cluster_of(plain).address == "http://head:8265"
    assert cluster_of(Connection(conn_id="c", conn_type="http", host="https://head")).address == "https://head"
