"""Which known sources an input misses."""

from dataclasses import replace
from pathlib import Path

import pytest

from preprocessing.listing import emptied_inputs, gone_sources, vanished_sources
from preprocessing.sources import find_sources
from preprocessing.storage import open_storage
from tests.preprocessing.test_sources import CONFIG, copy_to, find, make_files


def test_only_what_lay_in_the_inputs_can_vanish_from_them(tmp_path: Path) -> None:
    monday, tuesday = make_files(tmp_path / "monday", "a.mp4", "b.mp4"), make_files(tmp_path / "tuesday", "c.mp4")
    known = find(monday, tuesday).sources
    (monday / "a.mp4").unlink()
    (tuesday / "c.mp4").unlink()
    assert [s.uri for s in vanished_sources(find(monday), known)] == ["monday/a.mp4"]
    assert [s.uri for s in vanished_sources(find(monday / "*.mp4", tuesday), known)] == [
        "monday/a.mp4",
        "tuesday/c.mp4",
    ]
    assert vanished_sources(find(monday / "b.mp4"), known) == ()


def test_a_video_that_left_its_table_and_its_place_beside_the_rows_has_vanished(tmp_path: Path) -> None:
    raw, other = make_files(tmp_path / "raw", "a.mp4", "b.mp4", "c.mp4"), make_files(tmp_path / "other", "d.mp4")
    table = tmp_path / "t.csv"
    table.write_text("path\nraw/a.mp4\nraw/b.mp4\nraw/c.mp4\nother/d.mp4\n")
    known = find(table).sources
    table.write_text("path\nraw/a.mp4\n")
    for path in (raw / "b.mp4", other / "d.mp4"):
        path.unlink()
    assert [source.uri for source in vanished_sources(find(table), known)] == [f"{tmp_path.name}/raw/b.mp4"]
    assert vanished_sources(find(raw / "a.mp4"), known) == ()


def test_a_table_is_emptied_when_other_names_took_the_place_of_all_its_rows(tmp_path: Path) -> None:
    raw, table = make_files(tmp_path / "raw", "a.mp4", "b.mp4"), tmp_path / "t.csv"
    table.write_text("path\nraw/a.mp4\nraw/b.mp4\n")
    known = find(table).sources
    for name in ("a", "b"):
        (raw / f"{name}.mp4").rename(raw / f"{name}2.mp4")
    table.write_text("path\nraw/a2.mp4\nraw/b2.mp4\n")
    assert emptied_inputs(find(table), known) == {str(table): 2}
    (raw / "a.mp4").touch()
    assert emptied_inputs(find(table), known) == {}


def test_an_input_is_emptied_when_none_of_what_is_known_of_it_is_there(tmp_path: Path) -> None:
    monday, tuesday = make_files(tmp_path / "monday", "a.mp4", "b.mp4"), make_files(tmp_path / "tuesday", "c.mp4")
    table = tmp_path / "t.csv"
    table.write_text("path,start_frame\nmonday/a.mp4,5\nmonday/b.mp4,5\n")
    of_folders, of_table = find(monday, tuesday).sources, find(table).sources
    (monday / "a.mp4").unlink()
    assert emptied_inputs(find(monday, table), (*of_folders, *of_table)) == {}
    (monday / "b.mp4").unlink()
    make_files(monday, "new.mp4")
    assert emptied_inputs(find(monday, tuesday), of_folders) == {str(monday): 2}
    assert emptied_inputs(find(tuesday, table), of_table) == {str(table): 2}
    assert emptied_inputs(find(monday / "*.mp4"), of_folders) == {str(monday / "*.mp4"): 2}
    assert emptied_inputs(find(tmp_path), of_folders) == emptied_inputs(find(monday), of_folders[2:]) == {}


def test_a_limited_run_over_a_table_is_not_emptied_by_the_rows_that_it_takes(tmp_path: Path) -> None:
    raw, table = make_files(tmp_path, "a.mp4", "b.mp4", "c.mp4"), tmp_path / "t.csv"
    table.write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    known = find(table).sources
    (raw / "a.mp4").unlink()
    assert emptied_inputs(find_sources([str(table)], CONFIG, limit=1), known) == {}


def test_a_limited_run_over_a_folder_that_moved_is_not_emptied_by_newcomers(tmp_path: Path) -> None:
    known = find(make_files(tmp_path / "before" / "raw", "a.mp4", "b.mp4")).sources
    (tmp_path / "before").rename(tmp_path / "after")
    raw = make_files(tmp_path / "after" / "raw", "0new.mp4")
    assert emptied_inputs(find_sources([str(raw)], CONFIG, limit=1), known) == {}


def test_a_table_is_emptied_when_all_its_rows_are_gone_from_where_they_were(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a_b.mp4", "c_d.mp4")
    table = raw / "sekai.csv"
    table.write_text("videoFile\na_b_0000000_0000090.mp4\nc_d_0000030_0000120.mp4\n")
    known = find(table).sources
    assert [source.uri for source in known] == ["raw/a_b.mp4", "raw/c_d.mp4"]
    (raw / "a_b.mp4").unlink()
    assert emptied_inputs(find(table), known) == {}
    (raw / "c_d.mp4").unlink()
    assert [source.uri for source in find(table).sources] == [
        "raw/a_b_0000000_0000090.mp4",
        "raw/c_d_0000030_0000120.mp4",
    ]
    assert emptied_inputs(find(table), known) == {str(table): 2}


def test_a_table_is_not_emptied_while_its_rows_are_in_another_folder_of_that_name(tmp_path: Path) -> None:
    rows = "videoFile\na_b_0000000_0000090.mp4\nc_d_0000030_0000120.mp4\n"
    whole = make_files(tmp_path / "1" / "raw", "a_b.mp4", "c_d.mp4")
    cut = make_files(tmp_path / "2" / "raw", "a_b_0000000_0000090.mp4", "c_d_0000030_0000120.mp4")
    for folder in (whole, cut):
        (folder / "sekai.csv").write_text(rows)
    known = find(whole / "sekai.csv").sources
    after = find(cut / "sekai.csv")
    assert (vanished_sources(after, known), emptied_inputs(after, known)) == ((), {})
    for name in ("a_b.mp4", "c_d.mp4"):
        (whole / name).unlink()
    assert vanished_sources(after, known) == known
    assert emptied_inputs(after, known) == {str(cut / "sekai.csv"): 2}


def test_what_left_a_bucket_has_vanished(tmp_path: Path) -> None:
    bucket = f"memory://bucket{tmp_path}"
    copy_to(bucket, make_files(tmp_path / "raw", "a.mp4", "b.mp4"))
    known = find(f"{bucket}/raw").sources
    open_storage(bucket).delete("raw/a.mp4")
    assert [s.uri for s in vanished_sources(find(f"{bucket}/raw"), known)] == ["raw/a.mp4"]
    assert vanished_sources(find(f"{bucket}/raw/b.mp4"), known) == ()
    assert emptied_inputs(find(f"{bucket}/raw"), known) == {}
    open_storage(bucket).delete("raw/b.mp4")
    open_storage(bucket).write_atomic("raw/notes.md", b"x")
    assert emptied_inputs(find(f"{bucket}/raw"), known) == {f"{bucket}/raw": 2}


@pytest.mark.parametrize("place", ["nonsense://old/raw", "s3://old/raw"])
def test_a_place_that_cannot_be_asked_makes_nothing_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    raw = make_files(tmp_path / "raw", "a.mp4", "b.mp4")
    (raw / "t.csv").write_text("path\na.mp4\nb.mp4\n")
    moved = [replace(s, location=f"{place}/{Path(s.uri).name}") for s in find(raw / "t.csv").sources]
    (raw / "a.mp4").unlink()
    listing = find(raw / "t.csv")
    assert gone_sources(listing, moved) == vanished_sources(listing, moved) == ()
    (raw / "b.mp4").unlink()
    assert emptied_inputs(find(raw / "t.csv"), moved) == {}
