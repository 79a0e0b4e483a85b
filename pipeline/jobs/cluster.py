"""A Ray to run on, and a bounded window of tasks on it."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import ray
from ray._private.worker import get_dashboard_url
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

from pipeline.jobs.local_ray import start_local_ray
from pipeline.jobs.window import FairQueue
from preprocessing.isolation import IsolatedWorker

if TYPE_CHECKING:
    from pipeline.config import Recipe

logger = logging.getLogger(__name__)

MAX_LOSSES = 20
"""How often one task may lose its Ray worker or node before the run gives up; a lost worker blames no input."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One Ray task: how to submit it, and what to do with what it returns.

    Attributes:
        name: What it works on, for messages.
        submit: Starts it; called again if its worker is lost.
        done: Takes the result, in the driver.
    """

    name: str
    submit: Callable[[], "ray.ObjectRef[Any]"]
    done: Callable[[Any], None]


@cache
def decoding_child(progress_timeout_s: float, memory_limit_mb: int) -> IsolatedWorker:
    """The killable child of this Ray worker in which video is decoded, used again from task to task."""
    return IsolatedWorker(progress_timeout_s=progress_timeout_s, memory_limit_mb=memory_limit_mb)


@contextmanager
def ray_cluster(address: str | None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Connects to a Ray, or starts a local one that ends with the block.

    Args:
        address: Of a running Ray; None takes ``RAY_ADDRESS`` (which Ray Jobs sets), else starts a local Ray.
        num_cpus: CPUs that a local Ray offers; None for those of the machine.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    show_logs = bool(os.environ.get("LONGTAKE_DEBUG"))  # what matters comes back as rows, metrics and exceptions
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    if target == "local":
        start_local_ray(num_cpus=num_cpus, show_logs=show_logs)
    else:
        ray.init(address=target, log_to_driver=show_logs, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def is_shared_cluster() -> bool:
    """A Ray that outlives this process has a dashboard; the local one is started without."""
    return bool(get_dashboard_url())


def refuse_impossible(*, cpus: float, gpus: float = 0.0) -> None:
    """Refuse a task that no node can ever run: Ray would wait for such a node without a word. Ray must be up.

    Raises:
        ValueError: If this Ray is local. A cluster may grow, so there it is a warning.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0.0) >= cpus and node.get("GPU", 0.0) >= gpus for node in nodes):
        return
    offers = "; ".join(f"{node.get('CPU', 0.0):g} CPUs, {node.get('GPU', 0.0):g} GPUs" for node in nodes)
    message = f"a task needs {cpus:g} CPUs and {gpus:g} GPUs, and no node offers them (there are: {offers})"
    if not is_shared_cluster():
        raise ValueError(f"{message}; set cluster.cpus_per_task, cluster.gpus_per_encode or the device")
    logger.warning("%s; waiting for one that does", message)


def parallel_tasks(recipe: "Recipe") -> tuple[float, float]:
    """How many scans, and how many encodes, the cluster runs at once if it does nothing else. Ray must be up."""
    cluster, there = recipe.cluster, ray.cluster_resources()
    by_cpus = (
        min(there.get("CPU", 0.0) / cluster.cpus_per_task, cluster.max_tasks)
        if cluster.cpus_per_task
        else cluster.max_tasks
    )
    by_gpus = there.get("GPU", 0.0) / cluster.gpus_per_encode if cluster.gpus_per_encode else by_cpus
    return max(by_cpus, 1.0), max(min(by_cpus, by_gpus), 1.0)


def run_bounded(*kinds: Iterable[Task], max_in_flight: int) -> None:
    """Runs tasks with at most `max_in_flight` submitted, and hands over results as they come.

    Of several kinds of tasks each gets its share of what is in flight for as long as it has tasks left.

    Raises:
        RuntimeError: If a task lost its worker `MAX_LOSSES` times, or raised.
    """
    waiting: dict[Any, tuple[int, Task, int]] = {}
    queue = FairQueue(*(((task, 0) for task in tasks) for tasks in kinds))
    while True:
        while len(waiting) < max_in_flight and (taken := queue.take()):
            kind, (task, losses) = taken
            waiting[task.submit()] = (kind, task, losses)
        if not waiting:
            return
        ready, _ = ray.wait(list(waiting), num_returns=1)
        kind, task, losses = waiting.pop(ready[0])
        queue.done(kind)
        if not _finish(task, ready[0]):
            queue.again(kind, (task, _count_loss(task, losses)))


def _finish(task: Task, ref: "ray.ObjectRef[Any]") -> bool:
    """Hands the result over; False if the worker was lost on the way."""
    try:
        result = ray.get(ref)
    except RayTaskError as error:
        cause = error.cause  # a full disk or an absent bucket says all that is to be said
        raise RuntimeError(f"{task.name}: {cause if isinstance(cause, OSError) else repr(cause)}") from error
    except (WorkerCrashedError, RayActorError, ObjectLostError, NodeDiedError):
        return False
    task.done(result)
    return True


def _count_loss(task: Task, losses: int) -> int:
    if losses + 1 >= MAX_LOSSES:
        raise RuntimeError(f"{task.name} lost its Ray worker {MAX_LOSSES} times; see the logs of the Ray session")
    logger.warning("%s lost its Ray worker, trying again", task.name)
    return losses + 1
