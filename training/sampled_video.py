"""A video that the model makes while it trains: sampled by the ranks, kept as latents, made into pictures elsewhere.

It begins with a held-out clip's first frame and prompt, and its noise is the same at every step and in every stage, so
that videos compare. All ranks sample all of it: under ZeRO-3 a forward pass needs every rank.

Shapes: C latent channels, T latent frames, H and W latent rows and columns.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from preprocessing.codecs.base import Codec, Latents
from preprocessing.members import StoredSample
from preprocessing.samples import LATENTS_PER_SEGMENT, clip_num_frames
from training.batches import TrainingData, clip_batch
from training.config import SampleConfig, ValidationConfig
from training.engine.base import Engine
from training.generation import describe, segment_noise, write_video
from training.loop import StageSettings, validation_task
from training.model.memory_pack import MemoryPackTransformer3DModel, first_context
from training.objectives.base import Objective, SegmentTask
from training.sampling import advance, sample_segment, schedule
from training.types import SegmentBatch, SegmentContext, StepOutput


@dataclass(frozen=True, kw_only=True)
class SampledVideo:
    """Latents of a video, and all that is needed to make pictures of them.

    Attributes:
        step: Optimizer steps that the model had done.
        clip_id: Held-out clip that it begins with.
        prompt: Of that clip.
        seed: Of the noise.
        fps: Frames a second.
        codec_id: Codec of the latents.
        start_latent_CTHW: The clip's first frame, T = 1, fp32.
        segments_CTHW: What the model made, T = 9 n, fp32.
    """

    step: int
    clip_id: str
    prompt: str
    seed: int
    fps: float
    codec_id: str
    start_latent_CTHW: Tensor
    segments_CTHW: Tensor

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"SampledVideo(step {self.step}, {self.clip_id}, segments={tuple(self.segments_CTHW.shape)})"


def sample_video(
    engine: Engine,
    settings: StageSettings,
    clip: StoredSample,
    data: TrainingData,
    config: ValidationConfig,
    step: int,
) -> SampledVideo:
    """What the model makes of a clip's first frame and prompt; all ranks must call it, with the same clip.

    Args:
        engine: Holds the model.
        settings: Of the stage.
        clip: Held out.
        data: What it belongs to.
        config: Length, guidance and denoising steps.
        step: Optimizer steps done.
    """
    batch = clip_batch([clip], (0,), num_segments=1, device=engine.device)
    return SampledVideo(
        step=step,
        clip_id=clip.key,
        prompt=str(clip.metadata["caption"]),
        seed=settings.seed,
        fps=data.fps,
        codec_id=data.codec.codec_id,
        start_latent_CTHW=batch.start_latent_BCTHW[0].cpu(),
        segments_CTHW=sample_segments(engine, settings, batch, config),
    )


def sample_segments(engine: Engine, settings: StageSettings, batch: SegmentBatch, config: ValidationConfig) -> Tensor:
    """The segments after the start image of a batch of one clip, (C, 9 n, H, W), as `roll_out` makes them of this noise."""
    assert config.video is not None
    sampled = sampled_segment(config.sample, guidance_scale=config.video.guidance_scale)
    segments: list[Tensor] = []
    context: SegmentContext | None = None
    with torch.no_grad():
        # a forward pass of the engine for each segment, by which the watchdog sees that it goes on
        for n in range(config.video.num_segments):
            context = engine.forward(sampled, validation_task(settings, batch, n, context)).next_context
            assert context is not None
            segments.append(context.history_BCTHW[0, :, -LATENTS_PER_SEGMENT:].cpu())
    return torch.cat(segments, dim=1)


def sampled_segment(sampling: SampleConfig, *, guidance_scale: float) -> Objective:
    """A segment made from noise, which is the end of the history that it leaves; it has no loss to train on."""
    times = schedule(sampling.num_inference_steps, sampling.shift)

    def objective(model: MemoryPackTransformer3DModel, task: SegmentTask) -> StepOutput:
        start, condition = task.batch.start_latent_BCTHW, task.batch.condition
        context = first_context(start) if task.context is None else task.context
        _, C, _, H, W = start.shape
        segment = sample_segment(
            model,
            context,
            condition,
            noise=segment_noise(task.key.seed, task.segment_index, (C, LATENTS_PER_SEGMENT, H, W)).to(start.device),
            times=times,
            guidance_scale=guidance_scale,
            rope_mode=task.rope_mode,
        )
        following = advance(model, context, condition, segment)
        return StepOutput(loss=start.new_zeros(()), next_context=following, clip_losses=None, metrics={})

    return objective


def save_video(video: SampledVideo, folder: Path) -> Path:
    """Write ``step-<step>.safetensors``, whole or not at all; replaces that of an earlier attempt, whose bytes are the same."""
    path = folder / f"step-{video.step:08}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"start_latent": video.start_latent_CTHW, "segments": video.segments_CTHW}
    plain = {name: value for name, value in vars(video).items() if not isinstance(value, Tensor)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # one text: safetensors writes several in any order, and the same video must be the same bytes
    temporary.write_bytes(save(tensors, metadata={"video": json.dumps(plain)}))
    temporary.replace(path)
    return path


def saved_videos(folder: Path) -> tuple[Path, ...]:
    """All that `save_video` wrote into a folder, by step; none where there is no folder."""
    return tuple(sorted(folder.glob("step-*.safetensors")))


def load_video(path: Path) -> SampledVideo:
    """What `save_video` wrote."""
    with safe_open(path, framework="pt") as file:
        return SampledVideo(
            **json.loads(file.metadata()["video"]),
            start_latent_CTHW=file.get_tensor("start_latent"),
            segments_CTHW=file.get_tensor("segments"),
        )


def decode_video(video: SampledVideo, codec: Codec, out: Path) -> None:
    """Write the pictures as mp4, and beside it the JSON that says which of them the model made.

    Args:
        video: From `load_video`.
        codec: That of the latents.
        out: The mp4 file; its folder must exist.

    Raises:
        ValueError: If the codec is another.
    """
    record = codec.record
    if record.codec_id != video.codec_id:
        raise ValueError(
            f"the training clips are latents of the codec {video.codec_id}, the recipe names {record.codec_id}; set"
            f" encode.codec={video.codec_id}"
        )
    _, T, H, W = video.segments_CTHW.shape
    made = describe(clip_num_frames(T // LATENTS_PER_SEGMENT), video.fps, video.prompt, video.seed)
    size_px = (H * record.spatial_stride, W * record.spatial_stride)
    write_video(codec.decode_stream(_chunks(video)), out, made, size_px, {"clip_id": video.clip_id, "step": video.step})


def _chunks(video: SampledVideo) -> Iterator[Latents]:
    """The start latent, then one segment after another."""
    yield video.start_latent_CTHW.numpy()
    for segment in video.segments_CTHW.split(LATENTS_PER_SEGMENT, dim=1):
        yield segment.numpy()
