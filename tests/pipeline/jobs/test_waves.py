"""Deciding and planning wave by wave, as `preprocess` does between scanning and encoding; no cluster is needed."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.config import Recipe, load_recipe
from pipeline.jobs.driver import Driver
from pipeline.jobs.stored_settings import DECIDED_EVAL_PERCENT, ENCODE_SETTINGS, codec_settings
from preprocessing.dataset import SCAN_SETTINGS, Dataset, DatasetRecord
from preprocessing.listing import InputSize, SourceListing
from preprocessing.plan_rows import planned_clips, shard_keys, shards_of_plan
from preprocessing.samples import ShardRecord, SourceScan, Split
from preprocessing.splits import split_of
from tests.preprocessing.test_dataset import CODEC
from tests.preprocessing.test_ledger import make_source
from tests.preprocessing.test_replay import SCANS

RECIPE = load_recipe(
    "embedded", ["plan.max_samples_per_shard=2", "decide.min_followed=0.0", "decide.max_dynamism=1000.0"]
)
EVAL_PERCENT = RECIPE.sources.eval_percent
WAVES = (("a", "b"), ("c", "d"), ("e",))
FINGERPRINTS = {ENCODE_SETTINGS: codec_settings(RECIPE), SCAN_SETTINGS: "scan"}
SCAN_OF = {name: replace(SCANS[0], source=make_source(name)) for wave in WAVES for name in wave}


def new_dataset(folder: Path) -> Dataset:
    """A dataset that knows its codec, with nothing scanned."""
    dataset = Dataset.create(str(folder))
    dataset.write_record(DatasetRecord(codec=CODEC, fingerprints=FINGERPRINTS))
    return dataset


def driver_of(dataset: Dataset, recipe: Recipe = RECIPE) -> Driver:
    """A process of its own, as far as files can tell."""
    return Driver(Dataset.open(dataset.storage.uri), dataset.storage.uri, recipe, None, ExitStack())


def scans_of(wave: Sequence[str]) -> list[SourceScan]:
    return [SCAN_OF[name] for name in wave]


def run(dataset: Dataset, *, until_wave: int = len(WAVES)) -> list[pa.Table]:
    """Scan and plan wave by wave; a wave that was scanned is not scanned again. Gives what each wave added."""
    driver, added = driver_of(dataset), []
    for number, wave in enumerate(WAVES[:until_wave]):
        ids = {scan.source.source_id for scan in scans_of(wave)}
        if not ids <= driver.sources_to_decide():
            driver._ledger.append_scans(scans_of(wave), "scan")
        waits = {scan.source.source_id for later in WAVES[number + 1 :] for scan in scans_of(later)}
        added.append(driver.decide_and_plan(driver.sources_to_decide() - waits if number == 0 else ids))
    return added


def plan_of(dataset: Dataset) -> pa.Table:
    return Dataset.open(dataset.storage.uri).ledger.plan()


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_killed_run_packs_as_an_undisturbed_one(tmp_path: Path, killed_after: int) -> None:
    undisturbed, killed = new_dataset(tmp_path / "undisturbed"), new_dataset(tmp_path / "killed")
    run(undisturbed)
    run(killed, until_wave=killed_after)
    run(killed)
    assert plan_of(killed).equals(plan_of(undisturbed))
    assert plan_of(killed).num_rows > 5


def test_a_run_killed_between_deciding_and_planning_packs_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = new_dataset(tmp_path / "undisturbed"), new_dataset(tmp_path / "killed")
    run(undisturbed)
    driver = driver_of(killed)
    driver._ledger.append_scans(scans_of([name for wave in WAVES for name in wave]), "scan")
    driver._decide(driver.sources_to_decide())
    run(killed)
    assert plan_of(killed).equals(plan_of(undisturbed))


def test_a_second_run_adds_nothing(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path)
    first = run(dataset)
    assert all(table.num_rows for table in first)
    assert sum(table.num_rows for table in run(dataset)) == 0
    assert driver_of(dataset).pending_shards().equals(pa.concat_tables(first))


def test_a_group_that_comes_later_moves_its_clips_and_no_shard(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path)
    run(dataset)
    encode_all(dataset)
    ledger = Dataset.open(dataset.storage.uri).ledger
    before = publish(dataset)
    assert split_by_source(before) == {(make_source(name).source_id, "train") for name in "abcde"}
    film = next(name for name in map(str, range(1000)) if split_of(name, EVAL_PERCENT) is Split.EVAL)
    ledger.refresh_sources([replace(SCAN_OF[name].source, group_id=film) for name in "bd"], "scan")

    after = publish(dataset)  # as encode does, with no new plan
    assert sum(table.num_rows for table in run(dataset)) == 0

    expected = {(make_source(name).source_id, "eval" if name in "bd" else "train") for name in "abcde"}
    clips = Dataset.open(dataset.storage.uri).ledger.clips()
    assert split_by_source(after) == split_by_source(clips) == expected
    assert after["shard"].equals(before["shard"])


def test_a_command_that_only_encodes_moves_no_clip_to_the_split_of_its_own_recipe(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path)
    driver_of(dataset).keep_recipe()
    run(dataset)
    encode_all(dataset)
    before = publish(dataset)
    after = publish(dataset, load_recipe("embedded", ["sources.eval_percent=50"]))
    assert split_by_source(after) == split_by_source(before)
    assert {split for _, split in split_by_source(after)} == {"train"}


def test_a_scan_with_another_share_moves_no_clip_until_its_clips_are_decided_with_it(tmp_path: Path) -> None:
    half = load_recipe("embedded", ["sources.eval_percent=50"])
    dataset = new_dataset(tmp_path)
    driver_of(dataset).keep_recipe()
    run(dataset)
    encode_all(dataset)
    before = publish(dataset)
    for known in (True, False):  # also to a version that kept the share in the recipe alone
        if not known:
            record = dataset.record()
            fingerprints = {k: v for k, v in record.fingerprints.items() if k != DECIDED_EVAL_PERCENT}
            dataset.write_record(replace(record, recipe=RECIPE.model_dump(mode="json"), fingerprints=fingerprints))
        driver_of(dataset, half).keep_recipe()  # as scan does
        assert publish(dataset).equals(before)
    driver = driver_of(dataset, half)
    driver.decide_and_plan(driver.sources_to_decide())
    after = publish(dataset)
    assert split_by_source(after) == split_by_source(Dataset.open(dataset.storage.uri).ledger.clips())
    assert "eval" in {split for _, split in split_by_source(after)}


def encode_all(dataset: Dataset) -> None:
    """As if every planned shard had been written."""
    ledger = Dataset.open(dataset.storage.uri).ledger
    for shard in shards_of_plan(ledger.plan()):
        clip_ids = tuple(clip.clip_id for clip in shard.clips)
        ledger.append_encodes([ShardRecord(key=shard.key, sha256="s", size=1, clip_ids=clip_ids, failed={})])


def publish(dataset: Dataset, recipe: Recipe = RECIPE) -> pa.Table:
    driver_of(dataset, recipe).publish()
    return Dataset.open(dataset.storage.uri).load_manifest(None).table


def split_by_source(clips: pa.Table) -> set[tuple[object, object]]:
    return set(zip(clips["source_id"].to_pylist(), clips["split"].to_pylist(), strict=True))


def test_failed_clips_of_every_wave_are_planned_again_when_asked_for(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path)
    run(dataset)
    failed = {clip.clip_id for clip in planned_clips(plan_of(dataset)) if clip.clip_index == 0}
    dataset = Dataset.open(dataset.storage.uri)
    for shard in shards_of_plan(dataset.ledger.plan()):
        bad = {clip.clip_id: "decoding died" for clip in shard.clips if clip.clip_id in failed}
        good = tuple(clip.clip_id for clip in shard.clips if clip.clip_id not in failed)
        dataset.ledger.append_encodes([ShardRecord(key=shard.key, sha256="s", size=1, clip_ids=good, failed=bad)])
    driver, sources = driver_of(dataset), tuple(scan.source for scan in SCAN_OF.values())
    size = InputSize(num_sources=len(sources), size_bytes=0)
    present_ids = frozenset(source.source_id for source in sources)
    listing = SourceListing(inputs=(), sources=sources, ignored=(), whole=size, present_ids=present_ids)
    driver.take(listing, complete=False, retry_failed=True)
    again = [driver.decide_and_plan({scan.source.source_id for scan in scans_of(wave)}) for wave in WAVES]
    assert {clip_id for table in again for clip_id in table["clip_id"].to_pylist()} == failed
    assert not set(shard_keys(pa.concat_tables(again)).to_pylist()) & set(shard_keys(dataset.ledger.plan()).to_pylist())


def test_sources_that_wait_for_another_scan_keep_what_was_decided(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path)
    run(dataset)
    before = Dataset.open(dataset.storage.uri).ledger.clips()
    record = dataset.record()
    dataset.write_record(replace(record, fingerprints={**record.fingerprints, SCAN_SETTINGS: "other settings"}))
    driver = driver_of(dataset)
    driver._ledger.append_scans([SCAN_OF["e"]], "other settings")
    assert driver.sources_to_decide() == {SCAN_OF["e"].source.source_id}
    driver._recipe = load_recipe("embedded", ["decide.min_dynamism=1000.0"])
    driver.decide_and_plan(driver.sources_to_decide())
    clips, ours = (
        Dataset.open(dataset.storage.uri).ledger.clips(),
        pc.field("source_id") == SCAN_OF["e"].source.source_id,
    )
    assert clips.filter(~ours).equals(before.filter(~ours))
    assert set(clips.filter(ours)["decision"].to_pylist()) == {"drop"}
