from pathlib import Path

from PIL import Image

from pipeline.config import load_recipe
from pipeline.jobs.generate import GenerateRequest, preview_videos
from tests.training.small_dataset import CODEC, MODEL
from training.checkpoint import start_weights
from training.model.weights import save_model


def test_previewed_videos_have_their_length_in_frames_and_segments(tmp_path: Path) -> None:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, tmp_path / "model", config=MODEL, codec=CODEC, fps=24.0, sizes_px=((64, 64),))
    Image.new("RGB", (64, 64)).save(tmp_path / "start.png")
    request = GenerateRequest(
        image=tmp_path / "start.png", prompt="a walk", seconds=10.0, out=tmp_path / "walk.mp4", seed=0
    )

    (plan,) = preview_videos([request], load_recipe("embedded"), model=tmp_path / "model")

    assert (plan.num_frames, plan.num_segments, plan.is_made) == (240, 7, False)
