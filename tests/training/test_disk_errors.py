import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tests.training.full_disk import no_file_beyond
from training.disk_errors import disk_errors


def test_what_the_disk_said_of_a_write_by_safetensors_has_its_number_and_the_path(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(OSError, match=r"File too large: .*weights\.safetensors") as refused, disk_errors(path):  # noqa: SIM117
        with no_file_beyond(1000):
            save_file({"a": torch.zeros(1000)}, path)
    assert refused.value.errno == errno.EFBIG


def test_what_is_not_of_the_disk_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"no header")
    with pytest.raises(SafetensorError), disk_errors(path):
        safe_open(path, framework="pt").__enter__()
