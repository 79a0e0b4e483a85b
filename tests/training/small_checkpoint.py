"""Checkpoints of a tiny engine, and what happens to files."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.engine import rank_worker
from training.checkpoint import restore_newest, write_checkpoint
from training.checkpoint_files import step_folder
from training.engine.plain import PlainEngine
from training.types import CheckpointRecord

LIST = "files-of-rank-00000.json"
FRAGMENTS = "rank-00000.safetensors"
RECORD = CheckpointRecord(
    stage="teacher", step=2, num_updates=2, val_loss=None, settings={"train.seed": 0}, plan_hash="p", base_sha256="b",
    num_ranks=1,
)  # fmt: skip


def engine() -> PlainEngine:
    return PlainEngine(rank_worker.module("teacher"), rank_worker.optimizer())


def write(checkpoints: Path, step: int, val_loss: float | None = None, base_sha256: str = "b") -> Path:
    folder = step_folder(checkpoints, step)
    folder.mkdir(parents=True)
    write_checkpoint(engine(), folder, replace(RECORD, step=step, val_loss=val_loss, base_sha256=base_sha256))
    return folder


def restore(checkpoints: Path) -> int:
    return restore_newest(engine(), checkpoints, RECORD, allow_changed=False)


def flip(path: Path, place: int) -> None:
    """A bit of one byte, as a disk may."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def names(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir())


def no_disk(monkeypatch: pytest.MonkeyPatch, function: str, name: str) -> None:
    """Reading a file of this name, or looking for it, is an I/O error."""
    real = getattr(Path, function)

    def failing(path: Path, *arguments: Any, **options: Any) -> object:
        if path.name == name and "step-00000004" in str(path.parent):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, function, failing)
