from pathlib import Path

import pytest

from preprocessing.dataset import Dataset, manifest_key
from preprocessing.pins import Pin, pin, pins, unpin
from preprocessing.verify import gc, verify
from tests.preprocessing.test_dataset import CLIPS, build


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    dataset = Dataset.create(str(tmp_path / "data"))
    build(dataset, tmp_path, CLIPS)
    return dataset


def hold(dataset: Dataset, pin_id: str, holder: str) -> str:
    manifest = dataset.load_manifest(None).sha256
    pin(dataset, Pin(pin_id=pin_id, manifest=manifest, holder=holder))
    return manifest


def test_gc_leaves_a_pinned_version_and_its_shards_until_it_is_unpinned(dataset: Dataset, tmp_path: Path) -> None:
    first = hold(dataset, "run-1", "a training")
    build(dataset, tmp_path, CLIPS[4:])
    assert gc(dataset, []) == ()
    unpin(dataset, "run-1")
    assert manifest_key(first) in gc(dataset, [])
    assert verify(dataset) == ()


def test_two_holders_of_one_version_let_go_one_by_one(dataset: Dataset, tmp_path: Path) -> None:
    first = hold(dataset, "run-1", "a training")
    assert hold(dataset, "run-2", "another") == first
    build(dataset, tmp_path, CLIPS[4:])
    unpin(dataset, "run-1")
    assert gc(dataset, []) == ()
    assert [held.holder for held in pins(dataset)] == ["another"]


def test_a_pin_of_a_version_that_is_gone_holds_nothing_up(dataset: Dataset) -> None:
    pin(dataset, Pin(pin_id="run-1", manifest="0" * 64, holder="a training"))
    assert gc(dataset, []) == ()


def test_an_id_is_a_plain_name(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="no pin's id"):
        unpin(dataset, "../dataset")
