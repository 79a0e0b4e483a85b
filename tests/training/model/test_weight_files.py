import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.disk_errors import DamagedError
from training.model.weight_files import backbone_files, mapped_weights, refuse_damaged_files

INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({"a": torch.arange(100.0), "b": torch.zeros(3, 5)}, file)
    return file


def test_weights_come_as_safetensors_gives_them(path: Path) -> None:
    ours, theirs = mapped_weights(path), load_file(path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_file_that_ends_too_early_is_named_whether_weights_are_wanted_or_not(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    for look in (mapped_weights, lambda path: refuse_damaged_files([path])):
        with pytest.raises(
            DamagedError, match=r"/diffusion_pytorch_model\.safetensors is damaged .*; copy or download"
        ):
            look(path)


def test_a_file_that_is_missing_is_named(path: Path) -> None:
    refuse_damaged_files([path])
    with pytest.raises(DamagedError, match=r"/memory\.safetensors is missing; copy or download"):
        refuse_damaged_files([path, path.with_name("memory.safetensors")])


def test_a_disk_that_does_not_give_a_file_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(OSError, match="Input/output error") as error:
        refuse_damaged_files([path])
    assert not isinstance(error.value, DamagedError)


def test_the_index_says_which_files_belong_to_a_backbone_and_others_beside_them_do_not(path: Path) -> None:
    assert backbone_files(path.parent) == (path,)
    (path.parent / INDEX).write_text(json.dumps({"weight_map": {"a": "x-2", "b": "x-1", "c": "x-2"}}))
    assert backbone_files(path.parent) == (path.parent / "x-1", path.parent / "x-2")


@pytest.mark.parametrize("text", ['{"weight_map": {"a', "[]", "{}", '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_damaged_is_named(path: Path, text: str) -> None:
    (path.parent / INDEX).write_text(text)
    with pytest.raises(DamagedError, match=r"safetensors\.index\.json is damaged"):
        backbone_files(path.parent)
