"""A vision-language model of the Qwen2.5-VL class that describes clips and rewrites prompts.

Frames go in as single images: transformers' video processor needs torchvision, which is not among the dependencies. Decoding
is greedy, whatever the folder's generation settings say, so that the same clip gets the same caption every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from preprocessing.captions.policy import CaptionerRecord
from preprocessing.codecs.base import Frame
from preprocessing.codecs.weights import locate, weights_sha256
from preprocessing.config import CaptionsConfig

VERSION = 1
"""Bumped by hand when the same weights and settings would give other words."""

IMAGE_TOKEN = "<|image_pad|>"
"""Stands for an image in the model's chat template; repeated for every patch of it."""


def caption_folder(settings: CaptionsConfig) -> Path:
    """Where the model lies.

    Raises:
        ValueError: If the setting names nothing, or nothing that is there.
    """
    return locate("captions.model", settings.model, revision=settings.revision, allow_download=settings.allow_download)


def captioner_record(settings: CaptionsConfig) -> CaptionerRecord:
    """Which model the settings name, by its weights; loads nothing, but reads all of them."""
    name, _, own_revision = settings.model.partition("@")
    is_local = Path(settings.model).is_dir()
    return CaptionerRecord(
        model=Path(settings.model).name if is_local else name,
        revision="" if is_local else own_revision or settings.revision or "",
        weights_sha256=weights_sha256(caption_folder(settings)),
        version=VERSION,
    )


def load_captioner(settings: CaptionsConfig) -> "QwenCaptioner":
    """The model with its tokenizer and image processor, from a local folder or the hub's cache.

    Raises:
        ValueError: If a part is missing, saying which setting names it.
    """
    folder = caption_folder(settings)
    options = {"dtype": getattr(torch, settings.dtype), "use_safetensors": True}  # a pickle is never read
    return QwenCaptioner(
        model=_load(Qwen2_5_VLForConditionalGeneration, folder, **options).to(settings.device).eval(),
        tokenizer=_load(AutoTokenizer, folder),
        # The PIL class by name: the other one needs torchvision and would give other pixels where it is installed.
        image_processor=_load(Qwen2VLImageProcessorPil, folder),
        max_new_tokens=settings.max_new_tokens,
    )


def _load(kind: Any, folder: Path, **options: object) -> Any:  # noqa: ANN401 - whichever class it is
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except OSError as error:
        raise ValueError(f"captions.model: {folder} does not hold a {kind.__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class QwenCaptioner:
    """A loaded model.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: With the model's chat template.
        image_processor: Pixels to patches.
        max_new_tokens: Longest answer.
    """

    model: Any  # Qwen2_5_VLForConditionalGeneration; transformers' classes confuse the type checker
    tokenizer: Any  # PreTrainedTokenizerFast
    image_processor: Any  # Qwen2VLImageProcessorPil
    max_new_tokens: int

    def describe(self, frames: Sequence[Frame], instruction: str) -> str:
        """What the model says of a clip's frames, in their order."""
        patches = self.image_processor([Image.fromarray(frame) for frame in frames], return_tensors="pt")
        merged = self.image_processor.merge_size**2
        num_tokens = [int(grid.prod()) // merged for grid in patches["image_grid_thw"]]
        images = {name: patches[name].to(self.model.device) for name in ("pixel_values", "image_grid_thw")}
        return self._answer(self._prompt(instruction, num_tokens), images)

    def rewrite(self, caption: str, instruction: str) -> str:
        """The caption as the model words it."""
        return self._answer(self._prompt(f"{instruction}\n{caption}", []), {})

    def _prompt(self, text: str, tokens_of_images: Sequence[int]) -> str:
        """A chat of one question, with the images before the text."""
        content = [*({"type": "image"} for _ in tokens_of_images), {"type": "text", "text": text}]
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, *after = str(chat).split(IMAGE_TOKEN, len(tokens_of_images))
        expanded = (IMAGE_TOKEN * number + part for number, part in zip(tokens_of_images, after, strict=True))
        return before + "".join(expanded)

    @torch.inference_mode()
    def _answer(self, prompt: str, images: dict[str, torch.Tensor]) -> str:
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids.to(self.model.device)
        is_image = (ids == self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)).long()
        found = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=is_image,  # without them the model takes images for text and gives all patches one position
            generation_config=self._greedy(),
            **images,
        )
        return " ".join(self.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True).split())

    def _greedy(self) -> GenerationConfig:
        """The most likely word after every word; of the folder's settings only where an answer ends."""
        own = self.model.generation_config
        end = own.eos_token_id if own is not None and own.eos_token_id is not None else self.tokenizer.eos_token_id
        return GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens, eos_token_id=end,
            pad_token_id=self.tokenizer.pad_token_id,
        )  # fmt: skip
