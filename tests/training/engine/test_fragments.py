from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.full_disk import no_file_beyond
from training.engine.fragments import EMA, WEIGHT, Fragment, StoredFragments, load_fragments, rank_file, save_fragments

SIZES = {"a": 7, "b.weight": 12}
WHOLE = {name: torch.arange(float(size)) + 100 * i for i, (name, size) in enumerate(SIZES.items())}


def cut(name: str, places: Sequence[int]) -> list[Fragment]:
    """The parameter cut at these places."""
    bounds = sorted({0, SIZES[name], *(place % SIZES[name] for place in places)})
    return [
        Fragment(name=name, start=a, tensors={WEIGHT: WHOLE[name][a:b], "exp_avg": -WHOLE[name][a:b]})
        for a, b in pairwise(bounds)
    ]


def write(folder: Path, ranks: Sequence[Sequence[Fragment]]) -> StoredFragments:
    for rank, fragments in enumerate(ranks):
        save_fragments(rank_file(folder, rank), fragments)
    return StoredFragments(folder, num_ranks=len(ranks))


def test_a_disk_that_takes_no_more_says_so_in_its_own_class(tmp_path: Path) -> None:
    large = Fragment(name="a", start=0, tensors={WEIGHT: torch.zeros(1000)})
    with no_file_beyond(1000), pytest.raises(OSError, match=r"File too large: .*rank-00000\.safetensors"):
        save_fragments(rank_file(tmp_path, 0), [large])


def empty(fragment: Fragment) -> Fragment:
    tensors = {kind: torch.full_like(tensor, float("nan")) for kind, tensor in fragment.tensors.items()}
    return Fragment(name=fragment.name, start=fragment.start, tensors=tensors)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b)


PLACES = st.lists(st.integers(0, 11), max_size=4)


@settings(deadline=None, max_examples=30)
@given(written=st.tuples(PLACES, PLACES), read=st.tuples(PLACES, PLACES), num_ranks=st.integers(1, 3))
def test_fragments_cut_in_any_way_are_read_as_cut_in_any_other(
    written: tuple[list[int], list[int]], read: tuple[list[int], list[int]], num_ranks: int
) -> None:
    pieces = [piece for name, places in zip(SIZES, written, strict=True) for piece in cut(name, places)]
    wanted = [piece for name, places in zip(SIZES, read, strict=True) for piece in cut(name, places)]
    with TemporaryDirectory() as folder:
        stored = write(Path(folder), [pieces[rank::num_ranks] for rank in range(num_ranks)])
        loaded = [empty(piece) for piece in wanted]
        load_fragments(stored, loaded)
    for ours, theirs in zip(loaded, wanted, strict=True):
        assert all(same(ours.tensors[kind], theirs.tensors[kind]) for kind in theirs.tensors)


def test_a_missing_piece_is_not_made_up(tmp_path: Path) -> None:
    first, _ = cut("a", [3])
    stored = write(tmp_path, [[first]])
    with pytest.raises(ValueError, match="lacks 4 of 7 elements of the weight of a"):
        load_fragments(stored, [empty(piece) for piece in cut("a", [])])


def test_an_average_that_was_not_kept_begins_at_the_weights(tmp_path: Path) -> None:
    stored = write(tmp_path, [cut("a", [])])
    target = Fragment(name="a", start=2, tensors={EMA: torch.zeros(3)})
    load_fragments(stored, [target])
    assert same(target.tensors[EMA], WHOLE["a"][2:5])
