"""A dataset of a few tiny clips, made without videos: what a training test needs."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing.dataset import MANIFEST, Dataset
from preprocessing.samples import CodecRecord, LatentSample, TextFeatures
from preprocessing.shards import read_index, tar_key, write_shard
from training.config import MemoryConfig, ModelConfig, TrainConfig

CODEC = CodecRecord(
    codec_id="tiny", latent_channels=4, spatial_stride=8, text_dim=16, text_tokens=6, pooled_dim=8, image_dim=12,
    image_tokens=5, weights_sha256="0" * 64, options={},
)  # fmt: skip
SHARD = "tiny/000"
MODEL = ModelConfig(preset="tiny", memory=MemoryConfig(width=24, num_heads=2))


def make_dataset(
    folder: Path,
    *,
    train: Sequence[int] = (1, 2, 2, 3, 3),
    held_out: Sequence[int] = (2, 3),
    spoiled: Sequence[str] = (),
    codec: CodecRecord = CODEC,
    size_px: tuple[int, int] = (64, 64),
) -> Path:
    """Clips with these numbers of segments in each split, in one shard; those of some overflow when squared."""
    dataset = Dataset.create(str(folder))
    segments = [*((n, "train") for n in train), *((n, "eval") for n in held_out)]
    samples = [make_sample(f"clip{i:02}", n, codec, size_px, seed=i) for i, (n, _) in enumerate(segments)]
    for sample in samples:
        if sample.key in spoiled:
            sample.latents_CTHW[:] = 1e30
    write_shard(dataset.storage, SHARD, samples, scratch=folder / "scratch")
    rows = [_row(sample.key, n, split, size_px) for sample, (n, split) in zip(samples, segments, strict=True)]
    dataset.write_record(replace(dataset.record(), codec=codec))
    dataset.write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST))
    return folder


def damage(folder: Path, *clip_ids: str, member: str = "latents.safetensors") -> None:
    """Flip the last bit of a member of these samples."""
    dataset = Dataset.open(str(folder))
    tar = folder / tar_key(SHARD)
    data = bytearray(tar.read_bytes())
    for row in read_index(dataset.storage, SHARD):
        if row.member in {f"{clip_id}.{member}" for clip_id in clip_ids}:
            data[row.offset + row.size - 1] ^= 1
    tar.write_bytes(data)


def make_sample(
    key: str,
    num_segments: int,
    codec: CodecRecord = CODEC,
    size_px: tuple[int, int] = (64, 64),
    *,
    seed: int,
) -> LatentSample:
    """A picture that moves a column a frame: the past says what comes."""
    rng = np.random.default_rng(seed)

    def data(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    height, width = (side // codec.spatial_stride for side in size_px)
    picture = data(codec.latent_channels, height, width)
    latents = np.stack([np.roll(picture, k, axis=2) for k in range(1 + 9 * num_segments)], axis=1)
    return LatentSample(
        key=key,
        latents_CTHW=latents,
        start_latent_CTHW=latents[:, :1],
        text=TextFeatures(
            llama_LD=data(codec.text_tokens, codec.text_dim),
            mask_L=(np.arange(codec.text_tokens) < codec.text_tokens - 2).astype(np.int64),
            clip_pooled_D=data(codec.pooled_dim),
        ),
        siglip_ND=data(codec.image_tokens, codec.image_dim),
        metadata={"codec": asdict(codec), "caption": f"the caption of {key}"},
    )


def _row(key: str, num_segments: int, split: str, size_px: tuple[int, int]) -> dict[str, object]:
    return {
        "clip_id": key, "shard": SHARD, "num_segments": num_segments, "split": split, "source_id": key,
        "group_id": key, "uri": f"{key}.mp4", "shot_index": 0, "clip_index": 0, "start_frame": 0, "end_frame": 37,
        "start_s": 0.0, "end_s": 1.5, "fps": 24.0, "height_px": size_px[0], "width_px": size_px[1], "caption": "", "licence": "",
        "latents_bytes": 1,
    }  # fmt: skip


def train_config(num_workers: int = 1, **changes: object) -> TrainConfig:
    """Six teacher and four direct steps; a checkpoint every second step."""
    values = {
        "seed": 5,
        "engine": {"num_workers": num_workers, "zero_stage": 1},
        "teacher": {"steps": 6, "global_batch": 2, "memory_dropout": 0.3, "optimizer": {"learning_rate": 1e-3}},
        "direct": {"steps": 4, "global_batch": 2, "curriculum": [1, 2], "optimizer": {"learning_rate": 1e-3}},
        "checkpoint": {"every_steps": 2, "keep": 2},
        "validation": {"every_steps": 3, "num_clips": 2, "max_segments": 2},
    }
    return TrainConfig.model_validate({**values, **changes}, strict=False)
