"""The safetensors files of a diffusers folder: which there are, and whether they are there in full.

A safetensors file begins with what is in it, so that one which was cut off is found without reading its weights.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusers.utils.constants import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from training.disk_errors import DamagedError

WHAT_TO_DO = "copy or download the folder again, in safetensors, or write a model of ours anew from its checkpoint by longtake export"
"""About a folder of weights that is damaged."""


def backbone_files(folder: Path) -> tuple[Path, ...]:
    """Those that diffusers would read, whether they are there or not: what its index names, else the only one.

    Raises:
        DamagedError: If the index is not what diffusers writes.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return (folder / SAFETENSORS_WEIGHTS_NAME,)
    try:
        return tuple(sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{index} is damaged ({error!r}); {WHAT_TO_DO}") from None


def refuse_damaged_files(paths: Iterable[Path]) -> None:
    """Refuse files that are missing or end too early; what they begin with is read, and no weights.

    Raises:
        DamagedError: Naming the first such file.
        OSError: If the disk does not give one.
    """
    for path in paths:
        with _damage_named(path), safe_open(path, framework="pt"):
            pass


def mapped_weights(path: Path) -> dict[str, Tensor]:
    """All weights of a file by their names. They are mapped: the disk is asked for a weight when it is used.

    Raises:
        DamagedError: If the file is missing or ends too early.
        OSError: If the disk does not give it.
    """
    with _damage_named(path):
        return load_file(path)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        with path.open("rb"):  # safetensors' errors have neither the number nor the class of the system's
            yield
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing; {WHAT_TO_DO}") from None
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged ({error}); {WHAT_TO_DO}") from None
