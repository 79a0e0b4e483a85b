"""The hunyuan codec on tiny models of its classes, held to what diffusers' own pipeline and VAE compute."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import DEFAULT_PROMPT_TEMPLATE
from PIL import Image

from preprocessing.codecs.base import Codec, Frame, Latents
from preprocessing.codecs.catalog import load_codec
from preprocessing.codecs.hunyuan import soft_append, to_frames, to_pixels
from preprocessing.config import EncodeConfig, HunyuanPaths
from tests.preprocessing.codecs.tiny_hunyuan import CAPTION, diffusers_pipeline, save_encoders, save_vae


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> HunyuanPaths:
    return save_encoders(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def codec(paths: HunyuanPaths) -> Codec:
    return load_codec(EncodeConfig(codec="hunyuan", hunyuan=paths))


@pytest.fixture(scope="module")
def pipeline(paths: HunyuanPaths) -> HunyuanVideoFramepackPipeline:
    return diffusers_pipeline(paths)


def clip(num_frames: int) -> list[Frame]:
    return list(np.random.default_rng(num_frames).integers(0, 256, (num_frames, 32, 32, 3), np.uint8))


def diffusers_latents(pipeline: HunyuanVideoFramepackPipeline, frames: list[Frame]) -> np.ndarray:
    pixels = pipeline.video_processor.preprocess_video([Image.fromarray(frame) for frame in frames], 32, 32)
    with torch.no_grad():
        mode = pipeline.vae.encode(pixels).latent_dist.mode()
    return (mode * pipeline.vae.config["scaling_factor"])[0].numpy()


@pytest.mark.parametrize("num_frames", [1, 5, 13, 17, 29, 37, 41])
def test_latents_equal_the_posterior_mode_of_the_whole_clip_times_the_scaling_factor(
    codec: Codec, pipeline: HunyuanVideoFramepackPipeline, num_frames: int
) -> None:
    frames = clip(num_frames)
    latents = codec.encode_video(iter(frames))
    assert latents.shape == (4, 1 + num_frames // 4, 4, 4)
    np.testing.assert_array_equal(latents, diffusers_latents(pipeline, frames))


@pytest.mark.parametrize("num_frames", [1, 17])
def test_pictures_larger_than_a_spatial_tile_are_encoded_as_the_vae_tiles_them(
    paths: HunyuanPaths, num_frames: int
) -> None:
    tiled = load_codec(EncodeConfig(codec="hunyuan", hunyuan=paths.model_copy(update={"spatial_tile_px": 64})))
    vae = AutoencoderKLHunyuanVideo.from_pretrained(paths.vae)
    vae.enable_tiling(64, 64, tile_sample_stride_height=48, tile_sample_stride_width=48)
    frames = list(np.random.default_rng(3).integers(0, 256, (num_frames, 80, 64, 3), np.uint8))
    with torch.no_grad():
        mode = vae.encode(to_pixels(frames)).latent_dist.mode()
    np.testing.assert_array_equal(tiled.encode_video(frames), (mode * vae.config["scaling_factor"])[0].numpy())
    assert (tiled.record.options["use_tiling"], tiled.record.options["tile_sample_stride_width"]) == (True, 48)


def test_the_start_latent_is_the_picture_encoded_alone(codec: Codec, pipeline: HunyuanVideoFramepackPipeline) -> None:
    frames = clip(37)
    start = codec.encode_image(frames[0])
    np.testing.assert_array_equal(start, diffusers_latents(pipeline, frames[:1]))
    assert not np.allclose(start, codec.encode_video(iter(frames))[:, :1])


def test_clips_that_are_not_one_and_four_k_frames_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="1 \\+ 4k"):
        codec.encode_video(iter(clip(36)))


def test_pixels_are_held_a_tile_at_a_time(codec: Codec) -> None:
    alive = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def frames() -> Iterator[Frame]:
        nonlocal alive
        for _ in range(73):
            alive += 1
            assert alive <= 17 + 4
            yield np.zeros((16, 16, 3), np.uint8).view(Counted)

    assert codec.encode_video(frames()).shape[1] == 19


@pytest.mark.parametrize("caption", [CAPTION, "", "dog " * 400])
def test_prompt_features_equal_the_pipelines(
    codec: Codec, pipeline: HunyuanVideoFramepackPipeline, caption: str
) -> None:
    with torch.no_grad():
        llama, pooled, mask = pipeline.encode_prompt(caption)
    text = codec.encode_text(caption)
    assert mask is not None
    np.testing.assert_array_equal(text.llama_LD, llama[0].numpy())
    np.testing.assert_array_equal(text.clip_pooled_D, pooled[0].numpy())
    np.testing.assert_array_equal(text.mask_L, mask[0].numpy())
    assert text.llama_LD.shape == (256, 16)
    assert text.mask_L.sum() >= 1


def test_prompt_features_are_the_third_last_hidden_state_after_the_template(
    codec: Codec, pipeline: HunyuanVideoFramepackPipeline
) -> None:
    text = codec.encode_text(CAPTION)
    ids = pipeline.tokenizer(DEFAULT_PROMPT_TEMPLATE["template"].format(CAPTION), return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipeline.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states
    slow = states[-3][0, 95:].numpy()
    assert text.mask_L.sum() == len(slow)
    np.testing.assert_allclose(text.llama_LD[: len(slow)], slow, atol=1e-5)


def test_image_features_equal_the_pipelines(codec: Codec, pipeline: HunyuanVideoFramepackPipeline) -> None:
    (frame,) = clip(1)
    pixels = pipeline.video_processor.preprocess(Image.fromarray(frame), 32, 32)
    with torch.no_grad():
        expected = pipeline.encode_image(pixels)[0].numpy()
    np.testing.assert_array_equal(codec.image_features(frame), expected)
    assert expected.shape == (codec.record.image_tokens, codec.record.image_dim)


def test_the_record_says_sizes_options_and_weights(codec: Codec, paths: HunyuanPaths, tmp_path: Path) -> None:
    record = codec.record
    assert (record.codec_id, record.latent_channels, record.spatial_stride) == ("hunyuan", 4, 8)
    assert (record.text_dim, record.text_tokens, record.pooled_dim) == (16, 256, 8)
    assert (record.image_dim, record.image_tokens) == (16, 16)
    assert record.options["use_framewise_encoding"] is True
    assert record.options["use_tiling"] is False
    assert record.options["dtype"] == "float32"
    torch.manual_seed(1)
    save_vae(tmp_path)
    other = load_codec(EncodeConfig(codec="hunyuan", hunyuan=paths.model_copy(update={"vae": str(tmp_path)})))
    assert other.record.weights_sha256 != record.weights_sha256


def pipeline_frames(
    pipeline: HunyuanVideoFramepackPipeline, start: torch.Tensor, segments: list[torch.Tensor]
) -> np.ndarray:
    """What the pipeline's vanilla sampling shows for these latents (its `__call__`, less the denoising)."""
    history, video = start[None], None
    for segment in segments:
        history = torch.cat([history, segment[None]], dim=2)
        window = history if video is None else history[:, :, -18:]
        with torch.no_grad():
            current = pipeline.vae.decode(window / pipeline.vae.config["scaling_factor"], return_dict=False)[0]
        video = current if video is None else pipeline._soft_append(video, current, 33)
    shown = pipeline.video_processor.postprocess_video(video, output_type="np")[0]
    return np.rint(shown * 255)


@pytest.mark.parametrize("num_segments", [1, 3])
def test_decoding_shows_what_the_pipeline_shows(
    codec: Codec, pipeline: HunyuanVideoFramepackPipeline, num_segments: int
) -> None:
    noise = torch.randn(4, 1 + 9 * num_segments, 4, 4, generator=torch.Generator().manual_seed(2))
    start, segments = noise[:, :1], list(noise[:, 1:].split(9, dim=1))
    frames = list(codec.decode_stream(chunk.numpy() for chunk in [start, *segments]))
    assert len(frames) == 1 + 36 * num_segments
    np.testing.assert_allclose(np.stack(frames), pipeline_frames(pipeline, start, segments), atol=1)


def test_a_start_latent_alone_gives_one_frame(codec: Codec) -> None:
    assert len(list(codec.decode_stream([np.zeros((4, 1, 4, 4), np.float32)]))) == 1


@pytest.mark.parametrize("lengths", [(1,), (9, 9), (3, 5, 1)])
def test_segments_of_t_latents_give_4_t_frames_each(codec: Codec, lengths: tuple[int, ...]) -> None:
    chunks: list[Latents] = [np.zeros((4, length, 2, 2), np.float32) for length in (1, *lengths)]
    assert len(list(codec.decode_stream(chunks))) == 1 + 4 * sum(lengths)


def test_soft_append_is_the_pipelines(pipeline: HunyuanVideoFramepackPipeline) -> None:
    history, current = torch.randn(3, 37, 4, 4), torch.randn(3, 69, 4, 4)
    expected = pipeline._soft_append(history[None], current[None], 33)[0]
    torch.testing.assert_close(soft_append(history, current, 33), expected, rtol=0, atol=0)


def test_bytes_survive_the_pixel_range() -> None:
    frames = clip(3)
    np.testing.assert_array_equal(to_frames(to_pixels(frames)[0]), np.stack(frames))


@pytest.mark.parametrize("part", ["vae", "text_encoder", "text_encoder_2", "image_encoder"])
def test_a_part_that_nobody_named_is_refused_by_its_setting(paths: HunyuanPaths, part: str) -> None:
    with pytest.raises(ValueError, match=f"encode.hunyuan.{part} is empty: give .* a local folder, or a hub id"):
        load_codec(EncodeConfig(codec="hunyuan", hunyuan=paths.model_copy(update={part: ""})))


def test_a_folder_without_the_model_is_refused_by_its_setting(paths: HunyuanPaths, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encode\.hunyuan\.vae"):
        load_codec(EncodeConfig(codec="hunyuan", hunyuan=paths.model_copy(update={"vae": str(tmp_path)})))
