"""What is left to encode after plans that were taken back, and files that moved, vanished or came back; no cluster is needed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import Recipe, load_recipe
from pipeline.jobs.backlog import returned_clips
from pipeline.jobs.preprocess import preview_encode
from pipeline.jobs.stored_settings import ENCODE_SETTINGS, codec_settings
from preprocessing.dataset import Dataset
from preprocessing.plan_rows import planned_clips, shard_keys, shards_of_plan
from preprocessing.reasons import gone_line
from preprocessing.relations import texts
from preprocessing.samples import ShardRecord
from tests.pipeline.jobs.test_waves import RECIPE, SCAN_OF, driver_of, new_dataset

AT_12_FPS = RECIPE.model_copy(update={"clips": RECIPE.clips.model_copy(update={"fps": 12.0})})
OTHER_SIZES = RECIPE.model_copy(update={"encode": RECIPE.encode.model_copy(update={"sizes_px": ((64, 64),)})})
A, B = (SCAN_OF[name].source for name in "ab")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Sources a and b, scanned and planned under `RECIPE`."""
    dataset = new_dataset(tmp_path / "d")
    dataset.ledger.append_scans([SCAN_OF["a"], SCAN_OF["b"]], "scan")
    plan(dataset)
    return dataset


def plan(dataset: Dataset, recipe: Recipe = RECIPE) -> None:
    driver = driver_of(dataset, recipe)
    driver.retry(all_failed=False)
    driver.decide_and_plan(driver.sources_to_decide())


def reopened(dataset: Dataset) -> Dataset:
    """As another process sees it."""
    return Dataset.open(dataset.storage.uri)


def left(dataset: Dataset) -> list[str]:
    """Keys of the shards that would be encoded, which the dry run names too."""
    keys = list(dict.fromkeys(texts(shard_keys(driver_of(dataset).pending_shards()))))
    assert list(preview_encode(dataset.storage.uri, RECIPE).shards) == keys
    return keys


def fail_all(dataset: Dataset, key: str) -> list[str]:
    """As if no file of a shard had been there, but the first clip's had: otherwise nothing would be committed."""
    (shard,) = (shard for shard in shards_of_plan(reopened(dataset).ledger.plan()) if shard.key == key)
    first, *others = shard.clips
    failed = {clip.clip_id: gone_line(clip.uri, clip.location) for clip in others}
    reopened(dataset).ledger.append_encodes(
        [ShardRecord(key=key, sha256="s", size=1, clip_ids=(first.clip_id,), failed=failed)]
    )
    return list(failed)


def test_a_plan_that_was_taken_back_is_not_encoded_until_it_is_made_again(dataset: Dataset) -> None:
    before = left(dataset)
    plan(dataset, AT_12_FPS)
    other = {row["fps"] for row in driver_of(dataset, AT_12_FPS).pending_shards().to_pylist()}
    assert other == {12.0}
    plan(dataset)
    assert left(dataset) == before
    assert reopened(dataset).ledger.plan().num_rows > driver_of(dataset).pending_shards().num_rows


def test_nothing_of_a_vanished_file_is_encoded_until_it_is_back(dataset: Dataset) -> None:
    before = left(dataset)
    reopened(dataset).ledger.append_missing([A.source_id, B.source_id])
    assert left(dataset) == []
    reopened(dataset).ledger.refresh_sources([A, B], "scan")
    assert left(dataset) == before


def test_clips_are_read_where_their_files_are_now_and_their_shards_keep_their_names(dataset: Dataset) -> None:
    before = left(dataset)
    reopened(dataset).ledger.refresh_sources([replace(A, location="/other/a.mp4")], "scan")
    clips = planned_clips(driver_of(dataset).pending_shards())
    assert {(clip.source_id, clip.location) for clip in clips} == {
        (A.source_id, "/other/a.mp4"),
        (B.source_id, B.location),
    }
    assert left(dataset) == before


def test_what_a_run_is_to_decide_anew_is_not_encoded_before_it_has(dataset: Dataset) -> None:
    assert driver_of(dataset).settled_shards().equals(driver_of(dataset).pending_shards())
    plan(dataset, AT_12_FPS)
    driver = driver_of(dataset)
    assert driver.settled_shards().num_rows == 0
    assert driver.decide_and_plan(driver.sources_to_decide()).num_rows == 0  # all was planned before
    assert set(driver.pending_shards()["fps"].to_pylist()) == {RECIPE.clips.fps}


def test_a_clip_that_failed_for_want_of_its_file_is_planned_again_once_it_is_there(
    dataset: Dataset, tmp_path: Path
) -> None:
    key, *others = left(dataset)
    gone = fail_all(dataset, key)
    assert gone
    plan(dataset)
    driver_of(dataset).plan_returned()
    assert left(dataset) == others

    bring_back(dataset, gone, tmp_path)
    ledger = reopened(dataset).ledger
    assert returned_clips(ledger.plan(), ledger.encodes(), ledger.sources()) == set(gone)
    (again,) = set(preview_encode(dataset.storage.uri, RECIPE).shards) - set(others)

    driver_of(dataset).plan_returned()
    assert left(dataset) == [*others, again]
    plan(dataset)  # once is enough
    assert left(dataset) == [*others, again]


def test_a_clip_that_was_gone_under_other_encode_settings_is_not_encoded_again_under_these(
    dataset: Dataset, tmp_path: Path
) -> None:
    encode_all(dataset)
    assert left(dataset) == []
    plan_under(dataset, OTHER_SIZES)
    bring_back(dataset, fail_all(dataset, waiting(dataset, OTHER_SIZES)[0]), tmp_path)
    plan_under(dataset, RECIPE)
    assert left(dataset) == []


def test_a_clip_that_was_gone_is_planned_again_whatever_was_encoded_under_other_settings(
    dataset: Dataset, tmp_path: Path
) -> None:
    key, *others = left(dataset)
    gone = fail_all(dataset, key)
    plan_under(dataset, OTHER_SIZES)
    encode_all(dataset, but=others)
    bring_back(dataset, gone, tmp_path)
    plan_under(dataset, RECIPE)
    (again,) = set(left(dataset)) - set(others)
    (shard,) = (shard for shard in shards_of_plan(reopened(dataset).ledger.plan()) if shard.key == again)
    assert [clip.clip_id for clip in shard.clips] == gone


def test_what_fails_in_a_run_is_not_tried_again_in_the_same_run(dataset: Dataset) -> None:
    driver = driver_of(dataset)
    driver.retry(all_failed=True)
    fail_all(dataset, left(dataset)[0])
    assert driver_of(dataset).decide_and_plan(driver.sources_to_decide()).num_rows == 0
    assert driver.decide_and_plan(driver.sources_to_decide()).num_rows == 0
    later = driver_of(dataset)
    later.retry(all_failed=True)
    assert later.decide_and_plan(later.sources_to_decide()).num_rows


def plan_under(dataset: Dataset, recipe: Recipe) -> None:
    """Plans under the encode settings of a recipe, whose codec is known."""
    fingerprints = {**dataset.record().fingerprints, ENCODE_SETTINGS: codec_settings(recipe)}
    dataset.write_record(replace(dataset.record(), fingerprints=fingerprints))
    plan(dataset, recipe)


def waiting(dataset: Dataset, recipe: Recipe) -> list[str]:
    return list(dict.fromkeys(texts(shard_keys(driver_of(dataset, recipe).pending_shards()))))


def encode_all(dataset: Dataset, *, but: Sequence[str] = ()) -> None:
    """As if every planned shard had been written that was not tried before."""
    ledger = reopened(dataset).ledger
    tried = {record.key for record in ledger.encodes()}
    for shard in shards_of_plan(ledger.plan()):
        if shard.key not in {*tried, *but}:
            clip_ids = tuple(clip.clip_id for clip in shard.clips)
            ledger.append_encodes([ShardRecord(key=shard.key, sha256="s", size=1, clip_ids=clip_ids, failed={})])


def bring_back(dataset: Dataset, gone: Sequence[str], folder: Path) -> None:
    assert gone
    (folder / "a.mp4").write_text("is back")
    back = [replace(source, location=str(folder / "a.mp4")) for source in (A, B)]
    reopened(dataset).ledger.refresh_sources(back, "scan")


def test_a_disk_that_is_away_fails_no_shard_and_publishes_no_version_without_its_clips(dataset: Dataset) -> None:
    first, second, *_ = shards_of_plan(reopened(dataset).ledger.plan())
    lines = {clip.clip_id: gone_line(clip.uri, clip.location) for clip in first.clips}
    driver, before = driver_of(dataset), left(dataset)
    driver._take_record(ShardRecord(key=first.key, sha256="", size=0, clip_ids=(), failed=lines))
    driver.publish()
    assert dataset.record().manifest is None
    with pytest.raises(ValueError, match=f"the files of all {len(lines)} clips .* is a disk not mounted"):
        driver.refuse_gone_files()
    assert left(dataset) == before

    clip_ids = tuple(clip.clip_id for clip in second.clips)
    driver._take_record(ShardRecord(key=second.key, sha256="s", size=1, clip_ids=clip_ids, failed={}))
    driver.refuse_gone_files()  # others were there
    assert left(dataset) == [key for key in before if key != second.key]
    assert driver.encoded == 1


def test_a_clip_that_failed_otherwise_waits_for_who_asks(dataset: Dataset, tmp_path: Path) -> None:
    key, *others = left(dataset)
    (shard,) = (shard for shard in shards_of_plan(reopened(dataset).ledger.plan()) if shard.key == key)
    failed = {clip.clip_id: "decoding died" for clip in shard.clips}
    reopened(dataset).ledger.append_encodes([ShardRecord(key=key, sha256="", size=0, clip_ids=(), failed=failed)])
    video = tmp_path / "a.mp4"
    video.write_text("is there")
    reopened(dataset).ledger.refresh_sources([replace(s, location=str(video)) for s in (A, B)], "scan")
    plan(dataset)
    driver_of(dataset).plan_returned()
    assert left(dataset) == others


def test_a_dry_run_says_so_where_nobody_knows_which_model_its_captions_mean(dataset: Dataset) -> None:
    recipe = load_recipe("embedded", ["captions.empty=write", "captions.model=somebody/something@1"])
    with pytest.raises(ValueError, match="run longtake plan"):
        preview_encode(dataset.storage.uri, recipe)
