"""What KubeRay checks of a RayJob: its published schema made strict, and the rules that only its controller knows.

The rules are those of KubeRay 1.7.0, `controllers/ray/utils/validation.go`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Manifest = Mapping[str, Any]

MAX_NAME = 47
"""Characters of a RayJob's name: 53 of a cluster's, less 6 that KubeRay appends."""

MIN_TOKEN_VERSION = (2, 52, 0)
"""First Ray that knows tokens."""


def load_schema(path: Path) -> dict[str, Any]:
    """The v1 schema of a published resource definition, in which a field that is not listed is an error."""
    definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    return _strict(schema)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        strict["additionalProperties"] = False
    return strict


def schema_errors(manifest: Manifest, schema: Mapping[str, Any]) -> list[str]:
    """Fields that the resource definition does not have, and values of the wrong type."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]


def controller_errors(manifest: Manifest) -> list[str]:
    """Rules that a manifest breaks although the schema takes it."""
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec") or {}
    checks: tuple[Callable[[Manifest, Manifest, Manifest], Iterator[str]], ...] = (
        _name, _end_of_life, _retries, _token, _groups, _pods,
    )  # fmt: skip
    return [error for check in checks for error in check(manifest, spec, cluster)]


def _name(manifest: Manifest, spec: Manifest, cluster: Manifest) -> Iterator[str]:
    name = manifest["metadata"]["name"]
    if len(name) > MAX_NAME:
        yield f"name {name} has {len(name)} characters, more than {MAX_NAME}"
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"name {name} is no DNS 1035 label"
    if not cluster and not spec.get("clusterSelector"):
        yield "neither rayClusterSpec nor clusterSelector"


def _end_of_life(manifest: Manifest, spec: Manifest, cluster: Manifest) -> Iterator[str]:
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished") and not shutdown:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if (spec.get("deletionStrategy") or {}).get("deletionRules") and shutdown:
        yield "deletionRules beside shutdownAfterJobFinishes"
    if spec.get("suspend") and not shutdown:
        yield "suspend without shutdownAfterJobFinishes"


def _retries(manifest: Manifest, spec: Manifest, cluster: Manifest) -> Iterator[str]:
    if spec.get("backoffLimit") and spec.get("clusterSelector"):
        yield "backoffLimit beside clusterSelector"
    if spec.get("backoffLimit") and spec.get("submissionMode") == "InteractiveMode":
        yield "backoffLimit in InteractiveMode"


def _token(manifest: Manifest, spec: Manifest, cluster: Manifest) -> Iterator[str]:
    options = cluster.get("authOptions") or {}
    if options.get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth in a RayJob"
    version = tuple(int(part) for part in str(cluster.get("rayVersion") or "0").split(".")[:3])
    if options.get("mode") == "token" and version < MIN_TOKEN_VERSION:
        yield f"token mode needs rayVersion 2.52.0 or later, not {cluster.get('rayVersion')}"


def _groups(manifest: Manifest, spec: Manifest, cluster: Manifest) -> Iterator[str]:
    for group in cluster.get("workerGroupSpecs") or []:
        if not {"minReplicas", "maxReplicas"} <= set(group) and not cluster.get("enableInTreeAutoscaling"):
            yield f"group {group['groupName']} lacks minReplicas or maxReplicas"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 0):
            yield f"group {group['groupName']} has more minReplicas than maxReplicas"


def _pods(manifest: Manifest, spec: Manifest, cluster: Manifest) -> Iterator[str]:
    if (cluster.get("autoscalerOptions") or {}).get("version") != "v2":
        return
    for group in (cluster["headGroupSpec"], *(cluster.get("workerGroupSpecs") or [])):
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "autoscaler v2 needs restartPolicy Never"
