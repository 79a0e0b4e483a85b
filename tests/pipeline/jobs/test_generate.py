import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from pipeline.config import load_recipe
from pipeline.jobs.generate import (
    GenerateRequest,
    generate_videos,
    preview_videos,
    read_prompts,
    read_upright,
    request_fingerprint,
)
from pipeline.tracking.lines import RUNS_FILE
from pipeline.tracking.tracked_run import Tracking
from tests.training.small_dataset import CODEC, MODEL
from training.checkpoint import start_weights
from training.model.weights import save_model


def test_previewed_videos_have_their_length_in_frames_and_segments(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")

    (plan,) = preview_videos([request_of(tmp_path)], load_recipe("embedded"), model=model)

    assert (plan.num_frames, plan.num_segments, plan.is_made) == (240, 7, False)


def save_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    codec = replace(CODEC, codec_id="dct")
    model = start_weights(MODEL, codec, init=None, seed=seed)
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


def test_a_model_that_was_cut_off_makes_no_video_and_still_has_those_that_it_made(tmp_path: Path, uri: str) -> None:
    model, request = save_tiny_model(tmp_path / "model"), request_of(tmp_path)
    os.truncate(model / "memory.safetensors", 1000)
    with pytest.raises(ValueError, match=r"memory\.safetensors is damaged"):
        preview_videos([request], load_recipe("embedded"), model=model)
    with pytest.raises(ValueError, match=r"memory\.safetensors is damaged"):
        generate([request], model, uri)
    put_video(request, model)
    generate([request], model, uri)


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


def put_video(request: GenerateRequest, model: Path) -> None:
    """As a call leaves it that was killed before it could track."""
    request.out.touch()
    asked = request_fingerprint(request, load_recipe("embedded"), model)
    request.out.with_suffix(".json").write_text(json.dumps({"request": asked}))


def generate(requests: Sequence[GenerateRequest], model: Path, uri: str) -> list[Run]:
    """All runs that the folder of the videos has after the call."""
    home = requests[0].out.parent
    generate_videos(
        requests, load_recipe("embedded"), model=model, home=home, line="mine", address=None,
        tracking=Tracking(uri=uri, line=None),
    )  # fmt: skip
    runs = json.loads((home / RUNS_FILE).read_text()).values()
    return [MlflowClient(uri).get_run(run_id) for run_id in runs]


def test_videos_that_a_killed_call_made_are_tracked_by_the_next_one_and_once(uri: str, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    requests = [request_of(tmp_path, out=tmp_path / f"{name}.mp4", seconds=s) for name, s in (("a", 10.0), ("b", 2.0))]
    for request in requests:
        put_video(request, model)

    (run,) = generate(requests, model, uri)

    frames = MlflowClient(uri).get_metric_history(run.info.run_id, "frames")
    assert [(point.step, point.value) for point in frames] == [(0, 240), (1, 48)]
    names = {Path(file.path).name for file in MlflowClient(uri).list_artifacts(run.info.run_id, "videos")}
    assert names == {"a.mp4", "a.json", "b.mp4", "b.json"}
    assert run.info.status == "FINISHED"
    (again,) = generate(requests, model, uri)
    assert again.data.tags["longtake.attempt"] == "1"


def test_another_video_or_another_model_in_the_same_folder_is_another_run(uri: str, tmp_path: Path) -> None:
    model, another = save_tiny_model(tmp_path / "model"), save_tiny_model(tmp_path / "another", seed=1)
    a, b = (request_of(tmp_path, out=tmp_path / f"{name}.mp4", seconds=s) for name, s in (("a", 10.0), ("b", 2.0)))
    for request, of in ((a, model), (b, model), (a, another)):
        put_video(request, of)
        runs = generate([request], of, uri)

    assert [run.data.metrics["frames"] for run in runs] == [240, 48, 240]
    weights = [run.data.tags["longtake.weights_sha256"] for run in runs]
    assert weights[0] == weights[1] != weights[2]
