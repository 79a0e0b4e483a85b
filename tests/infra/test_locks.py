import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = Path("infra/locks")
CUDA = re.compile(r"nvidia-|cuda-|triton$|torch$")


def locked(path: Path) -> dict[str, list[Requirement]]:
    """Every pin of a lock by name; a name has several where its version depends on the platform."""
    pins: dict[str, list[Requirement]] = {}
    for line in path.read_text().splitlines():
        if re.match("[a-z]", line):
            requirement = Requirement(line.removesuffix("\\").strip())
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


def asked_for() -> list[Requirement]:
    project = tomllib.loads(Path("pyproject.toml").read_text())
    lines = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_lock_holds_whatever_the_project_asks_for(name: str) -> None:
    pins = locked(LOCKS / f"{name}.txt") | {"torch": locked(LOCKS / "torch.txt")["torch"]}
    for wanted in asked_for():
        for pin in pins[canonicalize_name(wanted.name)]:
            (exact,) = pin.specifier
            assert wanted.specifier.contains(exact.version), f"{pin} is locked, {wanted} is wanted: make lock"


@pytest.mark.parametrize("path", [LOCKS / "cpu.txt", LOCKS / "cuda.txt", Path("dags/requirements.lock.txt")], ids=str)
def test_every_pin_has_a_hash_and_names_no_index(path: Path) -> None:
    blocks = re.split(r"(?m)^(?=[a-z])", path.read_text())[1:]
    assert blocks
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in path.read_text()


def test_the_cpu_lock_is_the_cuda_lock_without_cudas_libraries() -> None:
    cpu, cuda = locked(LOCKS / "cpu.txt"), locked(LOCKS / "cuda.txt")
    assert cpu == {name: pins for name, pins in cuda.items() if not CUDA.match(name)}
    assert {"triton", "nvidia-nccl-cu13"} <= set(cuda)


def test_decord_is_locked_only_where_it_has_wheels() -> None:
    ((pin,)) = locked(LOCKS / "cpu.txt")["decord"]
    assert pin.marker is not None
    here = {"sys_platform": "linux", "platform_machine": "x86_64"}
    assert pin.marker.evaluate(here)
    assert not pin.marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"})
    assert not pin.marker.evaluate(here | {"platform_machine": "aarch64"})
