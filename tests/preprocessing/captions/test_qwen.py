"""Captions by a tiny model of the Qwen2.5-VL class, held to what the model itself finds likeliest."""

from pathlib import Path

import numpy as np
import pytest
import torch

from preprocessing.captions.qwen import IMAGE_TOKEN, QwenCaptioner, captioner_record, load_captioner
from preprocessing.codecs.base import Frame
from preprocessing.config import CaptionsConfig
from tests.preprocessing.captions.tiny_qwen import save_qwen

WORDS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen(tmp_path_factory.mktemp("weights") / "tiny-qwen")


@pytest.fixture(scope="module")
def captioner(folder: Path) -> QwenCaptioner:
    return load_captioner(CaptionsConfig(model=str(folder), max_new_tokens=WORDS))


def pictures(seed: int) -> list[Frame]:
    return list(np.random.default_rng(seed).integers(0, 256, (2, 56, 84, 3), np.uint8))


def likeliest_words(captioner: QwenCaptioner, frames: list[Frame], instruction: str) -> str:
    """Token after token from the whole text so far, without a cache."""
    patches = captioner.image_processor(frames, return_tensors="pt")
    pads = [IMAGE_TOKEN * (int(grid.prod()) // 4) for grid in patches["image_grid_thw"]]
    seen = "".join(f"<|vision_start|>{pad}<|vision_end|>" for pad in pads)
    prompt = f"<|im_start|>user\n{seen}{instruction}<|im_end|>\n<|im_start|>assistant\n"
    ids = captioner.tokenizer(prompt, return_tensors="pt").input_ids
    start = ids.shape[1]
    for _ in range(WORDS):
        is_image = (ids == captioner.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)).int()
        captioner.model.model.rope_deltas = None
        with torch.no_grad():
            scores = captioner.model(input_ids=ids, mm_token_type_ids=is_image, **patches).logits[0, -1]
        ids = torch.cat([ids, scores.argmax().view(1, 1)], dim=1)
        if ids[0, -1] == captioner.tokenizer.eos_token_id:
            break
    return " ".join(captioner.tokenizer.decode(ids[0, start:], skip_special_tokens=True).split())


def test_a_caption_is_the_likeliest_words_about_all_frames(captioner: QwenCaptioner) -> None:
    said = captioner.describe(pictures(0), "What is seen?")
    assert said == likeliest_words(captioner, pictures(0), "What is seen?")
    assert said != ""


def test_the_same_clip_gets_the_same_words_and_other_pictures_or_questions_get_others(captioner: QwenCaptioner) -> None:
    first = captioner.describe(pictures(0), "What is seen?")
    captioner.rewrite("a dog", "Say it better:")
    assert captioner.describe(pictures(0), "What is seen?") == first
    assert captioner.describe(pictures(1), "What is seen?") != first
    assert captioner.describe(pictures(0)[::-1], "What is seen?") != first
    assert captioner.describe(pictures(0), "Which colours?") != first


def test_a_rewritten_caption_depends_on_the_caption(captioner: QwenCaptioner) -> None:
    assert captioner.rewrite("a dog runs", "Say it better:") != captioner.rewrite("a cat sleeps", "Say it better:")


def test_the_record_names_the_weights_and_not_where_they_lie(folder: Path, tmp_path: Path) -> None:
    record = captioner_record(CaptionsConfig(model=str(folder)))
    assert (record.model, record.revision) == ("tiny-qwen", "")
    other = captioner_record(CaptionsConfig(model=str(save_qwen(tmp_path / "tiny-qwen", seed=1))))
    assert other.weights_sha256 != record.weights_sha256


@pytest.mark.parametrize("model", ["", "owner/name", "/no/such/folder"])
def test_a_model_that_nobody_can_find_is_refused_by_its_setting(model: str) -> None:
    with pytest.raises(ValueError, match=r"captions\.model"):
        load_captioner(CaptionsConfig(model=model))


def test_a_folder_without_the_model_is_refused_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"captions\.model: .* does not hold a Qwen2_5_VLForConditionalGeneration"):
        load_captioner(CaptionsConfig(model=str(tmp_path)))
