import errno
from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError

from pipeline.jobs.failures import Failure, explain, final_message, forget, message, note
from training.batches import BrokenSampleError
from training.compatibility import OtherRunError
from training.disk_errors import DamagedError
from training.nonfinite import NonFiniteError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NonFiniteError("the loss of step 3 is nan (clips a, b)"), "the loss of step 3 is nan (clips a, b)"),
        (BrokenSampleError("clip a of d cannot be read"), "clip a of d cannot be read"),
        (torch.OutOfMemoryError("CUDA out of memory"), "rank 1 ran out of memory: set train.engine.activation_check"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "rank 1 ran out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "rank 1: the disk is full at /x: free some space"),
        (
            OutOfMemoryError("Task was killed due to the node running low on memory"),
            "rank 1 ran out of memory: set train",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), "rank 1: the disk is full at /x: free some space"),
        (DamagedError("none of the 2 checkpoints can be read"), "none of the 2 checkpoints"),
        (OtherRunError("/x belongs to another run: model.depth"), "/x belongs to another run"),
    ],
)
def test_what_would_only_fail_again_is_final_and_says_what_to_do(error: Exception, expected: str) -> None:
    failure = explain(error, rank=1)
    assert failure.message.startswith(expected)
    assert failure.is_final


def test_anything_else_is_tried_again() -> None:
    assert explain(RuntimeError("connection closed by peer"), rank=0) == Failure(
        message="rank 0: RuntimeError: connection closed by peer", is_final=False
    )


def test_a_process_that_was_ended_from_outside_may_have_lacked_memory_and_is_tried_again() -> None:
    failure = explain(ActorDiedError(), rank=1)
    assert failure.message.startswith(
        "rank 1 was ended from outside. If its machine ran out of memory, set train.engine."
    )
    assert not failure.is_final


def test_a_process_that_left_a_note_and_ended_itself_is_not_said_to_lack_memory(tmp_path: Path) -> None:
    note(tmp_path, explain(RuntimeError("no progress for 600 s"), rank=0), rank=0)
    assert message(tmp_path, {0: ActorDiedError()}) == "rank 0: RuntimeError: no progress for 600 s"
    assert "ran out of memory" in message(tmp_path, {0: ActorDiedError(), 1: ActorDiedError()})


def test_what_failed_for_good_is_told_and_not_who_lost_company_by_it(tmp_path: Path) -> None:
    note(tmp_path, explain(RuntimeError("connection closed by peer"), rank=0), rank=0)
    assert final_message(tmp_path) is None
    assert "connection closed" in message(tmp_path, {})
    note(tmp_path, explain(MemoryError("x"), rank=1), rank=1)
    assert message(tmp_path, {}) == final_message(tmp_path)
    assert "connection closed" not in message(tmp_path, {})


def test_who_could_leave_no_note_is_heard_of_from_ray(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/x")
    assert message(tmp_path, {0: RuntimeError("connection closed"), 1: full}) == explain(full, rank=1).message


def test_what_all_ranks_say_is_said_once(tmp_path: Path) -> None:
    for rank in range(2):
        note(tmp_path, explain(NonFiniteError("the loss of step 3 is nan"), rank=rank), rank=rank)
    assert message(tmp_path, {}) == "the loss of step 3 is nan"


def test_a_new_command_knows_nothing_of_the_last_one_s_failures(tmp_path: Path) -> None:
    note(tmp_path, explain(MemoryError("x"), rank=1), rank=1)
    forget(tmp_path)
    assert final_message(tmp_path) is None
