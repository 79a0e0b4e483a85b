from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline.config import load_recipe
from pipeline.jobs.generate import GenerateRequest, preview_videos, read_prompts, read_upright
from tests.training.small_dataset import CODEC, MODEL
from training.checkpoint import start_weights
from training.model.weights import save_model


def test_previewed_videos_have_their_length_in_frames_and_segments(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")

    (plan,) = preview_videos([request_of(tmp_path)], load_recipe("embedded"), model=model)

    assert (plan.num_frames, plan.num_segments, plan.is_made) == (240, 7, False)


def save_tiny_model(folder: Path) -> Path:
    codec = replace(CODEC, codec_id="dct")
    model = start_weights(MODEL, codec, init=None, seed=0)
    save_model(model, folder, config=MODEL, codec=codec, fps=24.0, sizes_px=((64, 64),))
    return folder


def request_of(folder: Path, **changed: object) -> GenerateRequest:
    image = folder / "start.png"
    Image.new("RGB", (64, 64)).save(image)
    asked = {"image": image, "prompt": "a walk", "seconds": 10.0, "out": folder / "walk.mp4", "seed": 0, **changed}
    return GenerateRequest(**asked)  # pyright: ignore[reportArgumentType]


def test_a_video_without_a_frame_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    with pytest.raises(ValueError, match=r"is no frame; ask for 0\.042 s at least"):
        preview_videos([request_of(tmp_path, seconds=0.02)], load_recipe("embedded"), model=model)


def test_another_codec_than_the_model_s_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    with pytest.raises(ValueError, match="the recipe names hunyuan"):
        preview_videos([request_of(tmp_path)], load_recipe("embedded", ["encode.codec=hunyuan"]), model=model)


def test_an_image_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    Image.effect_noise((64, 64), 80).save(whole)
    cut.write_bytes(whole.read_bytes()[:-600])
    request_of(tmp_path, image=whole)
    with pytest.raises(ValueError, match="no whole image"):
        request_of(tmp_path, image=cut)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"image": "start.png", "prompt": "x", "seconds": "long"}', "could not convert"),
        ('{"image": "start.png", "prompt": "x", "seconds": 1, "name": ".."}', "no file name"),
        ('{"image": "start.png", "prompt": "x", "seconds": 1, "name": "a/b"}', "no file name"),
        ('{"image": "absent.png", "prompt": "x", "seconds": 1}', "there is no start image"),
        ('{"image": "start.png", "seconds": 1}', "KeyError"),
        ('{"image": "start.png", "prompt": "x", "secnds": 5}', "unknown key 'secnds'"),
        ('{"image": "start.png", "prompt": "x", "seconds": 1, "seed": 1.9}', "the seed is 1.9"),
        ('{"image": "start.png", "prompt": "x", "seconds": 1, "seed": -3}', "the seed is -3"),
    ],
)
def test_a_wrong_line_of_prompts_is_named(tmp_path: Path, line: str, what: str) -> None:
    good = '{"image": "start.png", "prompt": "x", "seconds": 1}'
    request_of(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=rf"prompts.jsonl, line 2: .*{what}"):
        read_prompts(tmp_path / "prompts.jsonl", tmp_path / "out", seconds=None, seed=0)


def test_a_video_whose_record_is_damaged_is_made_again(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    request = request_of(tmp_path)
    request.out.touch()
    request.out.with_suffix(".json").write_text("{")
    (plan,) = preview_videos([request], load_recipe("embedded"), model=model)
    assert not plan.is_made


def test_a_portrait_that_lies_on_its_side_is_set_upright(tmp_path: Path) -> None:
    lying = Image.new("RGB", (32, 16), "red")
    lying.paste("blue", (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees, clockwise
    lying.save(tmp_path / "phone.png", exif=exif)
    upright = read_upright(tmp_path / "phone.png")
    assert upright.shape == (32, 16, 3)
    assert (upright[:16] == (255, 0, 0)).all()
    assert (upright[16:] == (0, 0, 255)).all()
