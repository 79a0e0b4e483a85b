"""Against an S3 server on loopback."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing.codecs.dct import DctCodec
from preprocessing.config import EncodeConfig, MotionConfig, ScanConfig, SourcesConfig, TransitionsConfig
from preprocessing.downloads import Downloads
from preprocessing.encode import encode_fingerprint, encode_shard
from preprocessing.input_files import LocalFiles
from preprocessing.isolation import IsolatedWorker
from preprocessing.keys import StorageError
from preprocessing.reasons import Reason
from preprocessing.samples import PlannedClip, PlannedShard, ShardRecord, Source, Split
from preprocessing.scan import ScanSettings, scan_input
from preprocessing.sources import find_sources
from preprocessing.storage import Storage, open_object_store, open_storage
from preprocessing.video_io.write import Mp4Writer
from tests.preprocessing.s3_server import s3_bucket
from tests.preprocessing.test_lease import winners

SCAN = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket() as uri:
        yield uri


@pytest.fixture(scope="module")
def worker() -> Iterator[IsolatedWorker]:
    with IsolatedWorker(progress_timeout_s=120, memory_limit_mb=1024) as worker:
        yield worker


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, bucket: str) -> Path:
    folder = tmp_path_factory.mktemp("films") / "raw"
    folder.mkdir()
    with Mp4Writer(folder / "a.mp4", fps=24, width_px=96, height_px=64) as writer:
        for k in range(80):
            writer.write(np.roll(np.tile(np.arange(96, dtype=np.uint8), (64, 1)), 2 * k, 1)[:, :, None].repeat(3, 2))
    (folder / "t.csv").write_text("path,caption,start_frame,end_frame\na.mp4,whole,,\na.mp4,part,40,80\n")
    for path in folder.iterdir():
        open_storage(bucket).write_atomic(f"raw/{path.name}", path.read_bytes())
    return folder


def sources(*inputs: str) -> tuple[Source, ...]:
    return find_sources(inputs, SourcesConfig(), limit=None).sources


def test_what_another_driver_wrote_is_seen_at_once(bucket: str) -> None:
    here, there = open_storage(f"{bucket}/seen"), open_storage(f"{bucket}/seen")
    assert (here.list("ledger"), here.exists("ledger/a")) == ((), False)
    there.write_atomic("ledger/a", b"x")
    assert (here.list("ledger"), here.exists("ledger/a"), here.size("ledger/a")) == (("ledger/a",), True, 1)
    assert here.read_range("ledger/a", 0, 1) == b"x"
    there.delete("ledger/a")
    there.delete("ledger/a")
    assert not here.exists("ledger/a")


def test_of_drivers_that_ask_at_one_moment_one_gets_the_lease(bucket: str) -> None:
    for k in range(3):
        assert len(winners(lambda k=k: open_object_store("s3", f"lab/race{k}"), 4)) == 1


def test_a_version_that_was_replaced_is_not_replaced_again(bucket: str) -> None:
    store = open_object_store("s3", "lab/versions")
    first = store.write_version("a", b"1", None)
    second = store.write_version("a", b"2", first)
    for stale in (first, None):
        with pytest.raises(FileExistsError):
            store.write_version("a", b"3", stale)
    assert store.read_version("a") == (b"2", second)


def test_a_bucket_that_is_absent_or_shut_is_one_clear_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="s3://none/raw does not exist"):
        sources("s3://none/raw")
    with pytest.raises((StorageError, FileNotFoundError), match="none"):
        open_storage("s3://none/data").write_atomic("a", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    shut = open_object_store("s3", "lab")
    shut.filesystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"s3://lab/a cannot be reached"):
        open_object_store("s3", "lab").read_bytes("a")
    shut.filesystem.clear_instance_cache()


def test_scanning_a_bucket_gives_what_scanning_a_folder_gives(bucket: str, raw: Path, worker: IsolatedWorker) -> None:
    here, there = sources(f"{raw}/t.csv"), sources(f"{bucket}/raw/t.csv")
    downloads = Downloads()
    assert [(s.source_id, s.caption) for s in here] == [(s.source_id, s.caption) for s in there]
    for local, remote in zip(here, there, strict=True):
        one, other = (scan_input(source, SCAN, worker, downloads) for source in (local, remote))
        assert other.source.location == f"{bucket}/raw/a.mp4"
        assert one.source.sha256 == other.source.sha256 != ""
        assert (one.ok, one.num_frames, one.first_frame, one.thumbnails) == (
            other.ok, other.num_frames, other.first_frame, other.thumbnails,
        )  # fmt: skip
    folder = downloads._folder
    assert folder is not None
    assert [path.name for path in folder.iterdir() if path.suffix] == ["video.mp4"]
    downloads.close()
    assert not folder.exists()


@pytest.mark.slow
def test_an_object_that_left_is_missing_and_a_shut_store_blames_no_video(
    bucket: str, raw: Path, worker: IsolatedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(sources(f"{bucket}/raw/a.mp4")[0], location=f"{bucket}/raw/gone.mp4")
    assert scan_input(gone, SCAN, worker, Downloads(sleep=lambda _: None)).reasons == (Reason.MISSING,)
    refused = replace(gone, location="s3://lab/../x.mp4")
    with pytest.raises(ValueError, match="below the dataset's root"):
        scan_input(refused, SCAN, worker, Downloads(sleep=lambda _: None))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    open_object_store("s3", "lab").filesystem.clear_instance_cache()
    found = scan_input(gone, SCAN, worker, Downloads(sleep=lambda _: None))
    assert (found.reasons, "cannot be reached" in found.message) == ((Reason.UNREACHABLE,), True)
    open_object_store("s3", "lab").filesystem.clear_instance_cache()


def encode(video: str, content_id: str, storage: Storage, worker: IsolatedWorker, scratch: Path) -> ShardRecord:
    clip = PlannedClip(
        clip_id="a", source_id="s", group_id="s", uri="raw/a.mp4", location=video, caption="", licence="",
        split=Split.TRAIN, shot_index=0, clip_index=0, start_frame=0, end_frame=37, start_s=0, end_s=37 / 24, fps=24.0,
        num_segments=1, height_px=64, width_px=64, scores={}, content_id=content_id,
    )  # fmt: skip
    codec, downloads = DctCodec(), Downloads()
    shard = PlannedShard(
        name="n", bucket="64x64", clips=(clip, replace(clip, clip_id="b", start_frame=37, end_frame=74))
    )
    record = encode_shard(
        shard, codec=codec, worker=worker, storage=storage, settings=EncodeConfig(),
        fingerprint=encode_fingerprint(EncodeConfig(), codec.record), scratch=scratch, downloads=downloads,
    )  # fmt: skip
    downloads.close()
    return record


def test_encoding_from_bucket_to_bucket_gives_the_bytes_of_folder_to_folder(
    bucket: str, raw: Path, worker: IsolatedWorker, tmp_path: Path
) -> None:
    here, there = open_storage(str(tmp_path / "d")), open_storage(f"{bucket}/encoded")
    local = encode(str(raw / "a.mp4"), LocalFiles().facts(str(raw / "a.mp4")).content_id, here, worker, tmp_path)
    remote = encode(f"{bucket}/raw/a.mp4", "etag", there, worker, tmp_path)
    assert replace(local, effort=None) == replace(remote, effort=None)
    assert local.clip_ids == ("a", "b")
    assert there.list("shards") == here.list("shards")
    assert all(there.read_bytes(key) == here.read_bytes(key) for key in here.list("shards"))


def test_a_full_disk_is_no_fault_of_a_video(bucket: str, raw: Path, worker: IsolatedWorker, tmp_path: Path) -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("there is no /dev/full here")
    store = open_object_store("s3", "lab")
    with pytest.raises(
        StorageError, match="no space left to write /dev/full: free some and run the same command again"
    ):
        store.download("raw/a.mp4", Path("/dev/full"))
