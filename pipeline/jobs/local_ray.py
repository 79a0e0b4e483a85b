"""A local Ray for one command: no autoscaler, API server, log monitor or metrics, which nobody would look at.

`ray.init` has no switch for them. Each is a Python process that imports Ray, and together they use as much CPU time as decoding
minutes of video (`benchmarks/scan_cost.py`); without them a Ray is also up before a busy machine makes it time out.
"""

import logging
from unittest.mock import patch

import ray
from ray._private.node import Node

OBJECT_STORE_BYTES = 400 * 1024**2
"""Only small tables travel through the object store, so that a small /dev/shm is enough."""


class _QuietNode(Node):
    """A head node with the processes that tasks need: GCS, raylet, its agents, workers."""

    def start_monitor(self) -> None:
        """Nothing scales a single node."""

    def start_log_monitor(self) -> None:
        """Logs stay in the session's folder."""

    def start_api_server(self, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
        """Nobody looks at a dashboard."""


def start_local_ray(*, num_cpus: int | None, show_logs: bool) -> None:
    """Starts a Ray that ends with this process, or with `ray.shutdown`.

    Args:
        num_cpus: CPUs that it offers; None for those of the machine.
        show_logs: Whether to show what workers print, which takes the log monitor.
    """
    # Ray imports aiohttp, grpc and a dozen others here only to see whether its agents, which import them themselves, could.
    with (
        patch("ray._private.node.Node", Node if show_logs else _QuietNode),
        patch("ray._private.utils.get_dashboard_dependency_error", lambda: None),
    ):
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=num_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=show_logs,
            logging_level=logging.ERROR,
            _system_config={"enable_metrics_collection": False},
        )
