"""The production codec: HunyuanVideo's VAE, Llama and CLIP for captions, SigLIP for pictures; home of diffusers here.

Captions and pictures go through diffusers' own `HunyuanVideoFramepackPipeline`, built without its transformer, so that
training sees the features that generation will. The VAE encodes a clip tile by tile in time as
`AutoencoderKLHunyuanVideo.encode` does for the whole clip, but holds one tile of pixels; decoding joins segments as the
pipeline does (FramePack's soft append).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel, SiglipImageProcessorPil, SiglipVisionModel

from preprocessing.codecs.base import Frame, Latents, check_size, first_and_groups, start_and_segments
from preprocessing.codecs.weights import locate, weights_sha256
from preprocessing.config import HunyuanPaths
from preprocessing.samples import FRAMES_PER_LATENT, CodecRecord, TextFeatures

VERSION = 1
"""Bumped by hand when the same weights would give other latents or features."""

TEXT_TOKENS = 256
"""Caption tokens after the template is cropped (`max_sequence_length` of the pipeline)."""

TILE_FRAMES = 16
"""A temporal tile of the VAE holds one frame more than this."""

TILE_STRIDE = 12
"""Frames from one temporal tile to the next."""

VAE_OPTIONS: Mapping[str, bool | int] = {
    "use_slicing": False,
    "use_tiling": False,
    "use_framewise_encoding": True,
    "use_framewise_decoding": True,
    "tile_sample_min_num_frames": TILE_FRAMES,
    "tile_sample_stride_num_frames": TILE_STRIDE,
}
"""Pinned and recorded: other values give other latents (diffusers' defaults)."""


def vae_options(spatial_tile_px: int | None) -> dict[str, bool | int]:
    """`VAE_OPTIONS`, with spatial tiles that overlap by a quarter if a side is given."""
    if spatial_tile_px is None:
        return dict(VAE_OPTIONS)
    tile, stride = spatial_tile_px, spatial_tile_px * 3 // 4
    sizes = {"tile_sample_min_height": tile, "tile_sample_min_width": tile}
    strides = {"tile_sample_stride_height": stride, "tile_sample_stride_width": stride}
    return {**VAE_OPTIONS, "use_tiling": True, **sizes, **strides}


MODELS = ("vae", "text_encoder", "text_encoder_2", "image_encoder")
"""Parts with weights, by the names of the pipeline and of the settings."""

BESIDE = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "feature_extractor": "image_encoder"}
"""Parts without weights, and the model in whose folder they lie if their setting is empty."""


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The loaded models, and which weights they are.

    Attributes:
        pipeline: The FramePack pipeline with every part but the transformer and the scheduler.
        vae: Its VAE.
        weights_sha256: Hash of all safetensors files.
        options: What else decides about the numbers.
    """

    pipeline: HunyuanVideoFramepackPipeline
    vae: AutoencoderKLHunyuanVideo
    weights_sha256: str
    options: dict[str, object]


def load_hunyuan_codec(paths: HunyuanPaths, *, device: str) -> "HunyuanCodec":
    """Load the encoders from local folders or the hub's cache.

    Raises:
        ValueError: If a part is missing, saying which setting names it.
    """
    dtype = getattr(torch, paths.dtype)
    folders = _folders(paths)

    def model(part: str, kind: Any, **options: object) -> Any:  # noqa: ANN401 - whichever class it is
        return _load(part, kind, folders[part], use_safetensors=True, **options)  # a pickle is never read

    vae = model("vae", AutoencoderKLHunyuanVideo, torch_dtype=dtype)
    options = vae_options(paths.spatial_tile_px)
    for name, value in options.items():
        setattr(vae, name, value)
    pipeline = HunyuanVideoFramepackPipeline(
        vae=vae,
        text_encoder=model("text_encoder", LlamaModel, dtype=dtype),
        tokenizer=_load("tokenizer", AutoTokenizer, folders["tokenizer"]),
        text_encoder_2=model("text_encoder_2", CLIPTextModel, dtype=dtype),
        tokenizer_2=_load("tokenizer_2", AutoTokenizer, folders["tokenizer_2"]),
        image_encoder=model("image_encoder", SiglipVisionModel, dtype=dtype),
        # The PIL class by name: the other one needs torchvision and would give other pixels where it is installed.
        feature_extractor=_load("feature_extractor", SiglipImageProcessorPil, folders["feature_extractor"]),
        transformer=None,  # type: ignore[arg-type]  # diffusers allows any part to be absent
        scheduler=None,  # type: ignore[arg-type]
    )
    pipeline.to(device)
    hashes = [weights_sha256(folders[part]) for part in MODELS]
    return HunyuanCodec(
        Encoders(
            pipeline=pipeline,
            vae=vae,
            weights_sha256=hashlib.sha256("".join(hashes).encode()).hexdigest(),
            options={"version": VERSION, "dtype": paths.dtype, **options},
        )
    )


def _folders(paths: HunyuanPaths) -> dict[str, Path]:
    """Where every part lies; a tokenizer that nobody named lies with its model."""
    folders = {part: _folder(paths, part) for part in MODELS}
    beside = {part: _folder(paths, part) if getattr(paths, part) else folders[model] for part, model in BESIDE.items()}
    return folders | beside


def _folder(paths: HunyuanPaths, part: str) -> Path:
    return locate(
        f"encode.hunyuan.{part}",
        getattr(paths, part),
        revision=paths.revision,
        allow_download=paths.allow_download,
    )


def _load(part: str, kind: Any, folder: Path, **options: object) -> Any:  # noqa: ANN401 - whichever class it is
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except OSError as error:
        raise ValueError(f"encode.hunyuan.{part}: {folder} does not hold it: {error}") from error


def to_pixels(frames: list[Frame]) -> Tensor:
    """Bytes to the pipeline's pixels in [-1, 1], (1, 3, len(frames), height_px, width_px) in fp32.

    The same operations in the same order as diffusers' `VideoProcessor`, so that the bits agree.
    """
    pixels_THWC = torch.from_numpy(np.stack(frames)).float() / 255.0
    return (2.0 * pixels_THWC - 1.0).permute(3, 0, 1, 2)[None]


def to_frames(video_CTHW: Tensor) -> NDArray[np.uint8]:
    """Pixels in [-1, 1] to bytes, (T, height_px, width_px, 3)."""
    pixels = (video_CTHW.float() / 2 + 0.5).clamp(0, 1).mul(255).round()
    return pixels.permute(1, 2, 3, 0).to("cpu", torch.uint8).numpy()


def soft_append(history_CTHW: Tensor, current_CTHW: Tensor, overlap: int) -> Tensor:
    """Blend the last `overlap` frames of the history linearly into the first of what follows (FramePack)."""
    weights = torch.linspace(1, 0, overlap, dtype=history_CTHW.dtype, device=history_CTHW.device).view(1, -1, 1, 1)
    blended = weights * history_CTHW[:, -overlap:] + (1 - weights) * current_CTHW[:, :overlap]
    return torch.cat([history_CTHW[:, :-overlap], blended, current_CTHW[:, overlap:]], dim=1)


class HunyuanCodec:
    """A `Codec` of HunyuanVideo's encoders; one temporal tile or two segments of pixels in memory at a time."""

    def __init__(self, encoders: Encoders) -> None:
        """Hold the encoders to the geometry of the grid.

        Raises:
            ValueError: If the VAE does not put four frames into a latent.
        """
        self._encoders = encoders
        self._pipeline = encoders.pipeline
        self._vae = encoders.vae
        if self._vae.temporal_compression_ratio != FRAMES_PER_LATENT:
            raise ValueError(
                f"encode.hunyuan.vae puts {self._vae.temporal_compression_ratio} frames into a latent; expected {FRAMES_PER_LATENT}"
            )

    @property
    def record(self) -> CodecRecord:
        """Sizes as the loaded models' configurations say."""
        image = self._pipeline.image_encoder.config
        return CodecRecord(
            codec_id="hunyuan",
            latent_channels=self._vae.config["latent_channels"],
            spatial_stride=self._vae.spatial_compression_ratio,
            text_dim=self._pipeline.text_encoder.config.hidden_size,
            text_tokens=TEXT_TOKENS,
            pooled_dim=self._pipeline.text_encoder_2.config.hidden_size,
            image_dim=image.hidden_size,
            image_tokens=(image.image_size // image.patch_size) ** 2,
            weights_sha256=self._encoders.weights_sha256,
            options=self._encoders.options,
        )

    @torch.inference_mode()
    def encode_video(self, frames: Iterable[Frame]) -> Latents:
        """Exactly `vae.encode(clip).latent_dist.mode() * scaling_factor`, one temporal tile after the other."""
        pieces: list[Tensor] = []
        previous: Tensor | None = None
        for tile in self._tiles(frames):
            latents = self._mode(tile)
            if previous is not None:
                latents = self._vae.blend_t(
                    previous, latents[:, :, 1:], (TILE_FRAMES - TILE_STRIDE) // FRAMES_PER_LATENT
                )
            pieces.append(latents[:, :, : TILE_STRIDE // FRAMES_PER_LATENT + (previous is None)])
            previous = latents
        return self._scaled(torch.cat(pieces, dim=2))

    @torch.inference_mode()
    def encode_image(self, frame: Frame) -> Latents:
        """The picture encoded alone; it differs from the first latent of its clip, because GroupNorm spans time."""
        check_size(frame, self._vae.spatial_compression_ratio)
        return self._scaled(self._mode([frame]))

    @torch.inference_mode()
    def encode_text(self, caption: str) -> TextFeatures:
        """The pipeline's `encode_prompt`: Llama's third last hidden state without the template, CLIP pooled."""
        llama_1LD, pooled_1D, mask_1L = self._pipeline.encode_prompt(caption, max_sequence_length=TEXT_TOKENS)
        assert mask_1L is not None, "the pipeline gives no mask only where it is given embeddings"
        return TextFeatures(
            llama_LD=llama_1LD[0].float().cpu().numpy(),
            mask_L=mask_1L[0].to("cpu", torch.int64).numpy(),
            clip_pooled_D=pooled_1D[0].float().cpu().numpy(),
        )

    @torch.inference_mode()
    def image_features(self, frame: Frame) -> NDArray[np.float32]:
        """The pipeline's `encode_image`: SigLIP's last hidden state, (N, D)."""
        height_px, width_px, _ = frame.shape
        pixels = self._pipeline.video_processor.preprocess(Image.fromarray(frame), height_px, width_px)
        return self._pipeline.encode_image(pixels)[0].float().cpu().numpy()

    def decode_stream(self, chunks: Iterable[Latents]) -> Iterator[Frame]:
        """Decode as the pipeline's vanilla sampling does: two segments at a time, joined by a linear blend."""
        start, segments = start_and_segments(chunks)
        previous, held = start, self._decode(start)
        for k, segment in enumerate(segments):
            window = self._decode(np.concatenate([previous, segment], axis=1))
            # The first segment is decoded together with the start latent, which replaces the picture decoded alone.
            joined = (
                window if k == 0 else soft_append(held, window, window.shape[1] - FRAMES_PER_LATENT * segment.shape[1])
            )
            ready = joined.shape[1] - (FRAMES_PER_LATENT * (segment.shape[1] - 1) + 1)
            yield from to_frames(joined[:, :ready])
            previous, held = segment, joined[:, ready:]
        yield from to_frames(held)

    def _tiles(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        """Overlapping runs of frames: the temporal tiles of `AutoencoderKLHunyuanVideo`, less its empty last one."""
        tile: list[Frame] = []
        for frame in chain.from_iterable(first_and_groups(frames)):
            check_size(frame, self._vae.spatial_compression_ratio)
            tile.append(frame)
            if len(tile) == TILE_FRAMES + 1:
                yield tile
                tile = tile[TILE_STRIDE:]
        yield tile

    def _mode(self, frames: list[Frame]) -> Tensor:
        """Unscaled posterior mode of one tile, (1, C, T, H, W)."""
        pixels = to_pixels(frames).to(self._vae.device, self._vae.dtype)
        moments = self._moments(pixels)
        return moments.chunk(2, dim=1)[0]

    def _moments(self, pixels_BCTHW: Tensor) -> Tensor:
        """Mean and log variance, in spatial tiles where that is on and the picture is larger than one."""
        *_, height_px, width_px = pixels_BCTHW.shape
        tile_px = self._vae.tile_sample_min_height, self._vae.tile_sample_min_width
        if self._vae.use_tiling and (height_px > tile_px[0] or width_px > tile_px[1]):
            return self._vae.tiled_encode(pixels_BCTHW)  # type: ignore[return-value]  # annotated as another class
        return self._vae.quant_conv(self._vae.encoder(pixels_BCTHW))

    def _scaled(self, mode_BCTHW: Tensor) -> Latents:
        return (mode_BCTHW[0] * self._vae.config["scaling_factor"]).float().cpu().numpy()

    @torch.inference_mode()
    def _decode(self, latents_CTHW: Latents) -> Tensor:
        """Pixels of a run of latents, (3, 1 + 4 (T - 1), height_px, width_px)."""
        latents = torch.from_numpy(latents_CTHW)[None].to(self._vae.device, self._vae.dtype)
        return self._vae.decode(latents / self._vae.config["scaling_factor"], return_dict=False)[0][0]
