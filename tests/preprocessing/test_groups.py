from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import pytest

from preprocessing.groups import shared_groups
from preprocessing.samples import Source, Span
from preprocessing.sources import file_group
from tests.preprocessing.test_duplicates import known, row_of, source

FIRST, SECOND = Span(start_frame=0, end_frame=60), Span(start_frame=30, end_frame=90)
GROUP_A, GROUP_B, GROUP_C = map(file_group, "abc")


def listed(name: str, span: Span | None = None, *, sha256: str = "x", group: str = "") -> Source:
    """As a listing gives it: without a name for its group, it has its file's."""
    return replace(source(name, sha256=sha256, span=span), group_id=group or file_group(name))


def rows_after(sources: Sequence[Source], before: Mapping[str, Mapping]) -> Mapping[str, Mapping]:
    """The rows once these sources were taken and scanned."""
    groups = shared_groups(sources, before)
    scanned = known(*(row_of(replace(s, group_id=groups[s.source_id])) for s in sources))
    return {i: {**row, "group_id": groups.get(i, row["group_id"])} for i, row in {**before, **scanned}.items()}


def groups_of(rows: Mapping[str, Mapping]) -> dict[str, str]:
    return {source_id: row["group_id"] for source_id, row in rows.items()}


def test_overlapping_spans_of_equal_files_have_the_group_of_the_first_file() -> None:
    copies = [listed("b", FIRST), listed("a", SECOND), listed("c", sha256="y")]
    assert groups_of(rows_after(copies, {})) == {"b[0, 60)": GROUP_A, "a[30, 90)": GROUP_A, "c": GROUP_C}


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_a_copy_that_comes_later_joins_what_is_there_and_moves_nothing(order: tuple[str, ...]) -> None:
    spans = dict(zip("abc", (FIRST, SECOND, None), strict=True))
    rows: Mapping[str, Mapping] = {}
    for number, name in enumerate(order):
        before = groups_of(rows)
        rows = rows_after([listed(name, spans[name]) for name in order[: number + 1]], rows)
        assert set(groups_of(rows).values()) == {file_group(order[0])}
        assert before.items() <= groups_of(rows).items()


def gone(*found: Source, part: int = 0) -> Mapping[str, Mapping]:
    return known(*({**row_of(source), "reason": "missing", "status": "failed", "part": part} for source in found))


@pytest.mark.parametrize("groups", [("", ""), ("film", "film, right id")])
def test_of_several_names_that_are_gone_the_last_one_gives_its_group(groups: tuple[str, str]) -> None:
    first, last = listed("a", group=groups[0]), listed("z", group=groups[1])
    for before, after in ((first, last), (last, first)):
        rows = rows_after([listed("q")], {**gone(before, part=4), **gone(after, part=5)})
        assert rows["q"]["group_id"] == after.group_id


@pytest.mark.parametrize("group", ["", "film"])
def test_a_file_that_was_renamed_keeps_its_group_and_so_does_the_old_name_if_it_comes_back(group: str) -> None:
    rows = rows_after([listed("b")], gone(listed("z", group=group)))
    assert set(groups_of(rows).values()) == {group or file_group("z")}
    assert groups_of(rows_after([listed("a"), listed("b"), listed("z")], rows)) == {
        **groups_of(rows),
        "a": rows["z"]["group_id"],
    }


@pytest.mark.parametrize("new_name", ["a", "c", "y"])
def test_where_the_one_of_equal_files_that_is_kept_is_renamed_its_group_stays(new_name: str) -> None:
    rows = rows_after([listed("b"), listed("x")], {})
    rows = {**rows, "x": {**rows["x"], "reason": "duplicate"}, "b": {**rows["b"], "reason": "missing", "part": 1}}
    assert groups_of(rows_after([listed(new_name), listed("x")], rows)) == dict.fromkeys([new_name, "x", "b"], GROUP_B)


def test_a_file_that_was_renamed_over_another_takes_its_group_along() -> None:
    rows = rows_after(
        [listed("a", sha256="x")], {**gone(listed("b", sha256="x")), **known(row_of(listed("a", sha256="y")))}
    )
    assert groups_of(rows) == {"a": GROUP_B, "b": GROUP_B}


def test_what_is_gone_moves_nothing_that_the_dataset_has_and_nothing_of_another_content() -> None:
    rows = {**gone(listed("a", group="film"), listed("d", sha256="")), **known(row_of(listed("b", SECOND)))}
    assert groups_of(rows_after([listed("b", SECOND)], rows))["b[30, 90)"] == GROUP_B
    assert groups_of(rows_after([listed("c", sha256="y")], rows))["c"] == GROUP_C
    rows = {**gone(listed("a", FIRST)), **known(row_of(listed("b", SECOND)))}
    assert set(groups_of(rows_after([listed("a", FIRST), listed("b", SECOND)], rows)).values()) == {GROUP_B}


def test_of_two_that_were_gone_the_one_that_comes_back_keeps_its_group() -> None:
    assert groups_of(rows_after([listed("b")], gone(listed("a"), listed("b")))) == {"a": GROUP_A, "b": GROUP_B}


def test_spans_of_one_file_have_one_group_before_anybody_read_it() -> None:
    whole = known(row_of(listed("a", group="film")))
    assert shared_groups([listed("a", FIRST, sha256="")], whole) == {"a": "film", "a[0, 60)": "film"}


def test_a_name_that_comes_later_holds_for_all_of_the_content_listed_or_not() -> None:
    rows = rows_after([listed("a"), listed("b", FIRST)], {})
    rows = rows_after([listed("c", SECOND, group="film")], rows)
    assert set(groups_of(rows).values()) == {"film"}
    rows = rows_after([listed("a")], rows)
    assert set(groups_of(rows).values()) == {"film"}  # a folder that names no group takes none away
    rows = rows_after([listed("c", SECOND, group="same film, right id")], rows)
    assert set(groups_of(rows).values()) == {"same film, right id"}


def test_parts_of_a_file_that_tables_name_apart_stay_apart() -> None:
    scenes = [listed("a", FIRST, group="scene 1"), listed("a", SECOND, group="scene 2")]
    rows = rows_after(scenes, rows_after(scenes, {}))
    assert groups_of(rows) == {"a[0, 60)": "scene 1", "a[30, 90)": "scene 2"}
    assert groups_of(rows_after([listed("a", FIRST)], rows)) == groups_of(rows)


def test_a_file_whose_content_changed_keeps_its_group() -> None:
    rows = rows_after([listed("a", sha256="x"), listed("b", FIRST, sha256="x"), listed("c", FIRST, sha256="y")], {})
    changed = listed("a", SECOND, sha256="y")
    rows = rows_after([changed, listed("c", FIRST, sha256="y")], rows)
    assert groups_of(rows)["c[0, 60)"] == GROUP_C
    assert groups_of(rows)["b[0, 60)"] == GROUP_A
