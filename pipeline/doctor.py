"""What this machine lacks for a recipe, and how to mend it."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.config import Recipe
from preprocessing.captions.policy import is_asked_for

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 5 * 1024**3
"""Room for the demo and its logs; a dataset of your own needs its own sums."""

MIN_SHM_BYTES = 512 * 1024**2
"""A local Ray's object store and its margin; with less it lies in /tmp, which is slower."""

CHILD_TIMEOUT_S = 120.0

MAKE_SETUP = "make setup"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must be there.

    Attributes:
        message: What was found.
        mend: What to do about it; empty where nothing is wrong.
    """

    name: str
    ok: bool
    message: str
    mend: str = ""


def run_doctor(recipe: Recipe, *, folder: Path) -> tuple[Check, ...]:
    """Looks at everything that the recipe needs of this machine; some seconds.

    Args:
        recipe: Says whether GPUs and the production encoders are asked for.
        folder: Where datasets and runs are to lie.
    """
    checks: tuple[Callable[[], Check], ...] = (
        check_python, check_compiler, lambda: check_torch(needs_gpu(recipe)), *_library_checks(),
        lambda: check_disk(folder), lambda: check_shared_memory(Path("/dev/shm")), lambda: check_writable(folder),
    )  # fmt: skip
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = [future.result() for future in [pool.submit(check) for check in checks]]
    return (*found, *check_weights(recipe))


def needs_gpu(recipe: Recipe) -> bool:
    """Whether any step of the recipe runs on a GPU."""
    devices = [recipe.encode.device, recipe.generate.device]
    if is_asked_for(recipe.captions):
        devices.append(recipe.captions.device)
    return recipe.train.engine.use_gpu or any(device.startswith("cuda") for device in devices)


# --- the interpreter and its libraries -------------------------------------------------------------------------------


def check_python() -> Check:
    """Python is new enough."""
    ok = sys.version_info >= MIN_PYTHON
    return Check(
        name="Python", ok=ok, message=f"{platform.python_version()} at {sys.executable}",
        mend="" if ok else "make setup PYTHON=/path/to/python3.11",
    )  # fmt: skip


def check_compiler() -> Check:
    """A C++ compiler, for what DeepSpeed builds when it is first needed."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))), None)
    mend = "" if found else "install one: on Debian apt-get install g++, on macOS xcode-select --install"
    return Check(name="C++ compiler", ok=found is not None, message=found or "none found", mend=mend)


def check_torch(gpu: bool) -> Check:
    """torch, and the GPU where the recipe asks for one."""
    ok, said = _in_child("import torch; print(torch.__version__, torch.cuda.device_count())")
    if not ok:
        return Check(name="torch", ok=False, message=said, mend=MAKE_SETUP)
    found, num_gpus = said.split()
    missing = gpu and num_gpus == "0"
    return Check(
        name="torch", ok=not missing,
        message=f"{found}, {num_gpus} GPUs" + (" but the recipe asks for one" if missing else ""),
        mend="make setup LOCK=cuda on a machine with a GPU, or run on a cluster: longtake submit" if missing else "",
    )  # fmt: skip


def _library_checks() -> Iterator[Callable[[], Check]]:
    yield lambda: check_installed("Ray", "ray")
    yield lambda: check_installed("MLflow", "mlflow")
    yield lambda: check_import("DeepSpeed", "deepspeed", "import deepspeed")
    yield check_decoder
    yield lambda: check_import("H.264 encoder", "av", "import av; av.Codec('libx264', 'w')")


def check_installed(name: str, distribution: str) -> Check:
    """A library is installed; it is not imported, which would take seconds."""
    found = _version(distribution)
    return Check(name=name, ok=found is not None, message=found or "not installed", mend="" if found else MAKE_SETUP)


def check_import(name: str, distribution: str, statement: str) -> Check:
    """A statement runs in a Python of its own: native code that crashes there is a finding, not the end."""
    ok, said = _in_child(statement)
    message = f"{distribution} {_version(distribution)}" if ok else said
    return Check(name=name, ok=ok, message=message, mend="" if ok else MAKE_SETUP)


def check_decoder() -> Check:
    """decord, or PyAV alone where decord has no wheels."""
    if _version("decord") is None and _version("av") is not None:
        return Check(name="video decoder", ok=True, message=f"PyAV {_version('av')}; decord has no wheels here")
    return check_import("video decoder", "decord", "import decord, av")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _in_child(statement: str) -> tuple[bool, str]:
    """Whether a statement runs, and its last line on stdout; on stderr if it does not."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", statement], capture_output=True, text=True, timeout=CHILD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {CHILD_TIMEOUT_S:.0f} s"
    lines = (child.stdout if child.returncode == 0 else child.stderr).strip().splitlines()
    return child.returncode == 0, lines[-1] if lines else f"exit status {child.returncode}"


# --- the machine -----------------------------------------------------------------------------------------------------


def check_disk(folder: Path) -> Check:
    """Room where datasets and runs are to lie."""
    free = shutil.disk_usage(_existing(folder)).free
    ok = free >= MIN_FREE_BYTES
    mend = "" if ok else f"make room for {_gib(MIN_FREE_BYTES)}, or give other folders to --dataset and --run"
    return Check(name="disk", ok=ok, message=f"{_gib(free)} free at {folder}", mend=mend)


def check_shared_memory(path: Path) -> Check:
    """Shared memory for Ray; little of it is slower but no obstacle."""
    if not path.is_dir():
        return Check(name="shared memory", ok=True, message=f"no {path}; Ray uses files")
    size = shutil.disk_usage(path).total
    enough = size >= MIN_SHM_BYTES
    message = f"{_gib(size)} at {path}" + ("" if enough else ", which is little: Ray will use /tmp, more slowly")
    return Check(name="shared memory", ok=True, message=message)


def check_writable(folder: Path) -> Check:
    """Files can be made where datasets and runs are to lie."""
    place = _existing(folder)
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        mend = f"give folders that {os.environ.get('USER', 'you')} may write to --dataset and --run"
        return Check(name="writing", ok=False, message=f"{place}: {error.strerror}", mend=mend)
    return Check(name="writing", ok=True, message=f"allowed at {place}")


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that is there."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"


# --- the production encoders -----------------------------------------------------------------------------------------


def check_weights(recipe: Recipe) -> Sequence[Check]:
    """Where the recipe's encoders are; nothing where the recipe needs none."""
    if recipe.encode.codec != "hunyuan":
        return ()
    paths = recipe.encode.hunyuan
    names = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "image_encoder", "feature_extractor")
    return tuple(_weights(name, getattr(paths, name), paths.allow_download) for name in names)


def _weights(name: str, path: str, allow_download: bool) -> Check:
    key = f"encode.hunyuan.{name}"
    if not path:
        return Check(name=key, ok=False, message="not set", mend=f"--set {key}=FOLDER")
    if Path(path).is_dir():
        return Check(name=key, ok=True, message=path)
    if allow_download:
        return Check(name=key, ok=True, message=f"{path}, from the hub when first needed")
    mend = f"--set {key}=FOLDER, or --set encode.hunyuan.allow_download=true for a hub id"
    return Check(name=key, ok=False, message=f"no folder {path}", mend=mend)
