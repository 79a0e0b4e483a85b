from pathlib import Path

import pyarrow as pa

from preprocessing.parts import Parts, part_key
from preprocessing.storage import open_storage

SCHEMA = pa.schema([("value", pa.int64())])


def rows(*values: int) -> pa.Table:
    return pa.table({"value": list(values)}, schema=SCHEMA)


def seen(parts: Parts) -> list[tuple[int, int]]:
    table = parts.all("notes", SCHEMA)
    return list(zip(table["part"].to_pylist(), table["value"].to_pylist(), strict=True))


def test_all_rows_come_in_order_with_their_part_and_new_ones_are_seen_at_once(tmp_path: Path) -> None:
    parts = Parts(open_storage(str(tmp_path)))
    assert (seen(parts), parts.next("notes")) == ([], 0)
    parts.write("notes", 0, rows(5, 6))
    assert seen(parts) == [(0, 5), (0, 6)]
    parts.write("notes", parts.next("notes"), rows(7))
    parts.write("others", 0, rows(9))
    assert seen(parts) == seen(Parts(open_storage(str(tmp_path)))) == [(0, 5), (0, 6), (1, 7)]
    assert parts.numbers("others") == (0,)


def test_columns_that_a_kind_got_later_are_null_in_the_parts_before(tmp_path: Path) -> None:
    parts = Parts(open_storage(str(tmp_path)))
    parts.write("plan", 0, rows(5))
    later = SCHEMA.append(pa.field("extra", pa.map_(pa.string(), pa.string())))
    parts.write("plan", 1, pa.table({"value": [6], "extra": [[("weather", "sunny")]]}, schema=later))
    assert parts.all("plan", later)["extra"].to_pylist() == [None, [("weather", "sunny")]]


def test_a_part_that_nobody_was_to_see_yet_is_replaced(tmp_path: Path) -> None:
    parts = Parts(open_storage(str(tmp_path)))
    parts.write("notes", 0, rows(1))
    assert seen(parts) == [(0, 1)]
    parts.write("notes", 0, rows(2))
    assert seen(parts) == [(0, 2)]


def test_the_folder_is_listed_once_and_parts_are_read_once(tmp_path: Path) -> None:
    Parts(open_storage(str(tmp_path))).write("notes", 0, rows(1))
    parts = Parts(open_storage(str(tmp_path)))
    assert seen(parts) == [(0, 1)]
    (tmp_path / part_key("notes", 0)).unlink()
    parts.write("notes", 1, rows(2))
    assert seen(parts) == [(0, 1), (1, 2)]
