import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from preprocessing.dataset import Dataset
from preprocessing.members import StoredSample, from_bfloat16, to_bfloat16
from tests.training.small_dataset import CODEC, make_dataset
from training.batches import TrainingData, clip_batch, current_versions, open_data, prefetch, step_batches
from training.order import plan_hash
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


def opened(*folders: Path) -> TrainingData:
    return open_data(current_versions([str(folder) for folder in folders]))


def regroup(folder: Path, clip_id: str, group_id: str) -> None:
    """As if the clip came from another video."""
    dataset = Dataset.open(str(folder))
    table = dataset.load_manifest(None).table
    rows = [{**row, "group_id": group_id if row["clip_id"] == clip_id else "own"} for row in table.to_pylist()]
    dataset.write_manifest(pa.Table.from_pylist(rows, schema=table.schema))


def test_a_clip_that_one_dataset_holds_out_is_trained_on_in_none(tmp_path: Path) -> None:
    held_out = make_dataset(tmp_path / "x", train=(1, 2), held_out=(2,))  # clip02
    trained = make_dataset(tmp_path / "y", train=(1, 2, 2), held_out=())  # clip00 .. clip02
    data = opened(held_out, trained)
    assert [row.clip_id for row in data.held_out] == ["clip02"]
    assert sorted(row.clip_id for row in data.train) == ["clip00", "clip00", "clip01", "clip01"]
    assert data.num_withheld == 1
    assert plan_hash(data.train) == plan_hash(opened(trained, held_out).train)
    assert opened(trained).num_withheld == 0


def test_a_clip_of_a_group_that_one_dataset_holds_out_is_trained_on_in_none(tmp_path: Path) -> None:
    held_out = make_dataset(tmp_path / "x", train=(1,), held_out=(2,))  # clip01
    trained = make_dataset(tmp_path / "y", train=(1, 2, 2), held_out=())
    regroup(held_out, "clip01", "a video")
    regroup(trained, "clip02", "a video")
    data = opened(held_out, trained)
    assert [(row.clip_id, Path(row.dataset).name) for row in data.train] == [("clip00", "x"), ("clip00", "y")]
    assert data.num_withheld == 2  # clip01 itself, and clip02 of its group


def test_a_group_that_stands_in_both_splits_of_one_dataset_is_held_out(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, train=(1, 2), held_out=(2,))
    regroup(dataset, "clip00", "another")  # the other two are of one group
    data = opened(dataset)
    assert ([row.clip_id for row in data.train], data.num_withheld) == (["clip00"], 1)


def test_datasets_that_hold_all_of_each_other_s_clips_out_leave_nothing_to_train_on(tmp_path: Path) -> None:
    held_out = make_dataset(tmp_path / "x", train=(), held_out=(1, 1))
    trained = make_dataset(tmp_path / "y", train=(1, 1), held_out=())
    with pytest.raises(ValueError, match="2 are held out, themselves or another of their group"):
        opened(held_out, trained)


def test_datasets_of_two_codecs_are_not_mixed_and_the_differences_are_named(tmp_path: Path) -> None:
    ours = make_dataset(tmp_path / "ours")
    theirs = make_dataset(tmp_path / "theirs", codec=replace(CODEC, codec_id="other", weights_sha256="1" * 64))
    words = r"theirs and .*ours were encoded differently \(codec_id 'other' and 'tiny'; weights_sha256 '1+' and '0+'\): encode both"
    with pytest.raises(ValueError, match=words):
        opened(ours, theirs)
