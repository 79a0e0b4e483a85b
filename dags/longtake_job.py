"""One command as a Ray job under Airflow: submitted by a worker, waited for by the triggerer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from airflow.sdk import BaseOperator, Connection, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from ray_jobs import ACTIVE, Cluster, Job, as_job, job_path, stop, submit_or_attach

LOST_AFTER = timedelta(minutes=10)
"""How long a cluster may be away before its job counts as lost."""

WRONG_COMMAND = 2
"""Exit status of a wrong command or recipe, or of wrong or damaged data: trying again is of no use."""


def cluster_of(connection: Any) -> Cluster:  # noqa: ANN401 - Airflow has two classes of connections
    """The cluster that an Airflow connection describes: host with scheme, port, and the token as password."""
    host = connection.host or ""
    scheme = "" if "://" in host else f"{connection.schema or 'http'}://"
    port = f":{connection.port}" if connection.port else ""
    return Cluster(address=f"{scheme}{host}{port}", token=connection.password or "")


class RayJobTrigger(BaseTrigger):
    """Waits until a Ray job has ended, its cluster is lost, or the deadline is over."""

    def __init__(self, *, submission_id: str, conn_id: str, deadline: str, poll_s: float) -> None:
        """Everything is plain text, because Airflow stores it.

        Args:
            submission_id: Of the job.
            conn_id: Airflow's connection to the cluster; the token is not stored here.
            deadline: ISO 8601 with offset: a trigger that is restarted keeps it.
            poll_s: Time between two looks.
        """
        super().__init__()
        self.submission_id = submission_id
        self.conn_id = conn_id
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes this trigger again."""
        names = ("submission_id", "conn_id", "deadline", "poll_s")
        return "longtake_job.RayJobTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: how the wait ended. It carries all that `finish` needs."""
        cluster = cluster_of(await Connection.async_get(self.conn_id))
        async with httpx.AsyncClient(**cluster.options) as client:
            yield TriggerEvent(await self._wait(client))

    async def _wait(self, client: httpx.AsyncClient) -> dict[str, Any]:
        deadline = datetime.fromisoformat(self.deadline)
        seen_at = datetime.now(UTC)
        while (now := datetime.now(UTC)) < deadline:
            job = await self._look(client)
            if job is not None and job.status not in ACTIVE:
                return self._event(job.status, job.exit_status, job.message)
            seen_at = now if job is not None else seen_at
            if now - seen_at > LOST_AFTER:
                return self._event("LOST", None, f"the cluster has not known the job for {LOST_AFTER}")
            await asyncio.sleep(self.poll_s)
        return self._event("DEADLINE", None, f"not done by {self.deadline}")

    async def _look(self, client: httpx.AsyncClient) -> Job | None:
        """The job, or None where the cluster is away or has forgotten it."""
        try:
            return as_job(await client.get(job_path(self.submission_id)))
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            self.log.warning("looking at %s: %s", self.submission_id, error)
            return None

    def _event(self, status: str, exit_status: int | None, message: str) -> dict[str, Any]:
        return {"submission_id": self.submission_id, "status": status, "exit_status": exit_status, "message": message}


class LongtakeJob(BaseOperator):
    """Runs a command as a Ray job and waits for it without holding a worker.

    A task that is tried again attaches to the job if it still runs, and starts the next attempt if it failed.
    """

    template_fields: Sequence[str] = ("command", "run_key")

    def __init__(
        self, *, command: Sequence[str], time_limit: timedelta, conn_id: str = "longtake_ray",
        run_key: str = "{{ dag.dag_id }}/{{ run_id }}", poll_s: float = 10.0, **options: Any,  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Says what to run.

        Args:
            command: Program and arguments as the cluster sees them; each is a template of its own.
            time_limit: From submission; then the job is stopped and the task fails.
            conn_id: Airflow's connection: host and port of Ray's dashboard, its token as password.
            run_key: Under which key a success counts as done.
            poll_s: Time between two looks.
            options: Airflow's own.
        """
        super().__init__(**options)
        self.command = command
        self.time_limit = time_limit
        self.conn_id = conn_id
        self.run_key = run_key
        self.poll_s = poll_s

    def execute(self, context: Context) -> str:
        """Submits the command or attaches to it, and hands the wait to the triggerer."""
        with self._client() as client:
            job = submit_or_attach(client, task=self.task_id, run_key=self.run_key, command=self.command)
        self.log.info("%s is %s", job.submission_id, job.status)
        if job.status not in ACTIVE:
            return job.submission_id
        deadline = (datetime.now(UTC) + self.time_limit).isoformat()
        trigger = RayJobTrigger(
            submission_id=job.submission_id, conn_id=self.conn_id, deadline=deadline, poll_s=self.poll_s
        )
        self.defer(trigger=trigger, method_name="finish")

    def finish(self, context: Context, event: dict[str, Any]) -> str:
        """What the wait came to.

        Raises:
            AirflowFailException: If the command was wrong.
            AirflowException: If the job failed in any other way; trying again may help.
        """
        if event["status"] == "SUCCEEDED":
            return event["submission_id"]
        if event["status"] == "DEADLINE":
            with self._client() as client:
                stop(client, event["submission_id"])
        said = f"{event['submission_id']}: {event['status']}, exit status {event['exit_status']}. {event['message']}"
        raise (AirflowFailException if event["exit_status"] == WRONG_COMMAND else AirflowException)(said)

    def _client(self) -> httpx.Client:
        return httpx.Client(**cluster_of(Connection.get(self.conn_id)).options)
