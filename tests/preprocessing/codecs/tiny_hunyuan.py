"""Tiny models of the production encoders' classes, saved as the hub lays them out, and diffusers' own pipeline over them."""

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from preprocessing.config import HunyuanPaths

WORD = r"<\|\w+\|>|\w+| ?[^\w\s]+|\s*[\r\n]+"
CAPTION = "a dog runs over the green hill"


def save_llama(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=512, pad_token_id=1,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(folder)
    words = dict.fromkeys(["<unk>", "<pad>", *re.findall(WORD, DEFAULT_PROMPT_TEMPLATE["template"] + CAPTION)])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    fast.padding_side = "right"
    fast.save_pretrained(folder.with_name("tokenizer"))


def save_clip(folder: Path) -> None:
    pieces = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {piece: i for i, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *pieces])}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
    )  # fmt: skip
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_vae(folder: Path) -> None:
    AutoencoderKLHunyuanVideo(
        latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(2, 2, 2, 2), layers_per_block=1,
        norm_num_groups=2,
    ).save_pretrained(folder)  # fmt: skip


def save_encoders(root: Path) -> HunyuanPaths:
    """All of them, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_vae(root / "vae")
        save_llama(root / "llama")
        save_clip(root / "clip")
        save_siglip(root / "siglip")
    return HunyuanPaths(
        vae=str(root / "vae"),
        text_encoder=str(root / "llama"),
        tokenizer=str(root / "tokenizer"),
        text_encoder_2=str(root / "clip"),
        image_encoder=str(root / "siglip"),
    )


def diffusers_pipeline(paths: HunyuanPaths) -> HunyuanVideoFramepackPipeline:
    """Diffusers' own, put together by itself."""
    return HunyuanVideoFramepackPipeline(
        text_encoder=LlamaModel.from_pretrained(paths.text_encoder),
        tokenizer=AutoTokenizer.from_pretrained(paths.tokenizer),
        transformer=None,  # type: ignore[arg-type]
        vae=AutoencoderKLHunyuanVideo.from_pretrained(paths.vae),
        scheduler=None,  # type: ignore[arg-type]
        text_encoder_2=CLIPTextModel.from_pretrained(paths.text_encoder_2),
        tokenizer_2=AutoTokenizer.from_pretrained(paths.text_encoder_2),
        image_encoder=SiglipVisionModel.from_pretrained(paths.image_encoder),
        feature_extractor=SiglipImageProcessorPil.from_pretrained(paths.image_encoder),
    )
