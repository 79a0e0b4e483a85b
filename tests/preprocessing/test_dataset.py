import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from preprocessing import storage
from preprocessing.config import PlanConfig
from preprocessing.dataset import MANIFEST, Dataset, DatasetRecord, inspect_table, load_manifest, manifest_table
from preprocessing.plan import pending_shards, plan
from preprocessing.plan_rows import PLAN, shards_of_plan
from preprocessing.samples import CodecRecord, PlannedClip, ShardRecord, Verdict
from preprocessing.shards import ShardReader, write_shard
from tests.preprocessing.test_ledger import A, B, decide, kept_table, make_failure, make_planned, make_scan
from tests.preprocessing.test_members import make_sample

FINGERPRINT = "0123456789abcdef"
CODEC = CodecRecord(
    codec_id="dct", latent_channels=16, spatial_stride=8, text_dim=8, text_tokens=4, pooled_dim=4, image_dim=4,
    image_tokens=4, weights_sha256="", options={"levels": [1, 2]},
)  # fmt: skip
CLIPS = [make_planned(f"c{i}", uri=f"videos/{i}.mp4") for i in range(5)]


def hundred_bytes_each(clips: pa.Table) -> NDArray[np.int64]:
    return np.full(clips.num_rows, 100)


def build(dataset: Dataset, scratch: Path, clips: list[PlannedClip], failing: frozenset[str] = frozenset()) -> str:
    """What a driver does after deciding: plan, encode what is pending, manifest."""
    ledger = dataset.ledger
    kept = kept_table(clips)
    added = plan(
        kept, ledger.plan(), PlanConfig(max_samples_per_shard=2), latent_bytes=hundred_bytes_each,
        encode_fingerprint=FINGERPRINT,
    )  # fmt: skip
    ledger.append_plan(added)
    for shard in shards_of_plan(pending_shards(ledger.plan(), ledger.encodes(), FINGERPRINT)):
        good = [clip for clip in shard.clips if clip.clip_id not in failing]
        samples = (make_sample(clip.clip_id, seed=int(clip.clip_id[1:])) for clip in good)
        failed = {clip.clip_id: "decoding died" for clip in shard.clips if clip.clip_id in failing}
        ledger.append_encodes([write_shard(dataset.storage, shard.key, samples, scratch=scratch, failed=failed)])
    table = manifest_table(
        kept, ledger.plan(), ledger.encodes(), latents_bytes=hundred_bytes_each, encode_fingerprint=FINGERPRINT
    )
    return dataset.write_manifest(table)


def lasting_bytes(root: Path) -> dict[str, bytes]:
    """Shards, manifests and the record: what must not depend on kills."""
    kept = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".tmp" and "ledger" not in p.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def test_a_record_comes_back_and_is_not_rewritten_needlessly(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path))
    record = DatasetRecord(recipe={"encode": {"codec": "dct"}}, fingerprints={"scan": "f"}, codec=CODEC)
    dataset.write_record(record)
    assert Dataset.open(str(tmp_path)).record() == record
    before = (tmp_path / "dataset.json").stat().st_ino
    dataset.write_record(record)
    assert Dataset.create(str(tmp_path)).record() == record
    assert (tmp_path / "dataset.json").stat().st_ino == before


def test_a_dataset_that_is_absent_or_of_another_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no dataset at"):
        Dataset.open(str(tmp_path))
    (tmp_path / "dataset.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99, this longtake knows 2"):
        Dataset.open(str(tmp_path))


@pytest.mark.parametrize("text", ["garbage", "{}", "[]", '{"schema_version": 2, "more": 2}'])
def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset\.json of .* is damaged .*; bring it back from a copy"):
        Dataset.open(str(tmp_path))


def test_manifests_are_versions_that_stay(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "data"))
    with pytest.raises(ValueError, match="no samples yet"):
        dataset.load_manifest(None)
    first = build(dataset, tmp_path, CLIPS[:3])
    second = build(dataset, tmp_path, CLIPS[1:])
    assert load_manifest(dataset, None).sha256 == second
    assert load_manifest(dataset, first).table["clip_id"].to_pylist() == ["c0", "c1", "c2"]
    assert load_manifest(dataset, None).table["clip_id"].to_pylist() == ["c1", "c2", "c3", "c4"]
    assert set(dataset.manifests()) == {first, second}
    assert build(dataset, tmp_path, CLIPS[:3]) == first
    with pytest.raises(ValueError, match="no version beef"):
        dataset.load_manifest("beef")


def test_without_samples_a_dataset_says_what_became_of_its_videos(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path))
    dataset.ledger.append_scans([make_failure(A)], "f")
    with pytest.raises(ValueError, match=r"all of its 1 sources failed; .*longtake inspect \S+ sources"):
        dataset.load_manifest(None)
    dataset.ledger.append_scans([make_scan(B)], "f")
    decide(dataset.ledger, B, [Verdict.DROP, Verdict.DROP])
    with pytest.raises(ValueError, match=r"none of its 2 clips was kept; .*inspect \S+ clips, or \S+/report/index"):
        dataset.load_manifest(None)
    decide(dataset.ledger, B, [Verdict.KEEP, Verdict.DROP])
    with pytest.raises(ValueError, match="no samples yet; longtake encode makes them"):
        dataset.load_manifest(None)


def test_every_row_of_a_manifest_finds_its_sample(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "data"))
    build(dataset, tmp_path, CLIPS, failing=frozenset({"c2"}))
    reader, table = ShardReader(dataset.storage), dataset.load_manifest(None).table
    assert table.schema.equals(MANIFEST)
    assert table["clip_id"].to_pylist() == ["c0", "c1", "c3", "c4"]
    for row in table.to_pylist():
        assert reader.read(row["shard"], row["clip_id"]).latents_CTHW.shape[1] == 10
    shards = inspect_table(dataset, "shards").to_pylist()
    assert [(row["num_clips"], row["num_samples"], dict(row["failed"])) for row in shards] == [
        (2, 2, {}),
        (2, 1, {"c2": "decoding died"}),
        (1, 1, {}),
    ]


def test_a_changed_caption_takes_the_newly_encoded_sample(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "data"))
    build(dataset, tmp_path, CLIPS[:1])
    old = dataset.load_manifest(None).table.to_pylist()[0]
    build(dataset, tmp_path, [replace(CLIPS[0], caption="a cat")])
    new = dataset.load_manifest(None).table.to_pylist()[0]
    assert (old["caption"], new["caption"]) == ("a dog", "a cat")
    assert old["shard"] != new["shard"]


class Killed(BaseException):
    """The driver dies here."""


def dying_after(steps: int, step: Callable) -> tuple[Callable, list[int]]:
    left = [steps]

    def maybe_die(*arguments: object) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        step(*arguments)

    return maybe_die, left


def test_a_kill_at_any_step_and_the_same_command_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = tmp_path / "undisturbed"
    build(Dataset.create(str(undisturbed)), tmp_path, CLIPS, failing=frozenset({"c2"}))
    step, steps, done = storage._fsync, 0, False  # between the temporary file and its rename, and after it
    while not done:
        root = tmp_path / f"killed-{steps}"
        with monkeypatch.context() as patch:
            maybe_die, left = dying_after(steps, step)
            patch.setattr(storage, "_fsync", maybe_die)
            try:
                build(Dataset.create(str(root)), tmp_path, CLIPS, failing=frozenset({"c2"}))
                done = left[0] > 0
            except Killed:
                pass
        build(Dataset.create(str(root)), tmp_path, CLIPS, failing=frozenset({"c2"}))
        assert lasting_bytes(root) == lasting_bytes(undisturbed)
        steps += 1
    assert steps > 10


def test_a_late_worker_for_which_other_clips_failed_hurts_nothing(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "data"))
    build(dataset, tmp_path, CLIPS[:2])
    before = lasting_bytes(tmp_path / "data")
    (shard,) = shards_of_plan(dataset.ledger.plan())
    write_shard(dataset.storage, shard.key, [make_sample("c0")], scratch=tmp_path, failed={"c1": "out of memory"})
    after = lasting_bytes(tmp_path / "data")
    assert {name: after[name] for name in before} == before


def test_inspect_shows_the_columns_that_do_not_change_their_meaning(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "data"))
    dataset.ledger.append_scans([make_scan(A), make_failure(B)], "f")
    decide(dataset.ledger, A, [Verdict.KEEP, Verdict.DROP])
    build(dataset, tmp_path, CLIPS[:1])
    promised = {
        "sources": "source_id group_id uri status reason num_frames fps duration_s width_px height_px num_shots decoder extra",
        "transitions": "source_id uri kind start_frame end_frame score",
        "clips": "clip_id source_id uri shot_index clip_index start_frame end_frame start_s end_s dynamism decision "
        "reasons num_segments split",
        "samples": "clip_id shard num_segments split uri height_px width_px fps caption extra",
        "shards": "shard bucket num_samples sha256",
    }
    for name, columns in promised.items():
        table = inspect_table(dataset, name)
        assert set(columns.split()) <= set(table.column_names)
        json.dumps(table.to_pylist())
    assert inspect_table(dataset, "sources")["uri"].to_pylist() == ["videos/a.mp4", "videos/b.mp4"]
    assert inspect_table(dataset, "transitions").to_pylist()[0] == {
        "source_id": A.source_id, "uri": "videos/a.mp4", "kind": "cut", "start_frame": 40, "end_frame": 40, "score": 0.9,
    }  # fmt: skip
    assert inspect_table(dataset, "clips")["decision"].to_pylist() == ["keep", "drop"]
    with pytest.raises(ValueError, match="no table nonsense; expected one of sources"):
        inspect_table(dataset, "nonsense")


def test_inspect_shows_a_tables_other_columns_as_they_are_now(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "data"))
    dataset.ledger.append_scans([make_scan(A), make_failure(B)], "f")
    build(dataset, tmp_path, [make_planned("c0", source_id=A.source_id, extra={"weather": "sunny"})])
    shown = [row["extra"] for row in inspect_table(dataset, "sources").to_pylist(maps_as_pydicts="strict")]
    assert shown == [A.extra, B.extra]
    dataset.ledger.refresh_sources([replace(A, extra={"weather": "rain"})], "f")
    (sample,) = inspect_table(dataset, "samples").to_pylist(maps_as_pydicts="strict")
    assert sample["extra"] == {"weather": "rain"}
    assert dataset.load_manifest(None).table.schema == MANIFEST


def test_inspect_answers_for_an_empty_dataset(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path))
    for name in ("sources", "transitions", "clips", "samples", "shards"):
        assert inspect_table(dataset, name).num_rows == 0


def test_records_of_other_keys_are_no_samples() -> None:
    stray = ShardRecord(key="64x64/none", sha256="s", size=1, clip_ids=("c0",), failed={})
    table = manifest_table(
        kept_table(CLIPS), PLAN.empty_table(), [stray], latents_bytes=hundred_bytes_each, encode_fingerprint=FINGERPRINT
    )
    assert table.num_rows == 0
