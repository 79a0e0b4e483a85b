"""Ray's jobs over REST: submit a command once, look at it, stop it. Knows neither Ray nor Airflow."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

ACTIVE = ("PENDING", "RUNNING")
MAX_MESSAGE = 2000
"""Ray's message ends with the end of the log; a database takes no more than this of it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A Ray job as its cluster describes it.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_status: The command's own, None if it has none (yet).
    """

    submission_id: str
    status: str
    exit_status: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Ray's dashboard and the token that it asks for."""

    address: str
    token: str

    def __repr__(self) -> str:
        """The address alone: the token is a secret."""
        return f"Cluster({self.address})"

    @property
    def options(self) -> dict[str, Any]:
        """What both of httpx's clients take."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return {"base_url": self.address, "headers": headers, "timeout": 30.0}


def attempt_id(task: str, run_key: str, command: Sequence[str], attempt: int) -> str:
    """The submission id of one attempt: whoever asks for the same work gets the same name."""
    digest = hashlib.sha256(json.dumps([run_key, list(command)]).encode()).hexdigest()[:12]
    return f"{re.sub('[^a-z0-9]+', '-', task.lower())}-{digest}-{attempt}"


def job_path(submission_id: str) -> str:
    """Where a job is looked at."""
    return f"/api/jobs/{submission_id}"


def as_job(answer: httpx.Response) -> Job | None:
    """The job of an answer; None if the cluster knows no such job.

    Raises:
        httpx.HTTPStatusError: If the answer is any other error.
    """
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    found: Mapping[str, Any] = answer.raise_for_status().json()
    return Job(
        submission_id=found["submission_id"],
        status=found["status"],
        exit_status=found.get("driver_exit_code"),
        message=(found.get("message") or "")[-MAX_MESSAGE:],
    )


def submit_or_attach(client: httpx.Client, *, task: str, run_key: str, command: Sequence[str]) -> Job:
    """The attempt that is under way or has succeeded, else a new one.

    Args:
        client: To the cluster.
        task: What people call the work.
        run_key: Which run of the schedule asks.
        command: Program and arguments; no shell reads them as anything else.
    """
    for attempt in count(1):
        submission_id = attempt_id(task, run_key, command, attempt)
        job = as_job(client.get(job_path(submission_id))) or _submit(client, submission_id, run_key, command)
        if job.status in ACTIVE or job.status == "SUCCEEDED":
            return job
    raise AssertionError("attempts are counted without end")


def _submit(client: httpx.Client, submission_id: str, run_key: str, command: Sequence[str]) -> Job:
    """Starts an attempt; if somebody else was faster by a moment, theirs is ours."""
    body = {
        "entrypoint": shlex.join(command),
        "submission_id": submission_id,
        "metadata": {"submitted_by": "airflow", "run_key": run_key},
    }
    answer = client.post("/api/jobs/", json=body)
    job = as_job(client.get(job_path(submission_id)))
    if job is None:
        raise RuntimeError(f"Ray did not take {submission_id}: {answer.status_code} {answer.text[-MAX_MESSAGE:]}")
    return job


def stop(client: httpx.Client, submission_id: str) -> None:
    """Asks for the end of a job; one that has ended already stays as it is."""
    client.post(f"{job_path(submission_id)}/stop").raise_for_status()
