import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from preprocessing.codecs.dct import DctCodec
from training.config import GenerateConfig, MemoryConfig, ModelConfig
from training.generation import Picture, cover, generate, num_segments_for, segment_noise
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.presets import build_model
from training.model.weights import ModelRecord

SETTINGS = GenerateConfig(num_inference_steps=2, seed=4)
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def codec() -> DctCodec:
    return DctCodec()


@pytest.fixture(scope="module")
def record(codec: DctCodec) -> ModelRecord:
    config = ModelConfig(preset="tiny", memory=MemoryConfig(width=24, num_heads=2))
    return ModelRecord(codec=codec.record, model=config, fps=24.0, sizes_px=((32, 32), (32, 48)), weights_sha256="0")


@pytest.fixture(scope="module")
def model(record: ModelRecord) -> MemoryPackTransformer3DModel:
    return build_model(record.model, record.codec, device="cpu", seed=0)


def decode(path: Path) -> list[Picture]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def difference(one: list[Picture], other: list[Picture]) -> float:
    return float(np.abs(np.array(one, dtype=float) - np.array(other, dtype=float)).mean())


def test_a_video_has_the_asked_length_and_begins_with_the_image(
    tmp_path: Path, model: MemoryPackTransformer3DModel, record: ModelRecord, codec: DctCodec
) -> None:
    out = tmp_path / "take.mp4"
    video = generate(
        model, record, codec, image_HWC=IMAGE, prompt="a take", seconds=1.75, settings=SETTINGS, request="", out=out
    )
    frames = decode(out)
    assert len(frames) == video.num_frames == 42
    assert frames[0].shape == (32, 48, 3)
    expected = next(codec.decode_stream([codec.encode_image(cover(IMAGE, 32, 48))]))
    assert np.abs(frames[0].astype(int) - expected).mean() < 12
    assert video.num_segments == 2
    assert (video.conditioning, video.generated) == (((0, 1),), ((1, 37), (37, 42)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["take.json", "take.mp4"]


def test_the_json_beside_a_video_says_how_it_was_made(
    tmp_path: Path, model: MemoryPackTransformer3DModel, record: ModelRecord, codec: DctCodec
) -> None:
    generate(
        model,
        record,
        codec,
        image_HWC=IMAGE,
        prompt="прогулка",
        seconds=0.5,
        settings=SETTINGS,
        request="r1",
        out=tmp_path / "a.mp4",
    )
    said = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (said["prompt"], said["request"]) == ("прогулка", "r1")
    assert (said["num_frames"], said["fps"], said["seed"], said["num_segments"]) == (12, 24.0, 4, 1)
    assert (said["conditioning"], said["generated"]) == ([[0, 1]], [[1, 12]])
    assert said["settings"]["num_inference_steps"] == 2
    assert said["model"]["codec_id"] == codec.record.codec_id


def test_the_same_seed_gives_the_same_bytes_and_a_longer_video_begins_like_a_shorter_one(
    tmp_path: Path, model: MemoryPackTransformer3DModel, record: ModelRecord, codec: DctCodec
) -> None:
    def run(name: str, seconds: float, seed: int) -> list[Picture]:
        generate(
            model,
            record,
            codec,
            image_HWC=IMAGE,
            prompt="",
            seconds=seconds,
            settings=SETTINGS.model_copy(update={"seed": seed}),
            request="",
            out=tmp_path / name,
        )
        return decode(tmp_path / name)

    short = run("short.mp4", 1.0, 0)
    run("again.mp4", 1.0, 0)
    assert (tmp_path / "short.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()
    long, other = run("long.mp4", 1.75, 0)[: len(short)], run("other.mp4", 1.0, 1)
    # not to the bit: the encoder looks ahead
    assert 10 * difference(short, long) < difference(short, other)


def test_an_interrupted_video_never_bears_its_final_name(
    tmp_path: Path,
    model: MemoryPackTransformer3DModel,
    record: ModelRecord,
    codec: DctCodec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(seed: int, index: int, shape: tuple[int, int, int, int]) -> torch.Tensor:
        if index == 1:
            raise KeyboardInterrupt
        return segment_noise(seed, index, shape)

    monkeypatch.setattr("training.generation.segment_noise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(
            model,
            record,
            codec,
            image_HWC=IMAGE,
            prompt="",
            seconds=3,
            settings=SETTINGS,
            request="",
            out=tmp_path / "a.mp4",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4.part"]
    assert len(decode(tmp_path / "a.mp4.part")) == 37


def test_less_than_a_frame_is_refused(
    tmp_path: Path, model: MemoryPackTransformer3DModel, record: ModelRecord, codec: DctCodec
) -> None:
    with pytest.raises(ValueError, match="less than one frame"):
        generate(
            model,
            record,
            codec,
            image_HWC=IMAGE,
            prompt="",
            seconds=0.01,
            settings=SETTINGS,
            request="",
            out=tmp_path / "a",
        )


@pytest.mark.parametrize(("num_frames", "num_segments"), [(1, 0), (2, 1), (37, 1), (38, 2), (240, 7), (1440, 40)])
def test_as_many_segments_as_needed_and_no_more(num_frames: int, num_segments: int) -> None:
    assert num_segments_for(num_frames) == num_segments


def test_an_image_is_cropped_evenly_and_never_stretched() -> None:
    stripes = np.zeros((40, 80, 3), dtype=np.uint8)
    stripes[:, 20:60] = 255
    assert cover(stripes, 40, 40).min() == 255
    assert cover(stripes, 16, 32).shape == (16, 32, 3)
