"""When a dataset is told with which settings it was made."""

from pathlib import Path

import pytest

from pipeline.cli import WRONG
from preprocessing.dataset import RECORD_KEY
from tests.pipeline.commands import longtake
from tests.pipeline.jobs import test_waves


@pytest.mark.ray
def test_an_encode_that_is_refused_leaves_what_the_dataset_says_of_its_codec(local_ray: None, tmp_path: Path) -> None:
    dataset = test_waves.new_dataset(tmp_path)
    test_waves.run(dataset)
    before = dataset.storage.read_bytes(RECORD_KEY)
    settings = ("--set", "encode.sizes_px=[[32, 32]]", "--tracking-uri", "none")
    refused = longtake("encode", "--dataset", str(tmp_path), *settings)
    assert (refused.status, "is not planned under these encode settings" in refused.stderr) == (WRONG, True)
    assert dataset.storage.read_bytes(RECORD_KEY) == before
