import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from preprocessing.config import SourcesConfig
from preprocessing.intake import Intake
from preprocessing.ledger import Ledger
from preprocessing.parts import part_key
from preprocessing.reasons import Reason
from preprocessing.rows import source_from_row
from preprocessing.samples import Source
from preprocessing.scan import failed_scan
from preprocessing.sources import file_group, find_sources
from preprocessing.storage import open_storage, read_parquet, write_parquet


class Line:
    """Intakes of one folder, each followed by a scan that gives every pending source a row."""

    def __init__(self, tmp_path: Path) -> None:
        self.raw = tmp_path / "raw"
        self.raw.mkdir()
        self.ledger = Ledger(open_storage(str(tmp_path / "d")))
        self.read: list[str] = []

    def read_hashes(self, sources: Sequence[Source]) -> Mapping[str, str]:
        self.read += [source.uri for source in sources]
        return {s.location: sha256(Path(s.location)) for s in sources}

    def run(self, *names: str, settings: str = "f", retry_failed: bool = False, limit: int | None = None) -> list[str]:
        """Names of the sources that were pending."""
        inputs = [str(self.raw / name) for name in names] or [str(self.raw)]
        listing = find_sources(inputs, SourcesConfig(), limit=limit)
        intake = Intake(self.ledger, settings, self.read_hashes)
        pending = intake.take(listing, complete=limit is None, retry_failed=retry_failed)
        hashed = [Source(**{**vars(s), "sha256": sha256(Path(s.location))}) for s in pending.values()]
        self.ledger.append_scans([failed_scan(s, Reason.UNDECODABLE, "as if scanned") for s in hashed], settings)
        return [source.uri.removeprefix("raw/") for source in pending.values()]

    def forget_marks(self) -> None:
        """Make the rows those of a version that did not record whose caption a source had."""
        storage = self.ledger._parts._storage
        for number in self.ledger._parts.numbers("sources"):
            key = part_key("sources", number)
            write_parquet(storage, key, read_parquet(storage, key).drop_columns(["from_table", "caption_beside"]))
        self.ledger = Ledger(storage)

    def groups(self) -> set[str]:
        return set(self.ledger.sources()["group_id"].to_pylist())

    def rows(self) -> dict[str, str]:
        table = self.ledger.sources()
        return {row["uri"].removeprefix("raw/"): row["reason"] for row in table.to_pylist()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_what_is_known_is_not_scanned_again_and_nothing_is_read(line: Line) -> None:
    for name in ("a.mp4", "bb.mp4"):
        (line.raw / name).write_text(name)
    assert line.run() == ["a.mp4", "bb.mp4"]
    assert (line.run(), line.read) == ([], [])
    assert line.run(settings="other") == ["a.mp4", "bb.mp4"]


def test_a_touched_file_is_read_and_a_changed_one_scanned(line: Line) -> None:
    for name in ("a.mp4", "bb.mp4"):
        (line.raw / name).write_text(name)
    line.run()
    os.utime(line.raw / "a.mp4", ns=(5, 5))
    assert (line.run(), line.read) == ([], ["raw/a.mp4"])
    assert (line.run(), line.read) == ([], ["raw/a.mp4"])
    (line.raw / "a.mp4").write_text("b.mp4")
    assert line.run() == ["a.mp4"]


def test_of_equal_files_one_is_scanned_and_its_copies_name_it(line: Line) -> None:
    for name in ("c.mp4", "b.mp4", "d.mp4"):
        (line.raw / name).write_text("same")
    assert line.run("c.mp4") == ["c.mp4"]
    assert line.run() == []
    assert line.rows() == {"b.mp4": "duplicate", "c.mp4": "undecodable", "d.mp4": "duplicate"}
    assert line.ledger.rows_by_id()[line.ledger.sources()["source_id"][0].as_py()]["message"] == (
        "the same content as raw/c.mp4"
    )


def test_a_copy_takes_the_place_of_what_vanished(line: Line) -> None:
    (line.raw / "a.mp4").write_text("same")
    (line.raw / "b.mp4").write_text("same")
    assert line.run() == ["a.mp4"]
    assert line.rows()["b.mp4"] == "duplicate"
    assert line.run(retry_failed=True) == ["a.mp4"]
    (line.raw / "a.mp4").unlink()
    assert line.run() == ["b.mp4"]
    assert line.rows() == {"a.mp4": "missing", "b.mp4": "undecodable"}


def test_a_file_that_was_renamed_is_scanned_under_its_group(line: Line) -> None:
    for name in ("a.mp4", "other.mp4"):
        (line.raw / name).write_text(name)
    line.run()
    before = line.groups()
    (line.raw / "a.mp4").rename(line.raw / "z.mp4")
    assert line.run() == ["z.mp4"]
    assert line.rows() == {"a.mp4": "missing", "other.mp4": "undecodable", "z.mp4": "undecodable"}
    assert line.groups() == before


def test_a_file_that_was_renamed_twice_stays_in_the_group_that_it_had_last(line: Line) -> None:
    (line.raw / "a.mp4").write_text("same")
    line.run()
    (line.raw / "a.mp4").rename(line.raw / "z.mp4")
    line.run()
    ids = {row["uri"]: source_id for source_id, row in line.ledger.rows_by_id().items()}
    line.ledger.append_groups({ids["raw/z.mp4"]: file_group("raw/z.mp4")})  # as older datasets have it
    (line.raw / "other.mp4").write_text("other")
    line.run()
    (line.raw / "z.mp4").rename(line.raw / "q.mp4")
    line.run()
    assert line.groups() == {file_group("raw/z.mp4"), file_group("raw/other.mp4")}


def test_the_one_of_equal_files_that_is_kept_may_be_renamed_too(line: Line) -> None:
    for name in ("m.mp4", "z.mp4"):
        (line.raw / name).write_text("same")
    line.run()
    before = line.groups()
    (line.raw / "m.mp4").rename(line.raw / "b.mp4")
    assert line.run() == ["b.mp4"]
    assert line.rows() == {"b.mp4": "undecodable", "m.mp4": "missing", "z.mp4": "duplicate"}
    assert line.groups() == before


def test_a_copy_in_a_table_with_other_spans_shares_the_group_and_so_does_the_file_that_is_known(line: Line) -> None:
    (line.raw / "b.mp4").write_text("same")
    assert line.run() == ["b.mp4"]
    (line.raw / "a.mp4").write_text("same")
    (line.raw / "t.csv").write_text("path,start_frame,group_id\na.mp4,5,\n")
    assert line.run("t.csv") == ["a.mp4"]
    assert line.groups() == {file_group("raw/b.mp4")}
    (line.raw / "t.csv").write_text("path,start_frame,group_id\na.mp4,5,film\n")
    assert line.run("t.csv") == []
    assert line.groups() == {"film"}
    assert line.run("b.mp4") == []
    assert line.groups() == {"film"}


def test_a_row_of_a_table_without_its_file_is_missing_until_it_comes(line: Line) -> None:
    (line.raw / "t.csv").write_text("path\na.mp4\nb.mp4\n")
    (line.raw / "a.mp4").write_text("a")
    assert line.run("t.csv") == ["a.mp4"]
    assert line.rows() == {"a.mp4": "undecodable", "b.mp4": "missing"}
    parts = line.ledger.rows_by_id()
    assert line.run("t.csv", retry_failed=True) == ["a.mp4"]
    (line.raw / "b.mp4").write_text("bb")
    assert line.run("t.csv") == ["b.mp4"]
    (line.raw / "a.mp4").unlink()
    assert line.run("t.csv") == []
    assert line.rows() == {"a.mp4": "missing", "b.mp4": "undecodable"}
    assert set(line.ledger.rows_by_id()) == set(parts)


def test_a_listing_that_is_refused_writes_nothing(line: Line, tmp_path: Path) -> None:
    other, lookalike = tmp_path / "other", tmp_path / "lookalike" / "raw"
    for folder in (other, lookalike):
        folder.mkdir(parents=True)
    for path in (line.raw / "a.mp4", line.raw / "b.mp4", other / "gone.mp4"):
        path.write_text(path.name)
    line.run(".", str(other))
    before = line.ledger.sources()
    (other / "gone.mp4").unlink()
    (lookalike / "a.mp4").write_text("another")
    (lookalike / "t.csv").write_text("path,group_id\na.mp4,film\nb.mp4,film\nnone.mp4,film\n")
    with pytest.raises(ValueError, match=r"would both be raw/a\.mp4"):
        line.run(str(lookalike / "t.csv"), str(other))
    assert line.ledger.sources() == before


def test_what_a_table_said_stays_until_a_table_says_otherwise(line: Line) -> None:
    def said() -> list[tuple[str, str, dict]]:
        return [(row["caption"], row["licence"], dict(row["extra"])) for row in line.ledger.sources().to_pylist()]

    (line.raw / "a.mp4").write_text("a")
    (line.raw / "t.csv").write_text("path,caption,licence,place\na.mp4,of the table,CC0,Rome\n")
    line.run("t.csv")
    line.run()
    assert said() == [("of the table", "CC0", {"place": "Rome"})]
    (line.raw / "a.txt").write_text("of the folder")
    line.run()
    assert said() == [("of the folder", "CC0", {"place": "Rome"})]
    (line.raw / "a.txt").unlink()
    (line.raw / "t.csv").write_text("path,caption,licence\na.mp4,,\n")
    line.run("t.csv")
    assert said() == [("", "", {})]


@pytest.mark.parametrize(
    "table", ["path,caption\na.mp4,of the table\n", "path,caption,licence,place\na.mp4,of the table,CC0,Rome\n"]
)
def test_what_a_table_said_stays_in_a_dataset_of_a_version_that_did_not_record_it(line: Line, table: str) -> None:
    (line.raw / "a.mp4").write_text("a")
    (line.raw / "t.csv").write_text(table)
    line.run("t.csv")
    line.forget_marks()
    before = line.ledger.sources().to_pylist()
    line.run()
    after = line.ledger.sources().to_pylist()
    for name in ("caption", "licence", "extra"):
        assert [row[name] for row in after] == [row[name] for row in before]
    assert after[0]["caption"] == "of the table"


def test_another_content_takes_the_place_of_a_file_whose_place_does_not_answer(line: Line) -> None:
    (line.raw / "a.mp4").write_text("a")
    line.run()
    (row,) = line.ledger.rows_by_id().values()
    away = replace(source_from_row(row), location="nonsense://old/raw/a.mp4")
    line.ledger.append_scans([failed_scan(away, Reason.UNDECODABLE, "as if scanned there")], "f")
    (line.raw / "a.mp4").write_text("another")
    assert line.run() == ["a.mp4"]
    assert line.ledger.sources()["location"].to_pylist() == [str(line.raw / "a.mp4")]


def test_a_caption_beside_a_video_is_not_taken_for_a_table_s_in_a_dataset_that_did_not_record_it(line: Line) -> None:
    (line.raw / "a.mp4").write_text("a")
    (line.raw / "a.txt").write_text("of the folder")
    line.run()
    line.forget_marks()
    line.run()
    (line.raw / "a.txt").unlink()
    line.run()
    (row,) = line.ledger.sources().to_pylist()
    assert (row["caption"], row["from_table"]) == ("", None)


@pytest.mark.parametrize("cell", ["of the table", ""])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_caption_beside_a_video_that_a_table_named_goes_with_its_file_too(
    line: Line, cell: str, at_once: bool
) -> None:
    def said() -> tuple[str, str]:
        (row,) = line.ledger.sources().to_pylist()
        return (row["caption"], row["licence"])

    (line.raw / "a.mp4").write_text("a")
    (line.raw / "t.csv").write_text(f"path,caption,licence\na.mp4,{cell},CC0\n")
    if not at_once:
        line.run("t.csv")
    (line.raw / "a.txt").write_text("of the folder")
    line.run(*(["t.csv"] if at_once else []))
    line.run()
    assert said() == ("of the folder", "CC0")
    (line.raw / "a.txt").unlink()
    for _ in range(2):
        line.run()
        assert said() == ("", "CC0")
    line.run("t.csv")
    assert said() == (cell, "CC0")


def test_a_caption_beside_a_video_that_no_table_names_goes_with_its_file(line: Line) -> None:
    for name in ("a.mp4", "a.txt"):
        (line.raw / name).write_text("words")
    line.run()
    (line.raw / "a.txt").unlink()
    line.run()
    assert line.ledger.sources()["caption"].to_pylist() == [""]


RAW, CLIP = (f"{kind}_video/000000008/000000008783_x{end}.mp4" for kind, end in (("raw", ""), ("clip", "-000001")))


@pytest.fixture
def mira(line: Line) -> Line:
    """A row of MiraData's, which may be a clip that was cut, or a span of the whole video."""
    header = "index,video_id,start_frame,end_frame,dense_caption,fps\n"
    (line.raw / "t.csv").write_text(f"{header}000000008783_x-000001,x,0,90,a,30\n")
    for name in (RAW, CLIP):
        (line.raw / name).parent.mkdir(parents=True)
    return line


@pytest.mark.parametrize("name", [RAW, CLIP])
def test_a_row_that_could_be_elsewhere_is_missing_where_it_was(mira: Line, name: str) -> None:
    (mira.raw / name).write_text("video")
    assert mira.run("t.csv") == [name]
    (mira.raw / name).unlink()
    assert mira.run("t.csv", limit=1) == []
    assert mira.rows() == {name: "missing"}
    (mira.raw / name).write_text("video")
    assert mira.run("t.csv") == []
    assert mira.rows() == {name: "undecodable"}


@pytest.mark.parametrize(("before", "after"), [(RAW, CLIP), (CLIP, RAW)])
def test_a_row_whose_file_gives_way_to_one_elsewhere_is_missing_where_it_was(
    mira: Line, before: str, after: str
) -> None:
    (mira.raw / before).write_text("video")
    mira.run("t.csv")
    (mira.raw / after).write_text("another")
    (mira.raw / before).unlink()
    assert mira.run("t.csv") == [after]
    assert mira.rows() == {before: "missing", after: "undecodable"}


def test_a_video_that_was_cut_into_clips_stays_what_it_is_while_it_is_there(mira: Line) -> None:
    (mira.raw / RAW).write_text("video")
    mira.run("t.csv")
    (mira.raw / CLIP).write_text("clip")
    assert mira.run("t.csv") == [CLIP]
    assert mira.rows() == {RAW: "undecodable", CLIP: "undecodable"}


@pytest.mark.parametrize("of_other", [[], [CLIP]])
def test_a_row_that_is_not_in_one_folder_goes_on_in_another_of_that_name(
    mira: Line, tmp_path: Path, of_other: Sequence[str]
) -> None:
    other = tmp_path / "other" / "raw"
    for name in (RAW, CLIP):
        (other / name).parent.mkdir(parents=True)
    (other / "t.csv").write_text((mira.raw / "t.csv").read_text())
    (mira.raw / RAW).write_text("video")
    for name in of_other:
        (other / name).write_text("clip")
    assert mira.run("t.csv") == [RAW]
    for table in (str(other / "t.csv"), "t.csv"):
        mira.run(table)
        assert mira.rows() == dict.fromkeys([RAW, *of_other], "undecodable")
    (mira.raw / RAW).unlink()
    mira.run(str(other / "t.csv"))
    assert mira.rows()[RAW] == "missing"
