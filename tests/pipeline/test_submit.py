import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.job_submission import JobStatus

from pipeline.jobs.access import answers_without_token
from pipeline.jobs.submit import JobSummary, exit_status, jobs, logs, stop, submission_base, submit
from tests.pipeline.conftest import RayHead

WHERE_AM_I = """
import json, ray
from pipeline.jobs.cluster import ray_cluster
with ray_cluster(None):
    print("HERE", json.dumps([ray.get_runtime_context().gcs_address, len(ray.nodes())]))
"""


def run(head: RayHead, *words: str, wait: bool = True, run_key: str | None = None) -> tuple[JobSummary, str]:
    """Submits `python -c words...`; the job and what it wrote."""
    written: list[str] = []
    command = [sys.executable, "-c", *words]
    job = submit(command, address=head.address, wait=wait, run_key=run_key, write=written.append)
    return job, "".join(written)


def test_a_command_and_its_run_key_have_one_name_and_others_have_another() -> None:
    command = ["longtake", "preprocess", "/data/a b", "--dataset", "/d"]
    base = submission_base(command, None)
    assert base == submission_base(tuple(command), None)
    assert base.startswith("longtake-preprocess-")
    others = [["longtake", "preprocess", "/data/a", "b", "--dataset", "/d"], [*command, ""]]
    assert len({base, submission_base(command, "nightly"), *(submission_base(one, None) for one in others)}) == 4


@pytest.mark.parametrize(
    ("status", "driver", "ours"),
    [
        (JobStatus.SUCCEEDED, 0, 0), (JobStatus.FAILED, 3, 3), (JobStatus.FAILED, -9, 137), (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, 0, 1), (JobStatus.RUNNING, None, None), (JobStatus.PENDING, None, None),
    ],
)  # fmt: skip
def test_the_exit_status_is_what_a_shell_would_give(status: JobStatus, driver: int | None, ours: int | None) -> None:
    assert exit_status(status, driver) == ours


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_runs_on_the_cluster_that_it_was_submitted_to_and_its_log_comes_back(ray_head: RayHead) -> None:
    job, log = run(ray_head, WHERE_AM_I)
    assert job.exit_status == 0, log
    gcs_address, num_nodes = json.loads(log.split("HERE ")[1].splitlines()[0])
    assert gcs_address.endswith(ray_head.gcs_address)
    assert num_nodes == 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_failing_command_gives_its_exit_status_and_its_words_are_never_a_shells(ray_head: RayHead) -> None:
    job, log = run(ray_head, "import sys; print(sys.argv[1]); sys.exit(3)", "$(id); echo `id` 'два слова'")
    assert job.exit_status == 3
    assert "$(id); echo `id` 'два слова'" in log


@pytest.mark.ray
@pytest.mark.slow
def test_submitting_a_running_command_again_attaches_and_a_stopped_one_starts_anew(ray_head: RayHead) -> None:
    sleep = "import time; print('asleep', flush=True); time.sleep(300)"
    first, _ = run(ray_head, sleep, wait=False)
    again, _ = run(ray_head, sleep, wait=False)
    assert first.exit_status is None
    assert first.submission_id == again.submission_id
    stopped = stop(first.submission_id, address=ray_head.address)
    assert (stopped.status, stopped.exit_status) == ("STOPPED", 1)
    third, _ = run(ray_head, sleep, wait=False)
    assert third.submission_id == first.submission_id.removesuffix("1") + "2"
    stop(third.submission_id, address=ray_head.address)
    listed = [job.submission_id for job in jobs(ray_head.address)]
    assert listed.count(first.submission_id) == listed.count(third.submission_id) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_for_a_scheduler_a_success_is_done_and_for_a_person_it_is_run_again(ray_head: RayHead) -> None:
    hello = "print('hello')"
    first, _ = run(ray_head, hello, run_key="2026-11-21")
    started = time.monotonic()
    again, log = run(ray_head, hello, run_key="2026-11-21")
    assert (again.submission_id, again.exit_status, log) == (first.submission_id, 0, "")
    assert time.monotonic() - started < 10
    by_hand = [run(ray_head, hello)[0].submission_id for _ in range(2)]
    assert by_hand[0] != by_hand[1]
    written: list[str] = []
    assert logs(by_hand[1], address=ray_head.address, follow=False, write=written.append).exit_status == 0
    assert "hello" in "".join(written)


@pytest.mark.ray
@pytest.mark.slow
def test_without_the_token_nobody_gets_in(ray_head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not answers_without_token(ray_head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(ValueError, match="does not take our token"):
        jobs(ray_head.address)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_does_not_exist_is_the_users_mistake(ray_head: RayHead) -> None:
    with pytest.raises(ValueError, match="knows no job nonsense"):
        stop("nonsense", address=ray_head.address)


@pytest.mark.ray
@pytest.mark.slow
def test_longtake_in_a_job_uses_that_cluster_and_starts_no_second_ray(ray_head: RayHead, tmp_path: Path) -> None:
    video = Path("../shared/videos/coffee_pour.mp4").resolve()
    if not video.is_file():
        pytest.skip(f"no {video}")
    longtake = str(Path(sys.executable).parent / "longtake")
    inside = ["longtake", "preprocess", str(video), "--dataset", str(tmp_path / "d"), "--tracking-uri", "none"]
    child = subprocess.Popen([longtake, "submit", "--address", ray_head.address, "--wait", "--", *inside])
    most = 0
    while child.poll() is None:
        most = max(most, ray_head.num_clusters())
        time.sleep(0.5)
    assert child.returncode == 0
    assert most == 1
    assert list((tmp_path / "d" / "shards").rglob("*.tar"))
    wrong = [
        longtake,
        "submit",
        "--address",
        ray_head.address,
        "--wait",
        "--",
        "longtake",
        "verify",
        str(tmp_path / "x"),
    ]
    assert subprocess.run(wrong, check=False).returncode == 2
