"""Captions that lie beside videos."""

from pathlib import Path

from tests.preprocessing.test_sources import find, make_files


def test_a_text_beside_a_video_is_its_caption(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4", "b.mp4", "other.txt")
    (raw / "a.txt").write_text("A dog\n runs. ")
    (raw / "b.mp4.txt").write_text("Кот")
    listing = find(raw)
    assert [source.caption for source in listing.sources] == ["A dog runs.", "Кот"]
    assert [Path(path).name for path in listing.ignored] == ["other.txt"]


def test_what_cannot_be_a_caption_is_named_and_ends_nothing(tmp_path: Path) -> None:
    raw = make_files(tmp_path / "raw", "a.mp4", "b.mp4", "c.mp4")
    (raw / "a.txt").mkdir()
    (raw / "b.txt").write_text("x" * 70000)
    (raw / "c.txt").symlink_to("c.txt")
    listing = find(raw)
    assert [source.caption for source in listing.sources] == ["", "", ""]
    assert listing.ignored == (
        f"{raw}/a.txt (no caption: Is a directory)",
        f"{raw}/b.txt (too long for a caption: 70000 bytes)",
        f"{raw}/c.txt (no caption: Too many levels of symbolic links)",
    )
