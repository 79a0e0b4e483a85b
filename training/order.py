"""Which clips, how many segments and which random numbers at which step: pure, and the same on every rank.

Whatever changes the graph (n, memory dropout, the number of segments) is one per global step: ranks that differ in it
abort, hang, or silently spoil ZeRO's gradients. What may differ, times and noise, is keyed by the clip's position in
the global batch and never by rank, so that any number of ranks draws the same numbers.

A global batch holds clips of one group: one picture size and one number of segments. The clips of a group form an
endless stream, epoch after epoch, each in a new order; batches are cut from the stream, so a clip that does not fill
a batch at the end of an epoch opens the next one, and none is lost. How many batches an epoch ends with is known
without making them, so a run that goes on at any step finds its place at once.
"""

import hashlib
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from training.types import ClipRow, GlobalStep, RandomKey

Group = tuple[int, int, int]
"""Height, width, number of segments."""


def keyed_seed(*key: int | str) -> int:
    """A seed of 63 bits that depends on every part of the key and on nothing else."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_rng(*key: int | str) -> np.random.Generator:
    """Numpy random numbers of a key."""
    return np.random.default_rng(keyed_seed(*key))


def keyed_normals(key: RandomKey, *, positions: Sequence[int], segment: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers (B, *shape) in fp32 for one segment: row b is the clip at ``positions[b]``.

    They are drawn on the CPU, so that every device type and every number of ranks trains on the same ones.
    """
    rows = [_normals(keyed_seed(key.seed, key.stage, key.step, position, segment), shape) for position in positions]
    return torch.stack(rows)


def _normals(seed: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def teacher_steps(
    rows: Sequence[ClipRow],
    *,
    seed: int,
    global_batch: int,
    memory_dropout: float,
    history_dropout: float,
    start: int = 0,
) -> Iterator[GlobalStep]:
    """The endless order of the teacher stage: at each step one n, uniform over the segments of the clips in it.

    Args:
        rows: Clips to train on.
        seed: Of the order.
        global_batch: Clips a step.
        memory_dropout: Share of steps without memory.
        history_dropout: Share of steps without past latents, of those that have any.
        start: First step to yield.

    Raises:
        ValueError: If there are no clips.
    """
    batches = grouped_batches(rows, seed=seed, name="teacher", global_batch=global_batch, cap=None, start=start)
    for step, clips in enumerate(batches, start):
        rng = keyed_rng(seed, "teacher", "step", step)
        n = int(rng.integers(clips[0].num_segments))
        use_memory = bool(rng.random() >= memory_dropout)
        # the last draw, which leaves the others what they are without it
        use_history = bool(rng.random() >= history_dropout) or n == 0
        yield GlobalStep(
            step=step, clips=clips, num_segments=(n + 1,) * len(clips), segment_index=n, use_memory=use_memory,
            use_history=use_history,
        )  # fmt: skip


def grouped_batches(
    rows: Sequence[ClipRow], *, seed: int, name: str, global_batch: int, cap: int | None, start: int = 0
) -> Iterator[tuple[ClipRow, ...]]:
    """Endless global batches of clips of one size and one number of segments.

    Args:
        rows: Clips.
        seed: Of the order.
        name: Tells apart the orders of one seed.
        global_batch: Clips of a batch.
        cap: Segments beyond it don't count; None counts all.
        start: First batch to yield.

    Raises:
        ValueError: If there are no clips.
    """
    if not rows:
        raise ValueError("the dataset's training split holds no clip: preprocess more videos, or loosen `decide`")
    groups = _groups(rows, cap)
    sizes = [len(clips) for clips in groups.values()]
    first = _epoch_of(start, sizes, global_batch)
    skip = start - _batches_before(first, sizes, global_batch)
    for epoch in count(first):
        turns = _turns(groups, epoch, global_batch, keyed_rng(seed, name, "batches", epoch))
        for group, k in islice(turns, skip if epoch == first else 0, None):
            yield _cut(groups[group], (seed, name, *group), k, global_batch)


def _turns(
    groups: Mapping[Group, Sequence[ClipRow]], epoch: int, global_batch: int, rng: np.random.Generator
) -> Iterator[tuple[Group, int]]:
    """An epoch's batches as (group, number in its stream): groups take turns by chance, each goes through its stream."""
    due = {group: _batches_of_epoch(epoch, len(clips), global_batch) for group, clips in groups.items()}
    turns = [group for group, batches in due.items() for _ in batches]
    numbers = {group: iter(batches) for group, batches in due.items()}
    return ((turns[i], next(numbers[turns[i]])) for i in rng.permutation(len(turns)))


def _batches_before(epoch: int, sizes: Sequence[int], global_batch: int) -> int:
    """Batches of all epochs before this one."""
    return sum(epoch * size // global_batch for size in sizes)


def _epoch_of(batch: int, sizes: Sequence[int], global_batch: int) -> int:
    """The epoch that a batch belongs to."""
    # a group of one clip fills a batch in `global_batch` epochs: it is at the latest there
    epochs = range((batch + 1) * global_batch + 1)
    return bisect_right(epochs, batch, key=lambda epoch: _batches_before(epoch, sizes, global_batch)) - 1


def _groups(rows: Sequence[ClipRow], cap: int | None) -> Mapping[Group, list[ClipRow]]:
    groups: dict[Group, list[ClipRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.clip_id, row.dataset)):
        segments = row.num_segments if cap is None else min(cap, row.num_segments)
        groups[(*row.size_px, segments)].append(row)
    return dict(sorted(groups.items()))


def _batches_of_epoch(epoch: int, num_clips: int, global_batch: int) -> range:
    """Batches of a group's stream that are full at the end of this epoch and were not at the end of the last."""
    return range(epoch * num_clips // global_batch, (epoch + 1) * num_clips // global_batch)


def _cut(clips: Sequence[ClipRow], key: tuple[int | str, ...], k: int, global_batch: int) -> tuple[ClipRow, ...]:
    """Batch k of a group's stream: elements [k G, (k + 1) G)."""
    places = [divmod(i, len(clips)) for i in range(k * global_batch, (k + 1) * global_batch)]
    return tuple(clips[_epoch_order(len(clips), *key, epoch)[i]] for epoch, i in places)


@lru_cache(maxsize=256)
def _epoch_order(num_clips: int, *key: int | str) -> np.ndarray:
    return keyed_rng(*key).permutation(num_clips)


def positions_of_rank(global_batch: int, *, rank: int, num_ranks: int) -> range:
    """Positions of the global batch that a rank works on.

    Raises:
        ValueError: If the ranks would get unequal numbers of clips.
    """
    if global_batch % num_ranks:
        raise ValueError(
            f"a global batch of {global_batch} clips over {num_ranks} ranks: expected a multiple of {num_ranks};"
            " set train.<stage>.global_batch or train.engine.num_workers"
        )
    share = global_batch // num_ranks
    return range(rank * share, (rank + 1) * share)


def stacks_of_rank(step: GlobalStep, *, rank: int, num_ranks: int) -> list[tuple[int, ...]]:
    """A rank's positions, those together that can be one tensor: clips of one size and one number of segments."""
    positions = positions_of_rank(len(step.clips), rank=rank, num_ranks=num_ranks)
    stacks: dict[Group, list[int]] = defaultdict(list)
    for position in positions:
        stacks[(*step.clips[position].size_px, step.num_segments[position])].append(position)
    return [tuple(stack) for stack in stacks.values()]


def backwards_per_rank(step: GlobalStep, num_ranks: int) -> tuple[int, ...]:
    """How often each rank runs a backward pass in this step."""
    ranks = [stacks_of_rank(step, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    each = [
        [1 if step.segment_index is not None else step.num_segments[stack[0]] for stack in stacks] for stacks in ranks
    ]
    return tuple(sum(counts) for counts in each)


def stacks_per_rank(step: GlobalStep, num_ranks: int) -> tuple[int, ...]:
    """How often each rank runs a backward pass for one segment of each of its clips."""
    return tuple(len(stacks_of_rank(step, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks))


def unused_clips(rows: Iterable[ClipRow], steps: Iterable[GlobalStep]) -> tuple[ClipRow, ...]:
    """Clips that these steps never train on, in the order given."""
    used = {clip for step in steps for clip in step.clips}
    return tuple(row for row in rows if row not in used)


def plan_hash(rows: Sequence[ClipRow]) -> str:
    """Names the clips that an order is made of, which with its settings is all that it depends on."""
    plain = sorted((row.clip_id, row.num_segments, *row.size_px) for row in rows)
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
