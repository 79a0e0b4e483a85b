import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.provenance import read_provenance


def write(folder: Path, record: object) -> Path:
    (folder / "take.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return folder / "take.mp4"


def test_conditioning_frames_are_dropped_and_sections_stand_in_order_of_generation(tmp_path: Path) -> None:
    record = {"num_frames": 9, "fps": 24, "conditioning": [[0, 1]], "generated": [[5, 9], [1, 5]], "prompt": "a cat"}
    found = read_provenance(write(tmp_path, record | {"model": {"codec_id": "dct"}}), 9)
    assert found.recorded
    np.testing.assert_array_equal(found.generated, [5, 6, 7, 8, 1, 2, 3, 4])
    assert found.details["prompt"] == "a cat"
    assert found.details["model.codec_id"] == "dct"


def test_without_a_record_the_order_is_assumed_and_said_to_be(tmp_path: Path) -> None:
    found = read_provenance(tmp_path / "take.mp4", 3)
    assert not found.recorded
    assert found.note == "assumed: there is no take.json"
    np.testing.assert_array_equal(found.generated, [0, 1, 2])


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "which frames"),
        ({"num_frames": 9}, "which frames"),
        ({"num_frames": 12, "generated": [[0, 9]]}, "12 frames, 9 decoded"),
        ({"num_frames": 9, "generated": [[0, 10]]}, "half-open"),
        ({"num_frames": 9, "generated": [[4, 4]]}, "half-open"),
        ({"num_frames": 9, "generated": "all"}, "half-open"),
        ({"num_frames": 9, "generated": [[0, 5], [4, 9]]}, "twice"),
        ({"num_frames": 9, "generated": [[0, 9]], "conditioning": [[0, 1]]}, "twice"),
        ({"num_frames": 9, "generated": []}, "no generated"),
    ],
)
def test_a_record_that_cannot_be_right_is_not_followed(tmp_path: Path, record: object, word: str) -> None:
    found = read_provenance(write(tmp_path, record), 9)
    assert not found.recorded
    assert word in found.note
    np.testing.assert_array_equal(found.generated, np.arange(9))
