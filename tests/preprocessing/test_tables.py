import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.config import SourcesConfig, TableColumns
from preprocessing.ledger import Ledger
from preprocessing.listing import SourceListing
from preprocessing.reasons import Reason
from preprocessing.rows import source_from_row
from preprocessing.samples import Source, Span
from preprocessing.scan import failed_scan
from preprocessing.sources import find_sources
from preprocessing.storage import open_storage
from preprocessing.tables import Place, TableRow, UnusableRow, read_table

DENSE = 'A man, called "Jo",\nwalks.\r\nThe camera follows.'
QUOTED = '"' + DENSE.replace('"', '""') + '"'
MIRADATA = f"""index,video_id,start_frame,end_frame,short_caption,dense_caption,fps,start_timestep,end_timestep,,
000000008783_AJp_ANXoGoM-000114,AJp_ANXoGoM,100,300,a man,{QUOTED},23.976,0:00:04,0:00:12,,
000000000012_-x-y_z-000001,-x-y_z,0,50,,b,30,0:00:00,0:00:02,,
"""
SEKAI = f"""videoFile,cameraFile,caption,location,scene,crowdDensity,weather,timeOfDay
ab_c-D_0000100_0001900.mp4,ab.npz,{QUOTED},"Rome, Italy",street,high,sunny,day
game one.mp4,g.npz,c,,,,,
"""


def rows(text: str | bytes, name: str = "t.csv", **columns: str) -> list[TableRow]:
    data = text.encode() if isinstance(text, str) else text
    return [row for row in read_table(name, io.BytesIO(data), TableColumns(**columns)) if isinstance(row, TableRow)]


def test_a_row_of_miradata_is_its_cut_clip_or_a_span_of_the_whole_video() -> None:
    first, second = rows(MIRADATA)
    assert first.places == (
        Place(path="clip_video/000000008/000000008783_AJp_ANXoGoM-000114.mp4", span=None),
        Place(
            path="raw_video/000000008/000000008783_AJp_ANXoGoM.mp4",
            span=Span(start_frame=100, end_frame=300, table_fps=23.976),
        ),
    )
    assert (first.group, first.caption) == ("AJp_ANXoGoM", DENSE)
    assert first.extra == {
        "index": "000000008783_AJp_ANXoGoM-000114", "short_caption": "a man", "fps": "23.976",
        "start_timestep": "0:00:04", "end_timestep": "0:00:12",
    }  # fmt: skip
    assert [place.path.rpartition("/")[2] for place in second.places[1:]] == [
        "000000000012_-x-y_z.mp4",
        "000000000012_.mp4",
    ]


def test_a_row_of_sekai_is_its_file_or_a_span_of_the_original() -> None:
    real, game = rows(SEKAI)
    assert real.places == (
        Place(path="ab_c-D_0000100_0001900.mp4", span=None),
        Place(path="ab_c-D.mp4", span=Span(start_frame=100, end_frame=1900, table_fps=30)),
    )
    assert (real.group, real.caption, real.extra["location"]) == ("ab_c-D", DENSE, "Rome, Italy")
    assert (game.places, game.group) == ((Place(path="game one.mp4", span=None),), "game one")


OWN = [
    {"path": "a.mp4", "caption": DENSE, "start_frame": 10, "end_frame": 20, "camera": "x"},
    {"path": "a.mp4", "caption": None, "start_frame": 20, "end_frame": None, "camera": None},
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_an_own_table_says_the_same_in_every_format(suffix: str) -> None:
    if suffix == ".csv":
        data = f"path,caption,start_frame,end_frame,camera\na.mp4,{QUOTED},10.0,20,x\na.mp4,,20,,\n".encode()
    elif suffix == ".tsv":
        data = f"path\tcaption\tstart_frame\tend_frame\tcamera\na.mp4\t{QUOTED}\t10\t20\tx\na.mp4\t\t20\t\t\n".encode()
    elif suffix == ".jsonl":
        data = b"\n".join(json.dumps(row).encode() for row in OWN) + b"\n\n"
    else:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(OWN), sink)
        data = sink.getvalue()
    first, second = rows(data, f"t{suffix}")
    assert (first.places, first.caption) == ((Place(path="a.mp4", span=Span(start_frame=10, end_frame=20)),), DENSE)
    assert (second.places, second.caption) == ((Place(path="a.mp4", span=Span(start_frame=20)),), None)
    assert (first.extra, second.extra) == ({"camera": "x"}, {})


def test_the_columns_of_a_jsonl_are_those_of_all_its_rows() -> None:
    text = '{"path": "a.mp4"}\n{"path": "b.mp4", "text": "b", "mood": "calm"}\n'
    first, last = rows(text, "t.jsonl", caption="text")
    assert (first.caption, first.extra) == (None, {})
    assert (last.number, last.caption, last.extra) == (2, "b", {"mood": "calm"})


def test_columns_may_have_any_name() -> None:
    text = "file,text,from,to,film,rights\na.mp4,x,1.5,2.25,f,CC0\n"
    names = {"path": "file", "caption": "text", "start_s": "from", "end_s": "to", "group": "film", "licence": "rights"}
    (row,) = rows(text, **names)
    assert row.places == (Place(path="a.mp4", span=Span(start_s=1.5, end_s=2.25)),)
    assert (row.caption, row.group, row.licence, row.extra) == ("x", "f", "CC0", {})


def test_a_rate_counts_where_a_table_says_so_and_the_row_has_frames() -> None:
    text = "path,start_frame,end_s,rate\na.mp4,10,,29.97\nb.mp4,,2.5,29.97\nc.mp4,10,,\n"
    spans = [row.places[0].span for row in rows(text, fps="rate")]
    assert spans == [Span(start_frame=10, table_fps=29.97), Span(end_s=2.5), Span(start_frame=10)]
    assert [row.extra for row in rows(text, fps="rate")] == [{"rate": "29.97"}, {"rate": "29.97"}, {}]
    assert next(iter(rows(text))).places[0].span == Span(start_frame=10)


@pytest.mark.parametrize(
    ("text", "columns", "number", "why"),
    [
        ("path,start_frame\na.mp4,1\nb.mp4,x\n", {}, 2, "column start_frame: expected a frame.*'x'"),
        ("path,start_frame\na.mp4,-1\n", {}, 1, "column start_frame"),
        ("path,start_frame,end_s\na.mp4,5,6\n", {}, 1, "column start_frame and end_s: .*in frames or in seconds"),
        ("path,end_s\na.mp4,nan\n", {}, 1, "column end_s: expected seconds"),
        ("path,end_frame,rate\na.mp4,9,0\n", {"fps": "rate"}, 1, "column rate: expected frames a second.*'0'"),
        ("path,caption\na.mp4,x\n,y\n", {}, 2, "column path: there is no value"),
        ("path\na.mp4\nb\0.mp4\n", {}, 2, "column path: it holds a zero character"),
        (MIRADATA.replace("000000008783_", "x"), {}, 1, "column index: expected one like"),
        (MIRADATA.replace("23.976", "0"), {}, 1, "column fps: expected frames a second, a number above 0; got '0'"),
        (MIRADATA.replace("23.976", "-24"), {}, 1, "column fps: expected frames a second.*'-24'"),
        (MIRADATA.replace("23.976", "inf"), {}, 1, "column fps: expected frames a second.*'inf'"),
        (MIRADATA.replace("23.976", "nan"), {}, 1, "column fps: expected frames a second.*'nan'"),
    ],
)
def test_a_row_that_names_no_video_says_which_column_is_wrong_and_harms_no_other(
    text: str, columns: dict[str, str], number: int, why: str
) -> None:
    found = list(read_table("t.csv", io.BytesIO(text.encode()), TableColumns(**columns)))
    (unusable,) = (row for row in found if isinstance(row, UnusableRow))
    assert unusable.number == number
    assert re.match(why, unusable.why)
    assert [row.number for row in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            "path\na.mp4,x\n",
            {},
            r"t.csv is no readable table \(row 1, from line 2 on\): it has 2 values, the header 1 ",
        ),
        ('path,caption\na.mp4,"x\n', {}, r"no readable table \(row 1, from line 2 on\): unexpected end of data"),
        ("path,path\na,b\n", {}, "two columns path"),
        ("path\na.mp4\n", {"caption": "txt"}, r"there is no column txt \(sources.columns.caption\); it has path"),
        (b"path\n\xff\n", {}, "no readable table"),
        ("", {}, "it has no columns"),
    ],
)
def test_what_is_no_table_of_these_columns_is_refused(text: str | bytes, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows(text, **columns)


@pytest.mark.parametrize(
    "bad", ['"Run, he said', '"Run," he said', '"' + "x" * 200_000], ids=["open", "within", "open in a large table"]
)
@pytest.mark.parametrize(("suffix", "tab"), [(".csv", ","), (".tsv", "\t")])
def test_a_wrong_quote_is_refused_with_its_row_and_line_and_what_to_do(suffix: str, tab: str, bad: str) -> None:
    text = f'path{tab}caption\na.mp4{tab}"two\nlines"\nb.mp4{tab}{bad}\nc.mp4{tab}x\n'
    with pytest.raises(ValueError, match=rf"^t{suffix} is no readable table \(row 2, from line 4 on\): ") as refused:
        rows(text, f"t{suffix}")
    assert "a value that begins with a quote" in str(refused.value)


# --- tables over files ---


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def find(*inputs: Path, **settings: object) -> SourceListing:
    return find_sources([str(given) for given in inputs], SourcesConfig.model_validate(settings), limit=None)


def places_of(sources: tuple[Source, ...]) -> list[tuple[str, str]]:
    return [(source.uri, str(source.span or "")) for source in sources]


def test_miradata_takes_what_was_downloaded(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/miradata_v0.csv").write_text(MIRADATA, newline="")
    touch(tmp_path / "m", "raw_video/000000008/000000008783_AJp_ANXoGoM.mp4")
    missing, present = find(tmp_path / "m/miradata_v0.csv").sources
    assert places_of((present,)) == [("m/raw_video/000000008/000000008783_AJp_ANXoGoM.mp4", "[100, 300)")]
    assert (present.group_id, present.caption) == ("AJp_ANXoGoM", DENSE)
    assert (missing.uri, missing.content_id) == ("m/clip_video/000000000/000000000012_-x-y_z-000001.mp4", "absent")
    touch(tmp_path / "m", "clip_video/000000008/000000008783_AJp_ANXoGoM-000114.mp4")
    cut = find(tmp_path / "m/miradata_v0.csv").sources[1]
    assert places_of((cut,)) == [("m/clip_video/000000008/000000008783_AJp_ANXoGoM-000114.mp4", "")]
    assert cut.group_id == "AJp_ANXoGoM"


def test_sekai_and_its_mapping_say_the_same_source_together(tmp_path: Path) -> None:
    touch(tmp_path / "s", "ab_c-D_0000100_0001900.mp4", "game one.mp4")
    (tmp_path / "s/sekai-real-walking.csv").write_text(SEKAI, newline="")
    (tmp_path / "s/map.csv").write_text(
        "videoFile,youtubeURL,startTime,endTime\nab_c-D_0000100_0001900.mp4,https://y/?v=ab_c-D,3,60\n"
    )
    real, game = find(tmp_path / "s/sekai-real-walking.csv", tmp_path / "s/map.csv").sources
    assert (real.group_id, real.caption) == ("ab_c-D", DENSE)
    assert (real.extra["youtubeURL"], real.extra["weather"]) == ("https://y/?v=ab_c-D", "sunny")
    assert (game.uri, game.group_id) == ("s/game one.mp4", "game one")


def test_spans_of_one_file_are_sources_of_one_group(tmp_path: Path) -> None:
    touch(tmp_path, "v/a.mp4")
    (tmp_path / "t.jsonl").write_text(
        '{"path": "a.mp4", "start_frame": 200, "end_frame": 300}\n{"path": "a.mp4", "end_frame": 90}\n{"path": "a.mp4"}\n'
        '{"path": "a.mp4", "end_frame": 90, "caption": "again"}\n'
    )
    listing = find(tmp_path / "t.jsonl", videos_folder=str(tmp_path / "v"))
    assert places_of(listing.sources) == [("v/a.mp4", ""), ("v/a.mp4", "[0, 90)"), ("v/a.mp4", "[200, 300)")]
    assert len({source.source_id for source in listing.sources}) == 3
    assert {source.group_id for source in listing.sources} == {listing.sources[0].source_id}
    assert listing.ignored == (f"{tmp_path}/t.jsonl, row 4 (the same video and span as row 2)",)


def test_a_rate_that_a_table_says_later_speaks_of_the_same_source(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "plain.csv").write_text("path,start_frame,end_frame\na.mp4,0,90\n")
    (tmp_path / "rated.csv").write_text("path,end_frame,fps\na.mp4,90,30\n")
    (plain,) = find(tmp_path / "plain.csv").sources
    (rated,) = find(tmp_path / "rated.csv", columns={"fps": "fps"}).sources
    assert (plain.source_id, plain.span) == (rated.source_id, Span(start_frame=0, end_frame=90))
    assert rated.span == Span(end_frame=90, table_fps=30)
    other = replace(plain, uri="b.mp4", source_id="b")
    ledger = Ledger(open_storage(str(tmp_path / "d")))
    ledger.append_scans([failed_scan(source, Reason.UNDECODABLE, "as if scanned") for source in (plain, other)], "f")
    assert ledger.pending_sources([rated, other], "f") == (rated,)
    ledger.append_scans([failed_scan(rated, Reason.UNDECODABLE, "as if scanned")], "f")
    assert ledger.pending_sources([rated, other], "f") == ()
    assert source_from_row(ledger.rows_by_id()[rated.source_id]).span == rated.span


def test_one_bad_row_is_named_and_the_others_are_taken_but_a_table_of_bad_rows_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "t.csv").write_text("path,end_frame\na.mp4,90\n,90\nb.mp4,30\n")
    listing = find(tmp_path / "t.csv")
    assert [Path(source.location).name for source in listing.sources] == ["a.mp4", "b.mp4"]
    assert listing.ignored == (f"{tmp_path}/t.csv, row 2 (column path: there is no value)",)
    (tmp_path / "t.csv").write_text("path,end_frame\na.mp4,1:30\nb.mp4,0:30\n")
    with pytest.raises(ValueError, match=r"no row can be used; row 1, column end_frame: expected a frame.*'1:30'"):
        find(tmp_path / "t.csv")


def test_a_range_that_ends_before_it_starts_is_a_source_that_fails(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "t.csv").write_text("path,start_frame,end_frame\na.mp4,300,100\na.mp4,0,100\na.mp4,5,5\n")
    listing = find(tmp_path / "t.csv")
    assert [str(source.span) for source in listing.sources] == ["[0, 100)", "[5, 5)", "[300, 100)"]
    assert [source.span and source.span.is_empty for source in listing.sources] == [False, True, True]


def test_a_folder_and_a_table_of_it_are_one_listing(tmp_path: Path) -> None:
    touch(tmp_path / "raw", "a.mp4", "b.mp4")
    (tmp_path / "raw/t.csv").write_text("path,caption\na.mp4,of the table\n")
    sources = find(tmp_path / "raw", tmp_path / "raw/t.csv").sources
    assert [(source.uri, source.caption) for source in sources] == [("raw/a.mp4", "of the table"), ("raw/b.mp4", "")]
