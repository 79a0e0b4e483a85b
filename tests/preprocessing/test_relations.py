import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.relations import last_of_each, matching_rows, only

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([0.5, 1.5])), max_size=12)


def table(found: list[tuple[str, int, float]]) -> pa.Table:
    columns = {"name": [a for a, _, _ in found], "number": [b for _, b, _ in found], "fps": [c for *_, c in found]}
    return pa.table(columns, schema=pa.schema([("name", pa.string()), ("number", pa.int64()), ("fps", pa.float64())]))


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS)
def test_matching_rows_are_all_pairs_that_agree(left: list, right: list) -> None:
    pairs = zip(*map(list, matching_rows(table(left), table(right), ("name", "number", "fps"))), strict=True)
    assert list(pairs) == [(i, k) for i, one in enumerate(left) for k, other in enumerate(right) if one == other]


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_the_last_of_each_stays_in_its_place(found: list) -> None:
    last = {name: i for i, (name, *_) in enumerate(found)}
    assert last_of_each(table(found), "name").equals(table([found[i] for i in sorted(last.values())]))


@settings(max_examples=40, deadline=None)
@given(ROWS, st.sets(st.sampled_from("abcd")))
def test_only_keeps_rows_and_their_order(found: list, names: set[str]) -> None:
    assert only(table(found), "name", sorted(names)).equals(table([row for row in found if row[0] in names]))
