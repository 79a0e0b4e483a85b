import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from preprocessing.members import StoredSample, from_bfloat16, to_bfloat16
from training.batches import clip_batch, prefetch, step_batches
from training.types import ClipRow, GlobalStep

CPU = torch.device("cpu")


def sample(key: str, num_segments: int, *, text_tokens: int = 4, width: int = 8) -> StoredSample:
    rng = np.random.default_rng(len(key) + num_segments)

    def data(*shape: int) -> np.ndarray:
        return to_bfloat16(rng.standard_normal(shape).astype(np.float32))

    return StoredSample(
        key=key,
        latents_CTHW=data(4, 1 + 9 * num_segments, 8, width),
        start_latent_CTHW=data(4, 1, 8, width),
        llama_LD=data(text_tokens, 6),
        mask_L=np.ones(text_tokens, np.int64),
        clip_pooled_D=data(5),
        siglip_ND=data(3, 7),
        metadata={},
    )


def row(key: str, num_segments: int) -> ClipRow:
    return ClipRow(clip_id=key, dataset="d", shard="a/b", num_segments=num_segments, height_px=64, width_px=64)


def test_a_batch_holds_the_first_segments_of_its_clips() -> None:
    clips = [sample("a", 3), sample("bb", 2)]
    batch = clip_batch(clips, (4, 5), num_segments=2, device=CPU)
    assert batch.num_segments == 2
    assert batch.positions == (4, 5)
    np.testing.assert_array_equal(batch.latents_BCTHW[0].numpy(), from_bfloat16(clips[0].latents_CTHW[:, :19]))


def test_prompts_of_unequal_length_are_padded_behind_their_last_token() -> None:
    batch = clip_batch(
        [sample("a", 1, text_tokens=4), sample("b", 1, text_tokens=2)], (0, 1), num_segments=1, device=CPU
    )
    assert batch.condition.text_mask_BL.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.condition.text_BLD[1, 2:].abs().sum() == 0


def test_a_clip_shorter_than_the_manifest_says_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clip a has 10 latent frames, the manifest promises 28"):
        clip_batch([sample("a", 1)], (0,), num_segments=3, device=CPU)


def test_clips_of_unequal_size_never_share_a_batch() -> None:
    with pytest.raises(ValueError, match="unequal size"):
        clip_batch([sample("a", 1), sample("b", 1, width=10)], (0, 1), num_segments=1, device=CPU)


def test_the_ranks_together_read_each_position_once() -> None:
    names = ["a", "b", "c", "d"]
    step = GlobalStep(
        step=0, clips=tuple(row(n, 2) for n in names), num_segments=(2,) * 4, segment_index=None, use_memory=True
    )
    ranks = [
        step_batches(step, lambda row: sample(row.clip_id, 2), rank=rank, num_ranks=2, device=CPU) for rank in (0, 1)
    ]
    assert [(batch.clip_ids, batch.positions) for batches in ranks for batch in batches] == [
        (("a", "b"), (0, 1)),
        (("c", "d"), (2, 3)),
    ]


def test_prefetching_changes_neither_items_nor_order() -> None:
    assert list(prefetch(range(20), depth=3)) == list(range(20))


def test_an_error_in_the_thread_reaches_the_consumer() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("the second sample is broken")

    items = prefetch(failing(), depth=2)
    assert next(items) == 1
    with pytest.raises(ValueError, match="second sample"):
        next(items)


def test_prefetching_is_bounded_and_stops_with_its_consumer() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    ahead = prefetch(items(), depth=2)
    assert next(ahead) == 0
    ahead.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(made) <= 5
    assert all(thread.name != "prefetch" for thread in threading.enumerate())
