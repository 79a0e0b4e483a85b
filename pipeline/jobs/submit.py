"""Any command as a Ray job: one deterministic id an attempt, its log followed, its exit status ours."""

import asyncio
import hashlib
import json
import logging
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import aiohttp
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from pipeline.jobs.access import connect, refuse_secrets

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""Time between two looks at a job."""

STOP_TIMEOUT_S = 30.0
"""How long a stopped job may take to end; Ray kills it after a few seconds."""


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """A Ray job, as far as it concerns who submitted it.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_status: 0 if it succeeded, the command's own if it failed, 1 if it was stopped or never started; None before its end.
        message: Ray's sentence about the status.
    """

    submission_id: str
    status: str
    entrypoint: str
    exit_status: int | None
    message: str


def submission_base(command: Sequence[str], run_key: str | None) -> str:
    """The part of the submission id that all attempts at one command share."""
    digest = hashlib.sha256(json.dumps([list(command), run_key]).encode()).hexdigest()[:12]
    words = [PurePosixPath(word).name for word in command[:2] if not word.startswith("-")]
    return f"{re.sub('[^a-z0-9]+', '-', '-'.join(words).lower()).strip('-') or 'job'}-{digest}"


def submit(
    command: Sequence[str], *, address: str, wait: bool, run_key: str | None, write: Callable[[str], object]
) -> JobSummary:
    """Runs a command as a Ray job, or attaches to the one that runs it already.

    Args:
        command: Program and arguments as the cluster sees them: its paths, its PATH.
        address: Of Ray's dashboard, ``http://host:port``.
        wait: Follow the log until the job ends; else come back once it is submitted.
        run_key: Who asks, for schedulers: with one, a job that succeeded is done and not run again.
        write: Takes pieces of the log.

    Raises:
        ValueError: If the command holds a password, or the cluster is open to everybody.
        ConnectionError: If the cluster does not answer, or is lost on the way; the same call attaches again.
    """
    refuse_secrets(command)
    client = connect(address)
    job = _submit_or_attach(client, command, run_key)
    return _follow(client, job.submission_id, write) if wait and job.exit_status is None else job


def jobs(address: str) -> tuple[JobSummary, ...]:
    """All jobs that were submitted to the cluster, oldest first."""
    found = sorted(connect(address).list_jobs(), key=lambda job: job.start_time or 0)
    return tuple(_summary(job) for job in found if job.submission_id)


def logs(submission_id: str, *, address: str, follow: bool, write: Callable[[str], object]) -> JobSummary:
    """Writes the log of a job: what there is, or until the job ends.

    Raises:
        ValueError: If there is no such job.
    """
    client = connect(address)
    job = _job(client, submission_id)
    if follow:
        return _follow(client, submission_id, write)
    write(client.get_job_logs(submission_id))
    return job


def stop(submission_id: str, *, address: str) -> JobSummary:
    """Ends a job and waits until it has ended.

    Raises:
        ValueError: If there is no such job.
        TimeoutError: If it did not end.
    """
    client = connect(address)
    job = _job(client, submission_id)
    client.stop_job(submission_id)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while job.exit_status is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {submission_id} is still {job.status} {STOP_TIMEOUT_S:.0f} s after it was stopped")
        time.sleep(POLL_S)
        job = _job(client, submission_id)
    return job


# --- attempts --------------------------------------------------------------------------------------------------------


def _submit_or_attach(client: JobSubmissionClient, command: Sequence[str], run_key: str | None) -> JobSummary:
    base = submission_base(command, run_key)
    attempt, newest = _newest_attempt(client, base)
    if newest is not None and newest.exit_status is None:
        logger.info("attaching to %s, which is %s", newest.submission_id, newest.status)
        return newest
    if newest is not None and newest.exit_status == 0 and run_key is not None:
        logger.info("%s has succeeded for run key %s already", newest.submission_id, run_key)
        return newest
    return _start(client, f"{base}-{attempt + 1}", command, run_key)


def _newest_attempt(client: JobSubmissionClient, base: str) -> tuple[int, JobSummary | None]:
    """Number and state of the newest attempt; 0 and None before the first."""
    mine = re.compile(rf"{re.escape(base)}-(\d+)")
    attempts: dict[int, JobDetails] = {}
    for job in client.list_jobs():
        if match := mine.fullmatch(job.submission_id or ""):
            attempts[int(match[1])] = job
    newest = max(attempts, default=0)
    return newest, _summary(attempts[newest]) if newest else None


def _start(client: JobSubmissionClient, submission_id: str, command: Sequence[str], run_key: str | None) -> JobSummary:
    """Starts an attempt; if somebody else was faster by a moment, theirs is ours."""
    metadata = {"submitted_by": "longtake", **({"run_key": run_key} if run_key is not None else {})}
    try:
        client.submit_job(entrypoint=shlex.join(command), submission_id=submission_id, metadata=metadata)
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise
        logger.info("attaching to %s, which was submitted this moment", submission_id)
    return _job(client, submission_id)


def _job(client: JobSubmissionClient, submission_id: str) -> JobSummary:
    try:
        return _summary(client.get_job_info(submission_id))
    except RuntimeError as error:
        if "404" not in str(error):
            raise
        raise ValueError(f"the cluster knows no job {submission_id}; longtake jobs lists them") from error


def _summary(job: JobDetails) -> JobSummary:
    return JobSummary(
        submission_id=job.submission_id or "",
        status=job.status.value,
        entrypoint=job.entrypoint,
        exit_status=exit_status(job.status, job.driver_exit_code),
        message=job.message or "",
    )


def exit_status(status: JobStatus, driver_exit_code: int | None) -> int | None:
    """The exit status of whoever waited for a job, as a shell would give it; None while it has not ended."""
    if not status.is_terminal():
        return None
    if status is JobStatus.SUCCEEDED:
        return 0
    if status is JobStatus.STOPPED or not driver_exit_code:
        return 1
    return driver_exit_code if driver_exit_code > 0 else 128 - driver_exit_code


# --- the log ---------------------------------------------------------------------------------------------------------


def _follow(client: JobSubmissionClient, submission_id: str, write: Callable[[str], object]) -> JobSummary:
    """Writes the log as it grows until the job has ended.

    Raises:
        ConnectionError: If the cluster is lost; the job may go on.
    """
    written = 0
    try:
        while True:
            written = asyncio.run(_tail(client, submission_id, write, skip=written))
            job = _job(client, submission_id)
            if job.exit_status is not None:
                return job
            time.sleep(POLL_S)
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        raise ConnectionError(
            f"lost sight of {submission_id}, which may go on; submit again to attach: {error}"
        ) from error


async def _tail(client: JobSubmissionClient, submission_id: str, write: Callable[[str], object], *, skip: int) -> int:
    """Writes the log but its first `skip` characters, as long as Ray streams it; the number of characters seen."""
    seen = 0
    async for piece in client.tail_job_logs(submission_id):
        fresh = piece[max(0, skip - seen) :]
        seen += len(piece)
        if fresh:
            write(fresh)
    return max(seen, skip)
