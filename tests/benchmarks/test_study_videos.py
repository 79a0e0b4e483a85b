"""Made videos and their scores."""

import numpy as np
import pytest
import torch

from benchmarks.study_scenes import CODEC, clip_set
from benchmarks.study_videos import continue_clips, decode, figures_of, seam
from evaluation.metrics.exposure import BRIGHTNESS, CONTRAST
from preprocessing.samples import clip_num_frames
from training.batches import clip_batch
from training.config import GenerateConfig, MemoryConfig, ModelConfig
from training.model.presets import build_model


def fading(num_frames: int) -> np.ndarray:
    """A checkerboard of 64 x 64 pixels whose contrast falls to zero."""
    board_HW = np.indices((64, 64)).sum(axis=0) % 2 * 2 - 1
    amplitude_N = np.linspace(100, 0, num_frames)
    return np.stack([np.repeat((128 + a * board_HW)[..., None], 3, axis=2).astype(np.uint8) for a in amplitude_N])


def test_drift_is_what_the_first_and_last_frames_say() -> None:
    frames = fading(clip_num_frames(2))
    figures = figures_of([frames], (CONTRAST, BRIGHTNESS))
    made = frames[1:].std(axis=(1, 2, 3))
    assert figures.drifts[CONTRAST.name][0] == pytest.approx(made[:11].mean() - made[-11:].mean(), rel=0.02)
    assert figures.drifts[BRIGHTNESS.name][0] == pytest.approx(0, abs=0.6)


def test_a_seam_is_a_change_that_is_larger_where_a_segment_begins() -> None:
    num_segments = 3
    steps = np.full(clip_num_frames(num_segments) - 1, 0.0)
    steps[::4] = 2.0  # where latent frames begin
    even = np.concatenate([[0.0], steps.cumsum()])
    steps[36::36] = 6.0  # where segments begin
    seamed = np.concatenate([[0.0], steps.cumsum()])
    assert seam(_grey(even)) == pytest.approx(1)
    assert seam(_grey(seamed)) == pytest.approx(3)


def _grey(levels_N: np.ndarray) -> np.ndarray:
    return np.broadcast_to(levels_N.astype(np.uint8)[:, None, None, None], (len(levels_N), 8, 8, 3))


def test_a_clip_is_continued_alike_alone_and_among_others() -> None:
    clips = clip_set("test", 0, num_clips=2, num_segments=1)
    model = build_model(ModelConfig(preset="tiny", memory=MemoryConfig(width=32)), CODEC.record, device="cpu", seed=0)
    settings = GenerateConfig(num_inference_steps=2, shift=3.0, guidance_scale=1.0)

    def videos(*places: int) -> list[np.ndarray]:
        samples = [clips.read(clips.rows[i]) for i in places]
        batch = clip_batch(samples, places, num_segments=1, device=torch.device("cpu"))
        return continue_clips(model, batch, num_segments=2, settings=settings, rope_mode="relative_start")

    together, alone = videos(0, 1), videos(1)
    assert len(together[1]) == clip_num_frames(2)
    np.testing.assert_allclose(together[1].astype(int), alone[0].astype(int), atol=1)


def test_a_start_latent_decodes_to_one_frame_and_each_after_it_to_four() -> None:
    assert decode(np.zeros((16, 1 + 9, 2, 2), np.float32)).shape == (37, 16, 16, 3)
