import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAM = """
import json, psutil, ray, sys
from pipeline.jobs.cluster import ray_cluster, refuse_impossible

with ray_cluster("local", num_cpus=1):
    refuse_impossible(cpus=1)
    try:
        refuse_impossible(cpus=2)
    except ValueError as error:
        print(error, file=sys.stderr)
    answer = ray.get(ray.remote(lambda: 6 * 7).remote())
    lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
imported = [name for name in ("aiohttp", "grpc") if name in sys.modules]
print(json.dumps([answer, lines, imported, [process.pid for process in psutil.Process().children(recursive=True)]]))
"""


def test_a_local_ray_runs_tasks_without_what_nobody_looks_at_and_leaves_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    answer, lines, imported, left = json.loads(ran.stdout.splitlines()[-1])
    assert answer == 42
    assert "a task needs 2 CPUs and 0 GPUs, and no node offers them (there are: 1 CPUs, 0 GPUs)" in ran.stderr
    assert any("gcs_server" in line for line in lines)
    assert not [line for line in lines if any(name in line for name in ("dashboard.py", "monitor.py", "log_monitor"))]
    assert not imported
    assert not left
