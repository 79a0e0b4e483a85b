"""Which clips are held out: whole groups of them, by a hash that knows nothing else. Pure."""

import hashlib

import pyarrow as pa

from preprocessing.samples import Split


def split_of(group_id: str, eval_percent: int) -> Split:
    """The split of a group: a hash decides, so a larger share only moves groups from train to eval."""
    place = int.from_bytes(hashlib.sha256(f"split {group_id}".encode()).digest()[:8], "big") / 2**64
    return Split.EVAL if place < eval_percent / 100 else Split.TRAIN


def splits_of(group_ids: pa.ChunkedArray, eval_percent: int) -> pa.Array:
    """`split_of` of a column of groups, of which each is hashed once."""
    groups = group_ids.combine_chunks().dictionary_encode()
    splits = [str(split_of(str(group_id), eval_percent)) for group_id in groups.dictionary.to_pylist()]
    return pa.array(splits, pa.string()).take(groups.indices)
