"""What `encode --dry-run` says of a plan; no Ray, no codec."""

from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.config import build_recipe
from pipeline.jobs.preprocess import preview_encode
from preprocessing.dataset import Dataset
from preprocessing.plan_rows import shards_of_plan
from preprocessing.samples import ShardRecord
from tests.pipeline.jobs.test_waves import RECIPE, new_dataset, run


def test_a_dry_run_of_encode_names_the_shards_that_are_left_and_stores_nothing(tmp_path: Path) -> None:
    dataset, stored = new_dataset(tmp_path), RECIPE.model_dump(mode="json")
    assert preview_encode(str(tmp_path), RECIPE).shards == ()
    run(dataset)
    ledger = Dataset.open(str(tmp_path)).ledger
    first, *others = shards_of_plan(ledger.plan())
    clip_ids = tuple(clip.clip_id for clip in first.clips)
    ledger.append_encodes([ShardRecord(key=first.key, sha256="aa", size=1, clip_ids=clip_ids, failed={})])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    preview = preview_encode(str(tmp_path), build_recipe(stored, ["encode.device=cuda", "encode.max_attempts=9"]))
    left = [clip for shard in others for clip in shard.clips]
    assert asdict(preview) == {
        "shards": tuple(shard.key for shard in others),
        "clips": len(left),
        "hours": round(sum(clip.end_s - clip.start_s for clip in left) / 3600, 6),
    }
    assert left
    with pytest.raises(ValueError, match="is not planned under these encode settings; run longtake plan"):
        preview_encode(str(tmp_path), build_recipe(stored, ["encode.sizes_px=[[32, 32]]"]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
