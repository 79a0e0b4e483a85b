from collections.abc import Mapping
from dataclasses import replace

from preprocessing import rows
from preprocessing.duplicates import duplicates, unread_sources, with_known_hashes
from preprocessing.reasons import Reason
from preprocessing.samples import Source, SourceScan, Span


def source(
    name: str, *, sha256: str = "", size: int = 10, content_id: str = "10-1", span: Span | None = None
) -> Source:
    return Source(
        source_id=f"{name}{span or ''}", group_id=name, uri=name, location=f"/{name}", content_id=content_id,
        size_bytes=size, sha256=sha256, span=span,
    )  # fmt: skip


def row_of(source: Source, status: str = "ok", reason: str = "") -> Mapping:
    scan = SourceScan(
        source=source, ok=False, reasons=(Reason.CRASHED,), message="", num_frames=0, decoder="", probe=None,
        transitions=(), signals=None, thumbnails=(),
    )  # fmt: skip
    return {**rows.source_row(scan, fingerprint="f", part=0), "status": status, "reason": reason}


def known(*found: Mapping) -> dict[str, Mapping]:
    return {row["source_id"]: row for row in found}


def test_only_files_of_a_size_that_another_file_has_are_read() -> None:
    listed = (source("a"), source("b"), source("c", size=11), source("d", size=0), source("e", size=0))
    assert [s.uri for s in unread_sources(listed, {})] == ["a", "b"]
    spans = tuple(source("a", span=Span(start_frame=k)) for k in range(3))
    assert unread_sources(spans, {}) == ()
    for reason in ("", "missing"):
        before = known(row_of(source("c", size=11), reason=reason))
        assert [s.uri for s in unread_sources((source("z", size=11),), before)] == ["z"]


def test_a_touched_file_is_read_and_an_untouched_one_keeps_its_hash() -> None:
    before = known(row_of(source("a", sha256="x")))
    (untouched,) = with_known_hashes((source("a"),), before)
    assert (untouched.sha256, unread_sources((untouched,), before)) == ("x", ())
    (touched,) = with_known_hashes((source("a", content_id="10-2"),), before)
    assert unread_sources((touched,), before) == (touched,)
    assert unread_sources((replace(touched, size_bytes=11),), before) == ()


def test_of_equal_content_the_first_by_uri_is_kept() -> None:
    listed = [source(name, sha256=sha) for name, sha in [("c", "x"), ("b", "x"), ("a", "y"), ("d", "x")]]
    assert {name: kept.uri for name, kept in duplicates(listed, {}).items()} == {"c": "b", "d": "b"}


def test_what_the_dataset_has_is_kept_before_newcomers() -> None:
    b = source("b", sha256="x")
    assert {n: s.uri for n, s in duplicates([source("a", sha256="x")], known(row_of(b))).items()} == {"a": "b"}
    assert {n: s.uri for n, s in duplicates([source("a", sha256="x"), b], known(row_of(b))).items()} == {"a": "b"}
    gone = known(row_of(b, "failed", "missing"))
    assert duplicates([source("a", sha256="x")], gone) == {}
    changed = known(row_of(replace(b, sha256="y")))
    assert {n: s.uri for n, s in duplicates([source("a", sha256="x"), b], changed).items()} == {"b": "a"}


def test_a_span_is_part_of_the_content() -> None:
    first, second = Span(start_frame=0, end_frame=5), Span(start_frame=5, end_frame=9)
    listed = [
        source("a", sha256="x", span=first),
        source("a", sha256="x", span=second),
        source("b", sha256="x", span=second),
    ]
    assert {name: kept.name for name, kept in duplicates(listed, {}).items()} == {"b[5, 9)": "a [5, 9)"}
