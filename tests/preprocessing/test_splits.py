import pyarrow as pa

from preprocessing.samples import Split
from preprocessing.splits import split_of, splits_of


def test_the_split_is_a_hash_with_about_the_share_asked_for() -> None:
    groups = [f"group{i}" for i in range(4000)]
    small, large = ({g for g in groups if split_of(g, share) is Split.EVAL} for share in (5, 20))
    assert 140 < len(small) < 260
    assert 700 < len(large) < 900
    assert small < large
    assert all(split_of(g, 0) is Split.TRAIN for g in groups)


def test_a_column_of_groups_has_the_split_of_each() -> None:
    groups = [f"group{i % 50}" for i in range(200)]
    assert splits_of(pa.chunked_array([groups[:70], groups[70:]]), 20).to_pylist() == [split_of(g, 20) for g in groups]
