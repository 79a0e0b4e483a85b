import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from preprocessing.clip_frames import Chunk, Unreadable
from preprocessing.codecs.dct import DctCodec
from preprocessing.config import EncodeConfig, HunyuanPaths
from preprocessing.downloads import Downloads, file_sha256
from preprocessing.encode import LeftOut, encode_clip, encode_clips, encode_fingerprint, encode_shard, sample_metadata
from preprocessing.input_files import LocalFiles
from preprocessing.isolation import IsolatedWorker
from preprocessing.reasons import says_gone
from preprocessing.samples import LatentSample, PlannedClip, PlannedShard, ShardRecord, Split
from preprocessing.shards import file_key, read_sample, tar_key, write_shard
from preprocessing.storage import open_storage
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import read_clip
from preprocessing.video_io.write import Mp4Writer

CODEC = DctCodec()
SETTINGS = EncodeConfig(max_attempts=2)
FINGERPRINT = encode_fingerprint(SETTINGS, CODEC.record)


@pytest.fixture(scope="module")
def worker() -> Iterator[IsolatedWorker]:
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=1024) as worker:
        yield worker


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "gliding.mp4"
    y, x = np.mgrid[:96, :128]
    with Mp4Writer(path, fps=24, width_px=128, height_px=96) as writer:
        for t in range(90):
            picture = np.stack([128 + 80 * np.sin((x + 2 * t) / 20), 128 + 60 * np.cos(y / 15), 90 + 0 * x], axis=-1)
            writer.write(picture.astype(np.uint8))
    return path


def make_clip(clip_id: str, path: Path, **changes: object) -> PlannedClip:
    clip = PlannedClip(
        clip_id=clip_id, source_id="s", group_id="g", uri="gliding.mp4", location=str(path), caption="waves glide",
        licence="", split=Split.TRAIN, shot_index=0, clip_index=0, start_frame=5, end_frame=42, start_s=5 / 24,
        end_s=42 / 24, fps=24.0, num_segments=1, height_px=64, width_px=64, scores={"dynamism": 3.5},
    )  # fmt: skip
    return replace(clip, **changes)


def encode(
    clips: list[PlannedClip], worker: IsolatedWorker, dataset: Path
) -> tuple[ShardRecord, dict[str, LatentSample]]:
    storage = open_storage(str(dataset))
    shard = PlannedShard(name=f"{FINGERPRINT[:8]}-0123456789ab", bucket="64x64", clips=tuple(clips))
    record = encode_shard(
        shard, codec=CODEC, worker=worker, storage=storage, settings=SETTINGS, fingerprint=FINGERPRINT,
        scratch=dataset / "scratch",
        downloads=Downloads(),
    )  # fmt: skip
    name = file_key(record.key, record.failed)
    return record, {clip_id: read_sample(storage, name, clip_id) for clip_id in record.clip_ids}


def test_a_sample_holds_what_the_codec_makes_of_the_clips_frames(
    worker: IsolatedWorker, video: Path, tmp_path: Path
) -> None:
    clip = make_clip("a", video)
    record, samples = encode([clip], worker, tmp_path)
    frames = list(
        read_clip(str(video), probe(str(video)), start_frame=5, fps=24.0, num_frames=37, height_px=64, width_px=64)
    )
    expected, stored = CODEC.encode_video(iter(frames)), samples["a"]
    assert record.clip_ids == ("a",)
    assert record.failed == {}
    np.testing.assert_allclose(stored.latents_CTHW, expected, rtol=2**-8)
    np.testing.assert_allclose(stored.start_latent_CTHW, CODEC.encode_image(frames[0]), rtol=2**-8)
    np.testing.assert_allclose(stored.siglip_ND, CODEC.image_features(frames[0]), rtol=2**-8)
    np.testing.assert_array_equal(stored.text.mask_L, CODEC.encode_text("waves glide").mask_L)


def test_metadata_says_where_a_clip_is_from_and_how_it_was_encoded_but_not_where_or_when(video: Path) -> None:
    clip = make_clip("a", video, licence="CC-BY-3.0")
    metadata = json.loads(json.dumps(sample_metadata(clip, CODEC.record, FINGERPRINT)))
    assert metadata["uri"] == "gliding.mp4"
    assert (metadata["start_frame"], metadata["end_frame"], metadata["num_frames"], metadata["fps"]) == (
        5,
        42,
        37,
        24.0,
    )
    assert metadata["scores"] == {"dynamism": 3.5}
    assert metadata["licence"] == "CC-BY-3.0"
    assert metadata["codec"]["codec_id"] == "dct"
    assert metadata["fingerprints"] == {"encode": FINGERPRINT}
    assert str(video.parent) not in json.dumps(metadata)
    assert "licence" not in sample_metadata(make_clip("a", video), CODEC.record, FINGERPRINT)


def test_encoding_again_gives_the_same_bytes(worker: IsolatedWorker, video: Path, tmp_path: Path) -> None:
    clips = [make_clip("a", video), make_clip("b", video, start_frame=42)]
    records = [encode(clips, worker, tmp_path / name)[0] for name in ("one", "two")]
    assert records[0] == records[1]
    tars = [(tmp_path / name / tar_key(records[0].key)).read_bytes() for name in ("one", "two")]
    assert tars[0] == tars[1]


def test_clips_that_cannot_be_read_are_recorded_and_the_shard_goes_on(
    worker: IsolatedWorker, video: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    clips = [
        make_clip("beyond", video, start_frame=70),
        make_clip("gone", tmp_path / "gone.mp4"),
        make_clip("text", text),
        make_clip("good", video),
    ]
    record, samples = encode(clips, worker, tmp_path / "dataset")
    assert record.clip_ids == ("good",)
    assert list(samples) == ["good"]
    assert list(record.failed) == ["beyond", "gone", "text"]
    assert "of 37 frames from 70 on" in record.failed["beyond"]
    assert all(line and "\n" not in line for line in record.failed.values())


def test_a_clip_that_kills_its_child_is_given_up_after_the_allowed_attempts_and_harms_no_neighbour(
    video: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "endless.mp4"
    os.mkfifo(pipe)  # opening it waits for a writer for ever
    clips = [make_clip("before", video), make_clip("hangs", pipe), make_clip("after", video)]
    with IsolatedWorker(progress_timeout_s=2, memory_limit_mb=1024) as worker:
        record, _ = encode(clips, worker, tmp_path / "dataset")
    assert record.clip_ids == ("before", "after")
    assert list(record.failed) == ["hangs"]
    assert "timeout" in record.failed["hangs"]
    assert "2 attempts" in record.failed["hangs"]


def test_a_child_killed_from_outside_costs_nothing(video: Path, tmp_path: Path) -> None:
    clips = [make_clip(name, video, height_px=256, width_px=256) for name in "abc"]  # more than waits in a pipe
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=1024) as worker:
        undisturbed, _ = encode(clips, worker, tmp_path / "one")

        def encode_with_a_kill(clip: PlannedClip, chunks: Iterator[Chunk | Unreadable]) -> LatentSample | LeftOut:
            frames = [frame for chunk in islice(chunks, 2) for frame in chunk]
            if clip.clip_id == "b" and killed.append(clip.clip_id) is None and len(killed) == 1:
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGKILL)
            while len(frames) < clip.num_frames:
                frames += list(next(chunks))
            return encode_clip(clip, iter(frames), codec=CODEC, fingerprint=FINGERPRINT)

        killed: list[str] = []
        results = list(encode_clips(clips, encode_with_a_kill, worker, max_attempts=1))
    assert killed == ["b", "b"]  # what came of it before was not enough, so it was read again from its beginning
    samples = [result for result in results if isinstance(result, LatentSample)]
    record = write_shard(open_storage(str(tmp_path / "two")), undisturbed.key, samples, scratch=tmp_path)
    assert record == undisturbed


def test_a_source_that_changed_or_vanished_since_its_scan_is_refused(
    worker: IsolatedWorker, video: Path, tmp_path: Path
) -> None:
    same, changed, gone = (tmp_path / name for name in ("same.mp4", "changed.mp4", "gone.mp4"))
    for path in (same, changed, gone):
        shutil.copy(video, path)
    clips = [
        make_clip(path.stem, path, content_id=LocalFiles().facts(str(path)).content_id, uri=path.name)
        for path in (same, changed, gone)
    ]
    os.utime(changed, ns=(1, 1))
    gone.unlink()
    record, _ = encode(clips, worker, tmp_path / "dataset")
    assert record.clip_ids == ("same",)
    assert "changed.mp4 has changed since it was scanned" in record.failed["changed"]
    assert "scan it again" in record.failed["changed"]
    assert "gone.mp4 is gone" in record.failed["gone"]
    assert [clip_id for clip_id, line in record.failed.items() if says_gone(line)] == ["gone"]
    touched = [replace(clip, clip_id=f"{clip.clip_id}2", sha256=file_sha256(str(video))) for clip in clips[:2]]
    record, _ = encode(touched, worker, tmp_path / "dataset")
    assert record.clip_ids == ("same2", "changed2")


def test_a_samples_json_keeps_a_tables_other_columns_apart_from_its_own_keys(tmp_path: Path) -> None:
    plain = make_clip("a", tmp_path / "a.mp4")
    metadata = sample_metadata(replace(plain, extra={"weather": "sunny", "fps": "23.976"}), CODEC.record, FINGERPRINT)
    assert metadata.pop("extra") == {"weather": "sunny", "fps": "23.976"}
    assert metadata == sample_metadata(plain, CODEC.record, FINGERPRINT)


def test_a_shard_of_failures_has_no_files(worker: IsolatedWorker, tmp_path: Path) -> None:
    record, _ = encode([make_clip("gone", tmp_path / "gone.mp4")], worker, tmp_path)
    assert record.clip_ids == ()
    assert list(record.failed) == ["gone"]
    assert open_storage(str(tmp_path)).list("shards") == ()


def test_the_fingerprint_changes_with_codec_and_sizes_and_with_nothing_else() -> None:
    elsewhere = EncodeConfig(max_attempts=9, device="cuda", hunyuan=HunyuanPaths(vae="/other/folder"))
    assert encode_fingerprint(elsewhere, CODEC.record) == FINGERPRINT
    assert encode_fingerprint(EncodeConfig(sizes_px=((64, 96),)), CODEC.record) != FINGERPRINT
    assert encode_fingerprint(SETTINGS, replace(CODEC.record, weights_sha256="f" * 64)) != FINGERPRINT
    assert encode_fingerprint(SETTINGS, replace(CODEC.record, options={"dtype": "bfloat16"})) != FINGERPRINT
