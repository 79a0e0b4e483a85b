import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

DOCKERFILE = Path("infra/Dockerfile")


def instructions(name: str) -> Iterator[str]:
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith(f"{name} "):
            yield line.removeprefix(f"{name} ")


def copied() -> Iterator[Path]:
    for line in instructions("COPY"):
        *sources, _ = shlex.split(line)
        yield from map(Path, sources)


def test_what_the_image_copies_is_enough_to_build_the_distribution(tmp_path: Path) -> None:
    for source in copied():
        if source.is_dir():
            shutil.copytree(source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "dist"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"pipeline/cli.py", "pipeline/recipes/embedded.yaml", "preprocessing/samples.py"} <= set(names)
    assert {name.split("/")[0] for name in names} <= {
        "pipeline", "preprocessing", "training", "evaluation", "longtake-0.1.0.dist-info",
    }  # fmt: skip


def test_nothing_that_the_image_copies_is_kept_out_of_the_build() -> None:
    let_in = {line.removeprefix("!") for line in Path(".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert {str(source) for source in copied()} == let_in


def test_the_image_runs_as_nobody_in_particular_on_a_pinned_base() -> None:
    assert list(instructions("USER")) == ["1000"]
    (base,) = (line for line in instructions("ARG") if line.startswith("BASE="))
    assert ":" in base
    assert not base.endswith(":latest")
