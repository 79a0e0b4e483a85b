import pytest
import torch
from torch import Tensor

from training.model.frame_pack import NUM_HISTORY, append_history, empty_history, pack_history


def numbered(first: int, count: int) -> Tensor:
    """Latent frames whose value is their number."""
    return torch.arange(first, first + count, dtype=torch.float32).reshape(1, 1, -1, 1, 1).expand(1, 2, -1, 2, 2)


def numbers(frames: Tensor) -> list[float]:
    return frames[0, 0, :, 0, 0].tolist()


def test_before_the_first_segment_there_are_18_frames_of_nothing_and_the_start_image() -> None:
    assert numbers(empty_history(numbered(7, 1))) == [0.0] * 18 + [7.0]


def test_history_is_the_last_19_frames() -> None:
    history = empty_history(numbered(100, 1))
    for first in (1, 10, 19):
        history = append_history(history, numbered(first, 9))
    assert numbers(history) == list(range(9, 28))


def test_history_is_compressed_more_the_older_it_is() -> None:
    packed = pack_history(numbered(1, NUM_HISTORY), numbered(100, 1))
    assert numbers(packed.history_4x_BCTHW) == list(range(1, 17))
    assert numbers(packed.history_2x_BCTHW) == [17, 18]
    assert numbers(packed.clean_BCTHW) == [100, 19]


def test_a_start_image_is_one_frame_and_a_history_19() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        empty_history(numbered(0, 2))
    with pytest.raises(ValueError, match="expected 19"):
        pack_history(numbered(0, 18), numbered(0, 1))
