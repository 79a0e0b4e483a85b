"""From a video to a shard through tiny models of the production classes, read back by webdataset alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import HunyuanVideoFramepackPipeline
from PIL import Image
from safetensors.torch import load
from webdataset.compat import WebDataset

from preprocessing.codecs.base import Codec
from preprocessing.codecs.catalog import load_codec
from preprocessing.config import EncodeConfig, HunyuanPaths
from preprocessing.downloads import Downloads
from preprocessing.encode import encode_fingerprint, encode_shard
from preprocessing.isolation import IsolatedWorker
from preprocessing.samples import PlannedClip, PlannedShard, Split
from preprocessing.shards import tar_key
from preprocessing.storage import open_storage
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import read_clip
from preprocessing.video_io.write import Mp4Writer
from tests.preprocessing.codecs.tiny_hunyuan import CAPTION, diffusers_pipeline, save_encoders

SEGMENTS = (1, 2, 3)
SIZE_PX = 32


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> HunyuanPaths:
    return save_encoders(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def codec(paths: HunyuanPaths) -> Codec:
    return load_codec(EncodeConfig(codec="hunyuan", hunyuan=paths))


@pytest.fixture(scope="module")
def pipeline(paths: HunyuanPaths) -> HunyuanVideoFramepackPipeline:
    return diffusers_pipeline(paths)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlannedClip, ...]:
    """Three clips of one, two and three segments, from the same start frame of one video."""
    path = tmp_path_factory.mktemp("videos") / "noise.mp4"
    noise = np.random.default_rng(0)
    with Mp4Writer(path, fps=24, width_px=48, height_px=SIZE_PX) as writer:
        for _ in range(120):
            writer.write(noise.integers(0, 256, (SIZE_PX, 48, 3), np.uint8))
    return tuple(
        PlannedClip(
            clip_id=f"noise-{n}", source_id="s", group_id="g", uri="raw/noise.mp4", location=str(path),
            caption=CAPTION if n > 1 else "", licence="", split=Split.TRAIN, shot_index=0, clip_index=n,
            start_frame=5, end_frame=5 + 1 + 36 * n, start_s=5 / 24, end_s=(6 + 36 * n) / 24, fps=24.0, num_segments=n,
            height_px=SIZE_PX, width_px=SIZE_PX, scores={"dynamism": 3.5},
        )
        for n in SEGMENTS
    )  # fmt: skip


@pytest.fixture(scope="module")
def shard(clips: tuple[PlannedClip, ...], codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = tmp_path_factory.mktemp("dataset")
    settings = EncodeConfig(codec="hunyuan", sizes_px=((SIZE_PX, SIZE_PX),))
    fingerprint = encode_fingerprint(settings, codec.record)
    planned = PlannedShard(name=f"{fingerprint[:8]}-0123456789ab", bucket="32x32", clips=clips)
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=1024) as worker:
        record = encode_shard(
            planned, codec=codec, worker=worker, storage=open_storage(str(dataset)), settings=settings,
            fingerprint=fingerprint, scratch=dataset / "scratch", downloads=Downloads(),
        )  # fmt: skip
    assert record.failed == {}
    return dataset / tar_key(record.key)


@pytest.fixture(scope="module")
def samples(shard: Path) -> dict[str, Mapping[str, bytes]]:
    return {sample["__key__"]: sample for sample in WebDataset([str(shard)], shardshuffle=False)}


def pictures(clip: PlannedClip) -> list[Image.Image]:
    frames = read_clip(
        clip.location, probe(clip.location), start_frame=clip.start_frame, fps=clip.fps, num_frames=clip.num_frames,
        height_px=clip.height_px, width_px=clip.width_px,
    )  # fmt: skip
    return [Image.fromarray(frame) for frame in frames]


def whole_clip_latents(pipeline: HunyuanVideoFramepackPipeline, shown: list[Image.Image]) -> torch.Tensor:
    """Diffusers' own encoding of all frames at once, as a shard stores it."""
    pixels = pipeline.video_processor.preprocess_video(shown, SIZE_PX, SIZE_PX)
    with torch.no_grad():
        mode = pipeline.vae.encode(pixels).latent_dist.mode()
    return (mode * pipeline.vae.config["scaling_factor"])[0].bfloat16()


def test_every_clip_is_one_sample_of_four_members_in_order(
    clips: tuple[PlannedClip, ...], samples: dict[str, Mapping[str, bytes]]
) -> None:
    assert list(samples) == [clip.clip_id for clip in clips]
    for sample in samples.values():
        parts = sorted(name for name in sample if not name.startswith("__"))
        assert parts == ["image.safetensors", "json", "latents.safetensors", "text.safetensors"]


@pytest.mark.parametrize("n", SEGMENTS)
def test_streamed_latents_equal_the_vaes_own_framewise_encoding_of_the_whole_clip(
    clips: tuple[PlannedClip, ...],
    samples: dict[str, Mapping[str, bytes]],
    pipeline: HunyuanVideoFramepackPipeline,
    n: int,
) -> None:
    assert pipeline.vae.use_framewise_encoding
    stored = load(samples[f"noise-{n}"]["latents.safetensors"])
    shown = pictures(clips[n - 1])
    assert sorted(stored) == ["latents", "start_latent"]
    assert stored["latents"].shape == (4, 1 + 9 * n, 4, 4)
    assert stored["start_latent"].shape == (4, 1, 4, 4)
    assert torch.equal(stored["latents"], whole_clip_latents(pipeline, shown))
    assert torch.equal(stored["start_latent"], whole_clip_latents(pipeline, shown[:1]))
    assert not torch.equal(stored["start_latent"], stored["latents"][:, :1])


@pytest.mark.parametrize("n", SEGMENTS)
def test_text_and_image_features_are_the_pipelines(
    clips: tuple[PlannedClip, ...],
    samples: dict[str, Mapping[str, bytes]],
    pipeline: HunyuanVideoFramepackPipeline,
    n: int,
) -> None:
    clip, sample = clips[n - 1], samples[f"noise-{n}"]
    pixels = pipeline.video_processor.preprocess(pictures(clip)[0], SIZE_PX, SIZE_PX)
    with torch.no_grad():
        llama, pooled, mask = pipeline.encode_prompt(clip.caption)
        siglip = pipeline.encode_image(pixels)
    assert mask is not None
    text, image = load(sample["text.safetensors"]), load(sample["image.safetensors"])
    assert {name: (value.dtype, tuple(value.shape)) for name, value in {**text, **image}.items()} == {
        "llama": (torch.bfloat16, (256, 16)),
        "mask": (torch.int64, (256,)),
        "clip_pooled": (torch.bfloat16, (8,)),
        "siglip": (torch.bfloat16, (16, 16)),
    }
    assert torch.equal(text["llama"], llama[0].bfloat16())
    assert torch.equal(text["clip_pooled"], pooled[0].bfloat16())
    assert torch.equal(text["mask"], mask[0].to(torch.int64))
    assert text["mask"].sum() >= 1
    assert torch.equal(image["siglip"], siglip[0].bfloat16())


def test_the_json_says_what_was_encoded_and_by_which_weights(
    clips: tuple[PlannedClip, ...], samples: dict[str, Mapping[str, bytes]], codec: Codec
) -> None:
    clip, said = clips[1], json.loads(samples["noise-2"]["json"])
    for name in ("clip_id", "source_id", "group_id", "uri", "shot_index", "clip_index", "start_frame", "end_frame"):
        assert said[name] == getattr(clip, name)
    for name in ("start_s", "end_s", "fps", "num_segments", "num_frames", "height_px", "width_px", "caption", "scores"):
        assert said[name] == getattr(clip, name)
    assert said["split"] == "train"
    assert said["codec"] == json.loads(json.dumps(asdict(codec.record)))
    assert said["codec"]["options"]["tile_sample_min_num_frames"] == 16
    assert said["fingerprints"]["encode"].startswith(Path(samples["noise-2"]["__url__"]).name.split("-")[0])
    assert clip.location not in json.dumps(said)
