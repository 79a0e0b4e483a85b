import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocessing.members import decode_sample
from preprocessing.samples import LatentSample, ShardRecord
from preprocessing.shards import (
    OPEN_SHARDS,
    ShardReader,
    file_key,
    index_key,
    read_index,
    read_sample,
    tar_key,
    write_shard,
)
from preprocessing.storage import Storage, open_storage
from tests.preprocessing.test_members import assert_equal_samples, make_sample


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "data") if request.param == "local" else f"memory://bucket{tmp_path}")


def written(storage: Storage, scratch: Path, key: str = "64x64/a-1") -> tuple[list[LatentSample], ShardRecord]:
    samples = [make_sample(f"clip_{i}-0", num_segments=i + 1, seed=i) for i in range(3)]
    return samples, write_shard(storage, key, samples, scratch=scratch)


def test_every_sample_is_read_back_at_random(storage: Storage, tmp_path: Path) -> None:
    samples, record = written(storage, tmp_path)
    assert record.clip_ids == ("clip_0-0", "clip_1-0", "clip_2-0")
    for sample in reversed(samples):
        assert_equal_samples(read_sample(storage, record.key, sample.key), sample)


def test_the_index_gives_place_and_checksum_of_every_member(storage: Storage, tmp_path: Path) -> None:
    _, record = written(storage, tmp_path)
    tar = storage.read_bytes(tar_key(record.key))
    assert (hashlib.sha256(tar).hexdigest(), len(tar)) == (record.sha256, record.size)
    rows = read_index(storage, record.key)
    assert [row.num_segments for row in rows] == [1] * 4 + [2] * 4 + [3] * 4
    for row in rows:
        assert hashlib.sha256(tar[row.offset : row.offset + row.size]).hexdigest() == row.sha256


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = open_storage(str(tmp_path / "1")), open_storage(str(tmp_path / "2"))
    records = [written(storage, tmp_path / "scratch")[1] for storage in (first, second)]
    assert records[0] == records[1]
    for key in (tar_key(records[0].key), index_key(records[0].key)):
        assert first.read_bytes(key) == second.read_bytes(key)


def test_webdataset_and_tar_read_a_shard(tmp_path: Path) -> None:
    from webdataset.compat import WebDataset

    storage = open_storage(str(tmp_path))
    samples, record = written(storage, tmp_path)
    path = storage.local_path(tar_key(record.key))
    loaded = list(WebDataset(str(path), shardshuffle=False))
    for raw, sample in zip(loaded, samples, strict=True):
        members = {name: data for name, data in raw.items() if not name.startswith("__")}
        assert_equal_samples(decode_sample(raw["__key__"], members), sample)
    listed = subprocess.run(["tar", "tf", str(path)], check=True, capture_output=True, text=True).stdout.split()
    assert listed == [row.member for row in read_index(storage, record.key)]


def test_a_flipped_byte_is_noticed_by_name(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    _, record = written(storage, tmp_path)
    row = read_index(storage, record.key)[6]
    tar = bytearray(storage.read_bytes(tar_key(record.key)))
    tar[row.offset + row.size - 1] ^= 1
    storage.write_atomic(tar_key(record.key), bytes(tar))
    with pytest.raises(ValueError, match=r"sample clip_1-0: clip_1-0\.latents\.safetensors in shard"):
        read_sample(storage, record.key, "clip_1-0")
    read_sample(storage, record.key, "clip_1-0", check=False)
    read_sample(storage, record.key, "clip_0-0")


def test_a_shortened_tar_is_noticed(storage: Storage, tmp_path: Path) -> None:
    _, record = written(storage, tmp_path)
    storage.write_atomic(tar_key(record.key), storage.read_bytes(tar_key(record.key))[:5000])
    with pytest.raises(ValueError, match="shorter than its index says"):
        read_sample(storage, record.key, "clip_2-0", check=False)


def test_an_unknown_sample_is_refused(storage: Storage, tmp_path: Path) -> None:
    _, record = written(storage, tmp_path)
    with pytest.raises(ValueError, match="sample other is not in shard"):
        read_sample(storage, record.key, "other")


def test_failed_clips_are_left_out_and_change_the_file_name(storage: Storage, tmp_path: Path) -> None:
    failed: dict[str, str] = {}

    def encode() -> Iterator[LatentSample]:
        yield make_sample("good")
        failed["bad"] = "decoding died"

    record = write_shard(storage, "64x64/a-1", encode(), scratch=tmp_path, failed=failed)
    assert record.failed == {"bad": "decoding died"}
    assert record.key == "64x64/a-1"
    name = file_key(record.key, record.failed)
    assert storage.exists(tar_key(name))
    assert not storage.exists(tar_key(record.key))
    assert_equal_samples(read_sample(storage, name, "good"), make_sample("good"))


def test_a_shard_without_samples_has_no_files(storage: Storage, tmp_path: Path) -> None:
    record = write_shard(storage, "64x64/a-1", [], scratch=tmp_path, failed={"bad": "decoding died"})
    assert (record.clip_ids, record.size, record.sha256) == ((), 0, "")
    assert storage.list("shards") == ()


def test_an_encoder_that_dies_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    def encode() -> Iterator[LatentSample]:
        yield make_sample("good")
        raise KeyboardInterrupt

    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        write_shard(storage, "64x64/a-1", encode(), scratch=scratch)
    assert storage.list("shards") == ()
    assert list(scratch.iterdir()) == []


def test_a_reader_goes_on_beyond_the_shards_it_keeps_open(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    keys = [f"64x64/a-{i}" for i in range(OPEN_SHARDS + 2)]
    for i, key in enumerate(keys):
        write_shard(storage, key, [make_sample("clip", seed=i)], scratch=tmp_path)
    reader = ShardReader(storage)
    for i, key in [*enumerate(keys), (0, keys[0])]:
        assert_equal_samples(reader.read(key, "clip"), make_sample("clip", seed=i))
    assert len(reader._open) == OPEN_SHARDS


def test_a_viewed_sample_is_what_was_read_without_a_copy(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    record = write_shard(storage, "a/0", [make_sample("clip")], scratch=tmp_path / "scratch")
    stored = ShardReader(storage).view(record.key, "clip")
    assert_equal_samples(stored.decoded(), make_sample("clip"))
    assert not stored.latents_CTHW.flags.owndata
    assert not stored.latents_CTHW.flags.writeable
