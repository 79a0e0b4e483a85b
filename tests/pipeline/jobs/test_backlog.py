"""What is left to encode after plans that were taken back, and files that moved, vanished or came back; no cluster is needed."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import Recipe, load_recipe
from pipeline.jobs.preprocess import preview_encode
from preprocessing.dataset import Dataset
from preprocessing.plan_rows import planned_clips, shard_keys
from preprocessing.relations import texts
from tests.pipeline.jobs.test_waves import RECIPE, SCAN_OF, driver_of, new_dataset

AT_12_FPS = RECIPE.model_copy(update={"clips": RECIPE.clips.model_copy(update={"fps": 12.0})})
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
    driver.decide_and_plan(driver.sources_to_decide())


def reopened(dataset: Dataset) -> Dataset:
    """As another process sees it."""
    return Dataset.open(dataset.storage.uri)


def left(dataset: Dataset) -> list[str]:
    """Keys of the shards that would be encoded, which the dry run names too."""
    keys = list(dict.fromkeys(texts(shard_keys(driver_of(dataset).pending_shards()))))
    assert list(preview_encode(dataset.storage.uri, RECIPE).shards) == keys
    return keys


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


def test_a_dry_run_says_so_where_nobody_knows_which_model_its_captions_mean(dataset: Dataset) -> None:
    recipe = load_recipe("embedded", ["captions.empty=write", "captions.model=somebody/something@1"])
    with pytest.raises(ValueError, match="run longtake plan"):
        preview_encode(dataset.storage.uri, recipe)
