import shlex

import pytest

pytest.importorskip("airflow", reason="Airflow has an environment of its own: make test-dags")

import httpx
from ray_jobs import Cluster, as_job, attempt_id, job_path, stop, submit_or_attach

from tests.dags.conftest import TOKEN, FakeRay

COMMAND = ["longtake", "preprocess", "/data/my videos; rm -rf $HOME", "--dataset=/data/d"]


def submit(fake: FakeRay, run_key: str = "run-1") -> str:
    with httpx.Client(**Cluster(address=fake.address, token=TOKEN).options) as client:
        return submit_or_attach(client, task="preprocess", run_key=run_key, command=COMMAND).submission_id


def test_a_command_is_submitted_word_by_word_under_a_name_that_follows_from_it(fake_ray: FakeRay) -> None:
    submission_id = submit(fake_ray)
    (sent,) = fake_ray.submitted
    assert submission_id == sent["submission_id"] == attempt_id("preprocess", "run-1", COMMAND, 1)
    assert shlex.split(sent["entrypoint"]) == COMMAND
    assert TOKEN not in str(sent)


def test_what_runs_or_has_succeeded_is_not_submitted_again(fake_ray: FakeRay) -> None:
    fake_ray.scripts = [["RUNNING", "RUNNING", "SUCCEEDED"]]
    assert len({submit(fake_ray) for _ in range(5)}) == 1
    assert len(fake_ray.submitted) == 1
    assert submit(fake_ray, "run-2") != submit(fake_ray, "run-1")


@pytest.mark.parametrize("ended", ["FAILED", "STOPPED"])
def test_what_failed_is_tried_again_as_the_next_attempt(fake_ray: FakeRay, ended: str) -> None:
    fake_ray.scripts = [["PENDING", ended]]
    first, second = submit(fake_ray), submit(fake_ray)
    assert (first[-2:], second[-2:]) == ("-1", "-2")


def test_a_stop_reaches_the_job_and_an_unknown_job_is_none(fake_ray: FakeRay) -> None:
    submission_id = submit(fake_ray)
    with httpx.Client(**Cluster(address=fake_ray.address, token=TOKEN).options) as client:
        stop(client, submission_id)
        assert as_job(client.get(job_path("nonsense"))) is None
    assert fake_ray.stopped == [submission_id]


def test_a_wrong_token_is_an_error_and_never_stands_in_what_is_printed(fake_ray: FakeRay) -> None:
    cluster = Cluster(address=fake_ray.address, token="wrong-secret")
    with httpx.Client(**cluster.options) as client, pytest.raises(httpx.HTTPStatusError, match="401"):
        submit_or_attach(client, task="preprocess", run_key="run-1", command=COMMAND)
    assert "wrong-secret" not in repr(cluster)
