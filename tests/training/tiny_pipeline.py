"""The pipeline of diffusers around a tiny transformer, with a tiny VAE and SigLIP of random weights."""

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
)
from torch import Tensor
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from training.types import Condition

NUM_SEGMENTS, NUM_STEPS, SIZE_PX = 3, 4, 32


def tiny_pipeline(transformer: HunyuanVideoFramepackTransformer3DModel, shift: float) -> HunyuanVideoFramepackPipeline:
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(2, 2, 2, 2),
        layers_per_block=1,
        norm_num_groups=2,
    )
    siglip = SiglipVisionConfig(
        hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    pipeline = HunyuanVideoFramepackPipeline(
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        text_encoder_2=None,  # pyright: ignore[reportArgumentType]
        tokenizer_2=None,  # pyright: ignore[reportArgumentType]
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        image_encoder=SiglipVisionModel(siglip),
        feature_extractor=SiglipImageProcessorPil(size={"height": 16, "width": 16}),  # pyright: ignore[reportArgumentType]
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(pipeline: HunyuanVideoFramepackPipeline, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
    """Start latent, image features, and the latents of all segments, as diffusers computes them."""
    image = torch.rand(1, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(3))
    latents = pipeline(
        image=image,
        prompt_embeds=condition.text_BLD,
        pooled_prompt_embeds=condition.pooled_BD,
        prompt_attention_mask=condition.text_mask_BL,
        height=SIZE_PX,
        width=SIZE_PX,
        num_frames=NUM_SEGMENTS * 33,
        num_inference_steps=NUM_STEPS,
        guidance_scale=6.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        sampling_type="vanilla",
        return_dict=False,
    )[0][-1]
    embeds = pipeline.encode_image(pipeline.video_processor.preprocess(image, SIZE_PX, SIZE_PX), dtype=torch.float32)
    return latents[:, :, :1], embeds.detach(), latents[:, :, 1:]
