"""What `encode --dry-run` says of a plan; no Ray, no codec."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.config import load_recipe
from pipeline.jobs.driver import ENCODE_SETTINGS, codec_settings
from pipeline.jobs.preprocess import preview_encode
from preprocessing.codecs.dct import DctCodec
from preprocessing.config import PlanConfig
from preprocessing.dataset import Dataset
from preprocessing.encode import encode_fingerprint
from preprocessing.plan import latent_bytes, plan
from preprocessing.plan_rows import shards_of_plan
from preprocessing.samples import ShardRecord
from tests.preprocessing.test_ledger import kept_table, make_planned

RECIPE = load_recipe("embedded")


def test_a_dry_run_of_encode_names_the_shards_that_are_left_and_stores_nothing(tmp_path: Path) -> None:
    dataset, codec = Dataset.create(str(tmp_path)), DctCodec().record
    assert preview_encode(str(tmp_path), RECIPE).shards == ()
    added = plan(
        kept_table([make_planned(f"c{i}", uri=f"videos/{i}.mp4") for i in range(4)]), dataset.ledger.plan(),
        PlanConfig(max_samples_per_shard=2), latent_bytes=lambda clips: latent_bytes(clips, codec),
        encode_fingerprint=encode_fingerprint(RECIPE.encode, codec),
    )  # fmt: skip
    dataset.ledger.append_plan(added)
    dataset.write_record(replace(dataset.record(), codec=codec, fingerprints={ENCODE_SETTINGS: codec_settings(RECIPE)}))
    first, second = shards_of_plan(added)
    dataset.ledger.append_encodes([ShardRecord(key=first.key, sha256="aa", size=1, clip_ids=("c0", "c1"), failed={})])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    preview = preview_encode(str(tmp_path), load_recipe("embedded", ["encode.device=cuda", "encode.max_attempts=9"]))
    assert asdict(preview) == {"shards": (second.key,), "clips": 2, "hours": round(2 * 1.5 / 3600, 6)}
    with pytest.raises(ValueError, match="is not planned under these encode settings; run longtake plan"):
        preview_encode(str(tmp_path), load_recipe("embedded", ["encode.sizes_px=[[32, 32]]"]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
