"""Start image and prompt to a video of any length, in constant memory, written while it grows."""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from preprocessing.codecs.base import Codec
from preprocessing.plan import nearest_size
from preprocessing.samples import FRAMES_PER_SEGMENT, LATENTS_PER_SEGMENT
from preprocessing.video_io.write import Mp4Writer
from training.config import GenerateConfig
from training.model.memory_pack import MemoryPackTransformer3DModel
from training.model.weights import ModelRecord
from training.order import keyed_normals
from training.sampling import roll_out, schedule
from training.types import Condition, GeneratedVideo, RandomKey

Picture = NDArray[np.uint8]
"""RGB, (H, W, 3)."""

logger = logging.getLogger(__name__)


def generate(
    model: MemoryPackTransformer3DModel,
    record: ModelRecord,
    codec: Codec,
    *,
    image_HWC: Picture,
    prompt: str,
    seconds: float,
    settings: GenerateConfig,
    out: Path,
    request: str,
) -> GeneratedVideo:
    """Make a video of exactly ``round(seconds * fps)`` frames, and a JSON file beside it that says how: see `write_video`.

    Frame 0 is the start image's latent, decoded.

    Args:
        model: From `load_for_generate`.
        record: Its record: rate, sizes and positions.
        codec: The one that the model was trained with.
        image_HWC: Start image of any size; cut to the nearest of the model's sizes.
        prompt: What happens.
        seconds: Length.
        settings: Steps, guidance, seed and device.
        out: The mp4 file; its folder must exist.
        request: Names all that the video depends on; kept in the JSON, so that a request is not worked on twice.

    Raises:
        ValueError: If the length is less than one frame.
    """
    num_frames = round(seconds * record.fps)
    if num_frames < 1:
        raise ValueError(f"{seconds} s at {record.fps} fps is less than one frame")
    height_px, width_px = nearest_size(image_HWC.shape[0], image_HWC.shape[1], record.sizes_px)
    picture = cover(image_HWC, height_px, width_px)
    video = describe(num_frames, record.fps, prompt, settings.seed)
    frames = _frames(model, record, codec, picture, prompt, settings, num_segments=video.num_segments)
    made_by = {"weights_sha256": record.weights_sha256, "codec_id": record.codec.codec_id, **record.model.model_dump()}
    details = {"settings": settings.model_dump(), "model": made_by, "request": request}
    write_video(islice(frames, num_frames), out, video, (height_px, width_px), details)
    return video


def write_video(
    frames: Iterable[Picture], out: Path, video: GeneratedVideo, size_px: tuple[int, int], details: Mapping[str, object]
) -> None:
    """Write a video, and a JSON file beside it that says how it was made.

    The video grows under ``OUT.part``, which plays at any moment, and gets its name when it is whole.

    Args:
        frames: As many as `video` says, of `size_px`.
        out: The mp4 file; its folder must exist.
        video: Written into the JSON.
        size_px: Height and width.
        details: What else stands there; JSON values.
    """
    height_px, width_px = size_px
    part = out.with_name(out.name + ".part")
    with Mp4Writer(part, fps=video.fps, width_px=width_px, height_px=height_px) as writer:
        for frame in frames:
            writer.write(frame)
    out.with_suffix(".json").unlink(missing_ok=True)  # of an older video: a record never stands beside another video
    part.replace(out)
    _write_record(out.with_suffix(".json"), asdict(video) | {"size_px": size_px, **details})


def num_segments_for(num_frames: int) -> int:
    """Segments that a video needs beside its start frame."""
    return math.ceil((num_frames - 1) / FRAMES_PER_SEGMENT)


def cover(image_HWC: Picture, height_px: int, width_px: int) -> Picture:
    """The image scaled until it covers the size, and cropped evenly."""
    fitted = ImageOps.fit(Image.fromarray(image_HWC), (width_px, height_px), method=Image.Resampling.LANCZOS)
    return np.asarray(fitted)


def condition_of(codec: Codec, picture_HWC: Picture, prompt: str, *, device: torch.device | str) -> Condition:
    """What the codec says of a prompt and a start image, as a batch of one."""
    text = codec.encode_text(prompt)
    return Condition(
        text_BLD=_batch_of_one(text.llama_LD, device),
        text_mask_BL=_batch_of_one(text.mask_L, device),
        pooled_BD=_batch_of_one(text.clip_pooled_D, device),
        image_BND=_batch_of_one(codec.image_features(picture_HWC), device),
    )


def segment_noise(seed: int, segment_index: int, shape_CTHW: tuple[int, int, int, int]) -> Tensor:
    """The noise of one segment, (1, C, T, H, W): any segment's is had without drawing the others'."""
    key = RandomKey(seed=seed, stage="generate", step=0)
    return keyed_normals(key, positions=(0,), segment=segment_index, shape=shape_CTHW)


def _batch_of_one(array: NDArray[np.float32] | NDArray[np.int64], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.array(array))[None].to(device)


def describe(num_frames: int, fps: float, prompt: str, seed: int) -> GeneratedVideo:
    """What a video of so many frames will be: the start image, then segments."""
    starts = range(1, num_frames, FRAMES_PER_SEGMENT)
    return GeneratedVideo(
        num_frames=num_frames,
        fps=fps,
        prompt=prompt,
        seed=seed,
        num_segments=num_segments_for(num_frames),
        conditioning=((0, 1),),
        generated=tuple((start, min(start + FRAMES_PER_SEGMENT, num_frames)) for start in starts),
    )


def _frames(
    model: MemoryPackTransformer3DModel,
    record: ModelRecord,
    codec: Codec,
    picture_HWC: Picture,
    prompt: str,
    settings: GenerateConfig,
    *,
    num_segments: int,
) -> Iterator[Picture]:
    model = model.to(settings.device).eval()  # pyright: ignore[reportArgumentType] - diffusers annotates a module
    start_CTHW = codec.encode_image(picture_HWC)
    C, _, H, W = start_CTHW.shape

    def chunks() -> Iterator[NDArray[np.float32]]:
        yield start_CTHW
        segments = roll_out(
            model,
            _batch_of_one(start_CTHW, settings.device),
            condition_of(codec, picture_HWC, prompt, device=settings.device),
            num_segments=num_segments,
            noise_of=lambda index: segment_noise(settings.seed, index, (C, LATENTS_PER_SEGMENT, H, W)),
            times=schedule(settings.num_inference_steps, settings.shift),
            guidance_scale=settings.guidance_scale,
            rope_mode=record.model.rope_mode,
        )
        for index, segment in enumerate(segments):
            logger.info("segment %d of %d", index + 1, num_segments)
            yield segment[0].cpu().numpy()

    return codec.decode_stream(chunks())


def _write_record(path: Path, values: Mapping[str, object]) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
