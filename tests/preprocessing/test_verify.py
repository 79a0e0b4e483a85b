import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from preprocessing import rows
from preprocessing.dataset import SCAN_SETTINGS, Dataset, manifest_key
from preprocessing.parts import part_key
from preprocessing.pins import Pin, pin, unpin
from preprocessing.plan_rows import shard_keys, shards_of_plan
from preprocessing.samples import ShardRecord
from preprocessing.shards import index_key, tar_key
from preprocessing.storage import LocalStorage, read_parquet, write_parquet
from preprocessing.verify import find_garbage, gc, remarks, verify
from tests.preprocessing.test_dataset import CLIPS, build
from tests.preprocessing.test_ledger import A, B, C, make_failure, make_scan


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    dataset = Dataset.create(str(tmp_path / "data"))
    dataset.write_record(replace(dataset.record(), fingerprints={SCAN_SETTINGS: "f"}))
    dataset.ledger.append_scans([make_scan(A), make_failure(B)], "f")
    build(dataset, tmp_path, CLIPS, failing=frozenset({"c2"}))
    return dataset


def test_a_sound_dataset_has_no_problems(dataset: Dataset) -> None:
    assert verify(dataset) == ()
    assert remarks(dataset) == ()


def test_versions_that_measured_side_by_side_are_a_remark_and_no_problem(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = json.loads(rows.library_versions())
    monkeypatch.setattr(rows, "library_versions", lambda: json.dumps({**versions, "av": "99.0", "decord": None}))
    dataset.ledger.append_scans([make_scan(C)], "f")
    assert verify(dataset) == ()
    assert remarks(dataset) == (
        f"sources were measured with different versions of av: 1 with {versions['av']}, 1 with 99.0",
        f"sources were measured with different versions of decord: 1 with {versions['decord']}, 1 with none",
    )


def test_a_ledger_from_before_a_score_was_measured_is_sound(dataset: Dataset) -> None:
    key = "ledger/plan-00000000.parquet"
    plan = read_parquet(dataset.storage, key)
    at, known = plan.schema.get_field_index("scores"), list(rows.SCORE_COLUMNS)[:-1]
    older = plan.schema.set(at, pa.field("scores", pa.struct(known)))
    write_parquet(dataset.storage, key, plan.cast(older))
    reopened = Dataset.open(dataset.storage.uri)
    assert verify(reopened) == ()
    assert {row[rows.SCORES[-1]] for row in reopened.ledger.plan()["scores"].to_pylist()} == {None}


@pytest.mark.parametrize(
    ("kind", "column"),
    [("plan", "extra"), ("sources", "table_fps"), ("sources", "from_table"), ("sources", "caption_beside")],
)
def test_a_dataset_from_before_a_column_was_added_is_sound(dataset: Dataset, kind: str, column: str) -> None:
    key = part_key(kind, 0)
    before = read_parquet(dataset.storage, key)
    added_since = before.column_names[before.column_names.index(column) :]
    write_parquet(dataset.storage, key, before.drop_columns(added_since))
    reopened = Dataset.open(dataset.storage.uri)
    assert verify(reopened) == ()
    read = {"plan": reopened.ledger.plan, "sources": reopened.ledger.sources}[kind]()
    assert read[column].to_pylist() == [None] * before.num_rows


def test_a_plan_from_before_its_clips_had_other_columns_gives_them_none(dataset: Dataset) -> None:
    key = part_key("plan", 0)
    write_parquet(dataset.storage, key, read_parquet(dataset.storage, key).drop_columns(["extra"]))
    plan = Dataset.open(dataset.storage.uri).ledger.plan()
    assert [clip.extra for shard in shards_of_plan(plan) for clip in shard.clips] == [{}] * len(CLIPS)


@pytest.mark.parametrize("place", [0, 700, -2000, -1])
def test_one_flipped_byte_anywhere_in_a_shard_is_a_problem(dataset: Dataset, place: int) -> None:
    key = tar_key(shard_keys(dataset.ledger.plan())[0].as_py())
    data = bytearray(dataset.storage.read_bytes(key))
    data[place] ^= 1
    dataset.storage.write_atomic(key, bytes(data))
    problems = verify(dataset)
    assert problems
    assert all(key in problem for problem in problems)


def flip(dataset: Dataset, key: str) -> None:
    data = bytearray(dataset.storage.read_bytes(key))
    data[len(data) // 2] ^= 1
    dataset.storage.write_atomic(key, bytes(data))


def test_a_flipped_byte_in_an_index_or_a_manifest_is_a_problem(dataset: Dataset) -> None:
    key = index_key(shard_keys(dataset.ledger.plan())[0].as_py())
    sound = dataset.storage.read_bytes(key)
    flip(dataset, key)
    assert verify(dataset)
    dataset.storage.write_atomic(key, sound)
    flip(dataset, manifest_key(dataset.manifests()[0]))
    assert "its bytes are not those that were written" in verify(dataset)[0]


def with_one_held_out(samples: pa.Table) -> pa.Table:
    splits = pa.array(["eval", *samples["split"].to_pylist()[1:]])
    return samples.set_column(samples.column_names.index("split"), "split", splits)


BREAKAGES: dict[str, Callable[[Dataset], None]] = {
    r"\.tar is missing": lambda d: d.storage.delete(tar_key(shard_keys(d.ledger.plan())[0].as_py())),
    r"index\.parquet is missing": lambda d: d.storage.delete(index_key(shard_keys(d.ledger.plan())[0].as_py())),
    r"bytes; \d+ were written": lambda d: d.storage.write_atomic(
        tar_key(shard_keys(d.ledger.plan())[0].as_py()), b"short"
    ),
    "the current manifest .* is missing": lambda d: d.storage.delete(manifest_key(d.manifests()[0])),
    "encoded but never planned": lambda d: d.ledger.append_encodes(
        [ShardRecord(key="64x64-1/stray", sha256="", size=0, clip_ids=(), failed={})]
    ),
    "neither encoded nor failed": lambda d: d.ledger.append_encodes(
        [ShardRecord(key=shard_keys(d.ledger.plan())[0].as_py(), sha256="", size=0, clip_ids=(), failed={"c0": "x"})]
    ),
    "which does not have it": lambda d: d.ledger.append_removed([shard_keys(d.ledger.plan())[0].as_py()]),
    "group g stands in 2 splits": lambda d: d.write_manifest(with_one_held_out(d.load_manifest(None).table)),
    "no table of this name": lambda d: d.storage.write_atomic("ledger/notes-1.parquet", b"x"),
    "1 sources were scanned under other settings .*; longtake scan": lambda d: d.ledger.append_scans(
        [make_scan(C)], "before"
    ),
    "has other columns": lambda d: write_parquet(
        d.storage, "ledger/thumbs-00000000.parquet", pa.table({"scores": [1]})
    ),
    "cannot be read": lambda d: d.storage.write_atomic("ledger/thumbs-00000000.parquet", b"x"),
}


@pytest.mark.parametrize("problem", BREAKAGES)
def test_what_is_off_is_named(dataset: Dataset, problem: str) -> None:
    import re

    BREAKAGES[problem](dataset)
    assert any(re.search(problem, line) for line in verify(dataset)), verify(dataset)


def test_a_group_in_two_splits_of_an_older_version_is_a_remark(dataset: Dataset) -> None:
    sound = dataset.load_manifest(None)
    older = dataset.write_manifest(with_one_held_out(sound.table))
    assert [problem for problem in verify(dataset) if "group g stands in 2 splits" in problem]
    assert remarks(dataset) == ()
    assert dataset.write_manifest(sound.table) == sound.sha256
    assert verify(dataset) == ()
    assert remarks(dataset) == (
        f"{manifest_key(older)}: 1 groups of this older version stand in more than one split (g); "
        "longtake gc removes it once it is neither kept nor pinned",
    )


@pytest.mark.parametrize("breakage", ["sources", "manifest"])
def test_remarks_are_made_beside_problems_of_what_can_still_be_read(dataset: Dataset, breakage: str) -> None:
    sound = dataset.load_manifest(None)
    older = dataset.write_manifest(with_one_held_out(sound.table))
    dataset.write_manifest(sound.table)
    damaged = dataset.write_manifest(sound.table.slice(1))
    dataset.write_manifest(sound.table)
    dataset.storage.write_atomic(part_key("sources", 0) if breakage == "sources" else manifest_key(damaged), b"x")
    broken = Dataset.open(dataset.storage.uri)
    assert verify(broken)
    (remark,) = remarks(broken)
    assert remark.startswith(manifest_key(older))


def test_gc_removes_what_only_old_versions_name(dataset: Dataset, tmp_path: Path) -> None:
    first = dataset.record().manifest
    second = build(dataset, tmp_path, CLIPS[4:])
    assert first is not None
    assert gc(dataset, [first]) == ()
    removed = gc(dataset, [])
    assert len([key for key in removed if key.endswith(".tar")]) == 2
    assert manifest_key(first) in removed
    assert dataset.manifests() == (second,)
    assert len(dataset.storage.list("shards")) == 2
    assert verify(dataset) == ()


def test_a_clip_whose_shard_was_removed_is_encoded_again_when_it_is_kept_again(
    dataset: Dataset, tmp_path: Path
) -> None:
    first = dataset.record().manifest
    build(dataset, tmp_path, CLIPS[4:])
    gc(dataset, [])
    assert build(dataset, tmp_path, CLIPS, failing=frozenset({"c2"})) == first
    assert verify(dataset) == ()


def test_gc_removes_what_dead_workers_left_and_nothing_else(dataset: Dataset) -> None:
    assert isinstance(dataset.storage, LocalStorage)
    temporary = dataset.storage.root / "shards/64x64-1/.x.tar.123.tmp"
    temporary.write_bytes(b"half")
    dataset.storage.write_atomic("shards/64x64-1/01234567-uncommitted.tar", b"x")
    assert set(gc(dataset, [])) == {"shards/64x64-1/.x.tar.123.tmp", "shards/64x64-1/01234567-uncommitted.tar"}
    assert verify(dataset) == ()


@pytest.mark.parametrize("survives", range(8))
def test_a_killed_gc_leaves_a_sound_dataset(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    build(dataset, tmp_path, CLIPS[4:])
    left, delete = [survives], LocalStorage.delete

    def dying(self: LocalStorage, key: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        delete(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete", dying)
        try:
            gc(dataset, [])
        except KeyboardInterrupt:
            assert survives < 6
    assert verify(dataset) == ()
    gc(dataset, [])
    assert len(dataset.storage.list("shards")) == 2


def test_what_gc_would_remove_is_what_it_removes_and_finding_it_changes_nothing(
    dataset: Dataset, tmp_path: Path
) -> None:
    first = dataset.record().manifest
    assert first is not None
    build(dataset, tmp_path, CLIPS[4:])
    pin(dataset, Pin(pin_id="reader", manifest=first, holder="a training"))
    before = {key: dataset.storage.read_bytes(key) for key in dataset.storage.list("")}
    assert find_garbage(dataset, []).keys == ()
    found = find_garbage(dataset, [], unpinned=["reader"])
    assert {key: dataset.storage.read_bytes(key) for key in dataset.storage.list("")} == before
    unpin(dataset, "reader")
    assert gc(dataset, []) == found.keys
    assert set(found.keys) == set(before) - set(dataset.storage.list("")) - {"pins/reader.json"} != set()


def test_gc_refuses_a_version_that_does_not_exist(dataset: Dataset) -> None:
    before = dataset.storage.list("")
    with pytest.raises(ValueError, match="no version beef"):
        gc(dataset, ["beef"])
    assert dataset.storage.list("") == before
