import copy
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.kuberay_rules import controller_errors, load_schema, schema_errors

MANIFESTS = sorted(Path("infra/kuberay").glob("rayjob-*.yaml"))
DEFINITION = Path("../shared/schemas/kuberay/ray.io_rayjobs.yaml")


@cache
def schema() -> dict[str, Any]:
    if not DEFINITION.is_file():
        pytest.skip(f"KubeRay's resource definition is not at {DEFINITION}")
    return load_schema(DEFINITION)


def rayjob(name: str = "rayjob-train.yaml") -> dict[str, Any]:
    return yaml.safe_load((Path("infra/kuberay") / name).read_text())


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kuberay_takes_the_manifest(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    assert controller_errors(manifest) == []
    assert schema_errors(manifest, schema()) == []


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        (("spec",), "shutdownAfterJobFinished", True),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"), "volume", []),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "replica", 4),
        (("spec",), "backoffLimit", "two"),
        (("spec", "rayClusterSpec", "authOptions"), "mode", "tokens"),
    ],
)
def test_the_schema_catches_a_typo(where: tuple[str | int, ...], key: str, value: object) -> None:
    manifest = copy.deepcopy(rayjob())
    place: Any = manifest
    for step in where:
        place = place[step]
    place[key] = value
    errors = schema_errors(manifest, schema())
    assert len(errors) == 1
    assert key in errors[0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"metadata": {"name": "x" * 48}}, "48 characters"),
        ({"metadata": {"name": "Long_Take"}}, "DNS 1035"),
        ({"spec": {"shutdownAfterJobFinishes": False}}, "ttlSecondsAfterFinished without"),
        ({"spec": {"deletionStrategy": {"deletionRules": [{}]}}}, "deletionRules beside"),
        ({"spec": {"submissionMode": "InteractiveMode"}}, "InteractiveMode"),
        ({"spec": {"clusterSelector": {"a": "b"}}}, "clusterSelector"),
        ({"spec": {"rayClusterSpec": {"rayVersion": "2.51.0"}}}, "2.52.0 or later"),
        ({"spec": {"rayClusterSpec": {"authOptions": {"enableK8sTokenAuth": True}}}}, "enableK8sTokenAuth"),
    ],
)
def test_the_rules_that_only_the_controller_knows_are_held(change: dict[str, Any], error: str) -> None:
    errors = controller_errors(merged(rayjob(), change))
    assert any(error in one for one in errors), errors


def test_autoscaled_pods_never_restart_in_place() -> None:
    manifest = rayjob("rayjob-preprocess.yaml")
    next(pods(manifest))["restartPolicy"] = "Always"
    assert controller_errors(manifest) == ["autoscaler v2 needs restartPolicy Never"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_job_is_pinned_guarded_and_given_what_it_asks_for(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for pod in pods(manifest):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert re.fullmatch(r"longtake:\d+\.\d+\.\d+(-cuda)?", container["image"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/dev/shm"}
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert not container.get("env"), "what is secret comes from a secret; what is not stands in the command"


def test_the_world_size_in_the_command_is_the_number_of_gpus() -> None:
    manifest = rayjob()
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert f"train.engine.num_workers={group['replicas']}" in manifest["spec"]["entrypoint"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def merged(manifest: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    both = {key: (manifest.get(key), value) for key, value in change.items()}
    return manifest | {
        key: merged(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
        for key, (old, new) in both.items()
    }
