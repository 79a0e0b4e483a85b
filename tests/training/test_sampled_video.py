from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation.provenance import read_provenance
from preprocessing.codecs.dct import DctCodec
from preprocessing.video_io.probe import probe
from tests.training.engine import rank_worker
from training.config import SampleConfig, ValidationConfig, VideoConfig
from training.engine.plain import PlainEngine
from training.generation import segment_noise
from training.sampled_video import SampledVideo, decode_video, load_video, sample_segments, save_video, saved_videos
from training.sampling import roll_out, schedule
from training.types import GlobalStep

CONFIG = ValidationConfig(
    sample=SampleConfig(num_inference_steps=2, shift=7.0),
    video=VideoConfig(every_steps=1, num_segments=3, guidance_scale=6.0),
)


def dct_video(step: int = 3) -> SampledVideo:
    """Two segments of 32 x 48 pixels."""
    rng = torch.Generator().manual_seed(step)
    return SampledVideo(
        step=step, clip_id="clip00", prompt="a prompt, прогулка", seed=5, fps=24.0, codec_id=DctCodec().record.codec_id,
        start_latent_CTHW=torch.randn(16, 1, 4, 6, generator=rng), segments_CTHW=torch.randn(16, 18, 4, 6, generator=rng),
    )  # fmt: skip


def test_it_is_the_roll_out_of_the_engine_s_model_from_the_noise_of_generation() -> None:
    module, settings = rank_worker.module("direct"), rank_worker.settings("direct")
    step = GlobalStep(step=0, clips=(rank_worker.clip(0, 1),), num_segments=(1,), segment_index=None, use_memory=True)
    (batch,) = rank_worker.batches(step, 0, 1)
    made = sample_segments(PlainEngine(module, rank_worker.optimizer()), settings, batch, CONFIG)
    segments = roll_out(
        module.model, batch.start_latent_BCTHW, batch.condition, num_segments=3,
        noise_of=lambda n: segment_noise(settings.seed, n, (4, 9, 8, 8)), times=schedule(2, 7.0), guidance_scale=6.0,
        rope_mode=settings.rope_mode,
    )  # fmt: skip
    assert torch.equal(made, torch.cat(list(segments), dim=2)[0])


def test_what_is_saved_is_loaded_and_a_later_attempt_replaces_it(tmp_path: Path) -> None:
    for step in (12, 3):
        save_video(replace(dct_video(step), prompt="an earlier attempt"), tmp_path)
        save_video(dct_video(step), tmp_path)
    loaded = [load_video(path) for path in saved_videos(tmp_path)]
    assert [str(video) for video in loaded] == [str(dct_video(3)), str(dct_video(12))]
    assert loaded[0].prompt == dct_video(3).prompt
    assert torch.equal(loaded[0].segments_CTHW, dct_video(3).segments_CTHW)
    assert torch.equal(loaded[0].start_latent_CTHW, dct_video(3).start_latent_CTHW)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stage_without_videos_has_none(tmp_path: Path) -> None:
    assert saved_videos(tmp_path / "videos") == ()


def test_the_pictures_are_the_codec_s_and_those_that_the_model_made_are_named(tmp_path: Path) -> None:
    out = tmp_path / "step.mp4"
    decode_video(dct_video(), DctCodec(), out)
    facts = probe(str(out))
    assert (facts.height_px, facts.width_px, facts.fps) == (32, 48, 24.0)
    provenance = read_provenance(out, 1 + 2 * 36)
    assert provenance.recorded
    assert provenance.generated.tolist() == list(range(1, 73))
    assert (provenance.details["clip_id"], provenance.details["step"]) == ("clip00", "3")


def test_latents_of_another_codec_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"latents of the codec hunyuan.* set encode\.codec=hunyuan"):
        decode_video(replace(dct_video(), codec_id="hunyuan"), DctCodec(), tmp_path / "step.mp4")
