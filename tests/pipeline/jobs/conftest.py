"""A Ray for all commands of a module that run inside the test's process."""

from collections.abc import Iterator

import pytest

from pipeline.jobs.cluster import ray_cluster


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Started as a command starts its own."""
    with ray_cluster("local", num_cpus=2):
        yield
