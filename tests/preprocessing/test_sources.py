import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.config import SourcesConfig
from preprocessing.listing import SourceListing
from preprocessing.sources import find_sources
from preprocessing.storage import open_storage

CONFIG = SourcesConfig()
VIDEOS = Path("../shared/videos")


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def find(*inputs: Path | str) -> SourceListing:
    return find_sources([str(given) for given in inputs], CONFIG, limit=None)


def uris(*inputs: Path | str) -> list[str]:
    return [source.uri for source in find(*inputs).sources]


def test_a_folder_gives_its_videos_sorted_and_names_the_rest(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "b.mp4", "a.MKV", "sub/c.webm", "notes.md", "list.jsonl", "tool.py", "x")
    listing = find(raw)
    assert [source.uri for source in listing.sources] == ["raw/a.MKV", "raw/b.mp4", "raw/sub/c.webm"]
    assert [Path(path).name for path in listing.ignored] == ["list.jsonl", "notes.md", "tool.py", "x"]


def test_odd_names_are_names(tmp_path: Path) -> None:
    names = ["-dash.mp4", "клип № 1 (copy) 100%.mp4", "映画.mp4", "a b.mp4", "%2e%2e.mp4", "new\nline.mp4", "[1].mp4"]
    raw = make_files(tmp_path / "raw", *names)
    assert uris(raw) == sorted(f"raw/{name}" for name in names)
    assert all(len(s.source_id) == 16 and s.source_id.isalnum() and s.source_id.islower() for s in find(raw).sources)
    assert uris(raw / "[1].mp4") == ["raw/[1].mp4"]


def test_a_file_given_by_name_always_gets_a_row(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "film.txt", "empty")
    assert uris(raw / "film.txt", raw / "empty") == ["raw/empty", "raw/film.txt"]


def test_folder_glob_and_name_call_a_file_the_same_wherever_it_is_mounted(tmp_path: Path) -> None:
    here, there = make_files(tmp_path / "1/raw", "a.mp4"), make_files(tmp_path / "2/raw", "a.mp4")
    ids = {find(given).sources[0].source_id for given in (here, here / "*.mp4", here / "a.mp4", f"{here}/", there)}
    assert len(ids) == 1


def test_a_pipe_is_never_read(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4")
    os.mkfifo(raw / "a.txt")  # opening one waits for a writer for ever
    os.mkfifo(raw / "b.mp4")
    listing = find(raw)
    pictures, pipe = listing.sources
    assert pictures.caption == ""
    assert pipe.content_id == "unreadable: not a file"
    assert listing.ignored == (f"{raw}/a.txt (no caption: not a file)",)


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ValueError, match="an empty path is no input"):
        find("")
    with pytest.raises(ValueError, match="an empty path names no dataset"):
        open_storage("")


def test_a_file_that_two_inputs_give_is_taken_once(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4", "sub/b.mp4")
    assert uris(raw, raw / "a.mp4", raw / "sub") == ["raw/a.mp4", "raw/sub/b.mp4"]


def test_two_files_of_one_uri_are_refused(tmp_path: Path) -> None:
    here, there = make_files(tmp_path / "1/raw", "a.mp4"), make_files(tmp_path / "2/raw", "a.mp4")
    with pytest.raises(ValueError, match=r"would both be raw/a\.mp4: give a folder above both"):
        find(here, there)


def test_a_glob_takes_videos_below_folders_too(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4", "sub/b.mp4", "sub/c.txt")
    assert uris(raw / "**" / "*") == ["raw/a.mp4", "raw/sub/b.mp4"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none", "does not exist"),
        ("none/*.mp4", "no file matches"),
        ("nonsense://bucket/raw", "unknown scheme"),
        ("https://example.org/a.mp4", "web addresses are not supported"),
    ],
)
def test_a_wrong_input_is_one_clear_line(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(given if "://" in given else tmp_path / given)


def test_limit_takes_the_first_by_uri(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "c.mp4", "a.mp4", "b.mp4")
    listing = find_sources([str(raw)], CONFIG, limit=2)
    assert [source.uri for source in listing.sources] == ["raw/a.mp4", "raw/b.mp4"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_gives_paths_captions_and_the_rest(tmp_path: Path, suffix: str) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4", "sub/b.mp4")
    table = raw / f"list{suffix}"
    found = [
        {"path": "sub/b.mp4", "caption": "a cat", "licence": "CC0", "camera": "7"},
        {"path": str(raw / "a.mp4"), "caption": "", "licence": "", "camera": ""},
        {"path": "gone.mp4", "caption": "x", "licence": "", "camera": ""},
    ]
    if suffix == ".csv":
        table.write_text("path,caption,licence,camera\n" + "".join(",".join(row.values()) + "\n" for row in found))
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in found))
    else:
        pq.write_table(pa.Table.from_pylist(found), table)
    by_uri = {source.uri: source for source in find(table).sources}
    b = by_uri["raw/sub/b.mp4"]
    assert (b.caption, b.licence, dict(b.extra)) == ("a cat", "CC0", {"camera": "7"})
    assert by_uri["raw/a.mp4"].source_id == find(raw / "a.mp4").sources[0].source_id
    assert by_uri["raw/gone.mp4"].content_id == "absent"


def test_a_table_in_a_folder_is_named_and_by_name_it_is_read(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4")
    (raw / "list.tsv").write_text("path\tcaption\na.mp4\tof the table\n")
    assert find(raw).ignored == (str(raw / "list.tsv"),)
    assert [(s.uri, s.caption) for s in find(raw / "list.tsv").sources] == [("raw/a.mp4", "of the table")]


def test_a_table_without_paths_or_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("caption\nx\n")
    with pytest.raises(ValueError, match=r"no column path or uri; sources\.columns\.path says"):
        find(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text("not json\n")
    with pytest.raises(ValueError, match="no readable table"):
        find(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="no readable table"):
        find(tmp_path / "a.parquet")


def test_changed_content_changes_the_content_id_only(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4")
    before = find(raw).sources[0]
    (raw / "a.mp4").write_bytes(b"longer than before")
    after = find(raw).sources[0]
    assert before.source_id == after.source_id
    assert before.content_id != after.content_id


def test_names_that_are_not_utf8_are_named_not_lost(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4")
    Path(os.fsdecode(os.fsencode(raw) + b"/\xff.mp4")).write_bytes(b"x")
    listing = find(raw)
    assert len(listing.sources) == 1
    assert listing.ignored[0].endswith("\\xff.mp4 (its name is not UTF-8)")


@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"{VIDEOS} is absent")
def test_the_real_folder_gives_one_source_a_media_file() -> None:
    listing = find(VIDEOS)
    expected = {json.loads(line)["file"] for line in (VIDEOS / "manifest.jsonl").read_text().splitlines()}
    found = {Path(source.uri).name for source in listing.sources}
    assert found == {name for name in expected if not name.endswith(".txt")}
    assert {Path(path).name for path in listing.ignored} == {
        "README.md", "edge_wrong_extension.txt", "manifest.jsonl", "score_cuts.py",
    }  # fmt: skip


def test_a_limit_leaves_the_size_of_the_whole_known(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4", "bb.mp4", "ccc.mp4")
    listing = find_sources([str(raw)], CONFIG, limit=1)
    assert [source.size_bytes for source in listing.sources] == [len("a.mp4")]
    assert (listing.whole.num_sources, listing.whole.size_bytes) == (3, len("a.mp4bb.mp4ccc.mp4"))


def test_a_bucket_gives_the_same_sources_as_the_folder_that_was_copied_there(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4", "sub/b.webm", "c [1].mp4", "notes.md")
    (raw / "a.txt").write_text("a dog")
    bucket = f"memory://bucket{tmp_path}"
    copy_to(bucket, raw)
    here, there = find(raw), find(f"{bucket}/raw")
    assert [s.source_id for s in there.sources] == [s.source_id for s in here.sources]
    assert [(s.caption, s.size_bytes) for s in there.sources] == [(s.caption, s.size_bytes) for s in here.sources]
    assert [s.location for s in there.sources] == [f"{bucket}/{s.uri}" for s in here.sources]
    assert there.ignored == (f"{bucket}/raw/notes.md",)
    assert uris(f"{bucket}/raw/**/*.webm") == uris(raw / "**/*.webm") == ["raw/sub/b.webm"]
    assert uris(f"{bucket}/raw/sub/b.webm") == uris(raw / "sub/b.webm") == ["sub/b.webm"]
    with pytest.raises(ValueError, match="does not exist"):
        find(f"{bucket}/none")


def copy_to(bucket: str, raw: Path) -> None:
    for path in filter(Path.is_file, raw.rglob("*")):
        open_storage(bucket).write_atomic(f"{raw.name}/{path.relative_to(raw)}", path.read_bytes())


def test_links_to_folders_elsewhere_are_followed_and_rings_of_links_end(tmp_path: Path) -> None:
    raw, elsewhere = tmp_path / "raw", tmp_path / "elsewhere"
    for folder in (raw / "inside", elsewhere):
        folder.mkdir(parents=True)
        (folder / "a.mp4").write_bytes(b"a")
    (raw / "linked").symlink_to(elsewhere)
    (raw / "twice").symlink_to(elsewhere)
    (raw / "within").symlink_to(raw / "inside")
    (elsewhere / "ring").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(raw)
    found = find_sources([str(raw)], SourcesConfig(), limit=None).sources
    assert [source.uri for source in found] == ["raw/inside/a.mp4", "raw/linked/a.mp4"]
