"""MemoryPack: SemanticPack's tokens in the context stream of the diffusers FramePack transformer, which is not forked.

The backbone measures its context by what `image_projection` returns. So that layer is replaced by one with the same
parameters that appends the memory tokens to the image tokens; nothing else of the backbone changes, and without memory
tokens the output is the backbone's to the last bit. Order in the context stream: image, memory, text; its tokens have
no positions, and padded text must come last.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_hunyuan_video_framepack import FramepackClipVisionProjection
from torch import Tensor

from training.config import MemoryConfig
from training.flow_matching import timestep_of, velocity_of_backbone
from training.model.frame_pack import append_history, empty_history, pack_history
from training.model.rope import RopeMode, TemporalIndices, temporal_indices
from training.model.semantic_pack import SemanticPack
from training.types import Condition, SegmentContext

GUIDANCE_UNIT = 1000.0
"""The backbone's guidance embedding takes 1000 times the scale (FramePack)."""


class ContextProjection(FramepackClipVisionProjection):
    """The backbone's image projection, with memory tokens appended to what it returns."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image_and_memory: tuple[Tensor, Tensor | None]
    ) -> Tensor:
        """Image tokens (B, N, D) and behind them the memory tokens, if any."""
        image_BND, memory_tokens = image_and_memory
        projected = super().forward(image_BND)
        return projected if memory_tokens is None else torch.cat([projected, memory_tokens], dim=1)


class MemoryPackTransformer3DModel(HunyuanVideoFramepackTransformer3DModel):
    """The FramePack transformer with a long-term memory; `semantic_pack` is None where memory is off."""

    @register_to_config
    def __init__(  # noqa: D417 - diffusers describes the backbone's settings
        self,
        in_channels: int = 16,
        out_channels: int = 16,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        num_layers: int = 20,
        num_single_layers: int = 40,
        num_refiner_layers: int = 2,
        mlp_ratio: float = 4.0,
        patch_size: int = 2,
        patch_size_t: int = 1,
        qk_norm: str = "rms_norm",
        guidance_embeds: bool = True,
        text_embed_dim: int = 4096,
        pooled_projection_dim: int = 768,
        rope_theta: float = 256.0,
        rope_axes_dim: tuple[int, ...] = (16, 56, 56),
        image_condition_type: str | None = None,
        has_image_proj: int = True,
        image_proj_dim: int = 1152,
        has_clean_x_embedder: int = True,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        """The backbone's settings as diffusers has them (FramePack's where diffusers' own crash), and the memory's.

        Args:
            memory: `MemoryConfig` as plain values; None is FramePack alone.
        """
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            num_refiner_layers=num_refiner_layers,
            mlp_ratio=mlp_ratio,
            patch_size=patch_size,
            patch_size_t=patch_size_t,
            qk_norm=qk_norm,
            guidance_embeds=guidance_embeds,
            text_embed_dim=text_embed_dim,
            pooled_projection_dim=pooled_projection_dim,
            rope_theta=rope_theta,
            rope_axes_dim=rope_axes_dim,
            image_condition_type=image_condition_type,
            has_image_proj=has_image_proj,
            image_proj_dim=image_proj_dim,
            has_clean_x_embedder=has_clean_x_embedder,
        )
        inner_dim = num_attention_heads * attention_head_dim
        self.image_projection = ContextProjection(image_proj_dim, inner_dim)
        self.semantic_pack: SemanticPack | None = None
        # strict=False: a configuration read from JSON has lists where the settings have tuples
        settings = None if memory is None else MemoryConfig.model_validate(dict(memory), strict=False)
        if settings is not None and settings.enabled:
            self.semantic_pack = SemanticPack(
                settings,
                in_channels=in_channels,
                text_dim=text_embed_dim,
                image_dim=image_proj_dim,
                out_features=inner_dim,
            )

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *args: Any,  # noqa: ANN401 - the backbone's, whatever they are
        image_embeds: Tensor,
        memory_tokens: Tensor | None = None,
        return_dict: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor] | Transformer2DModelOutput:
        """The backbone's forward pass, which see; every tensor it calls optional must be given.

        Args:
            args: As the backbone's.
            image_embeds: Image features, (B, N, D).
            memory_tokens: Tokens of the backbone's width, (B, N, D), all real; None is no memory.
            return_dict: False for a tuple.
            kwargs: As the backbone's.
        """
        image_and_memory: Any = (image_embeds, memory_tokens)  # the backbone hands it to ContextProjection, unread
        return super().forward(*args, image_embeds=image_and_memory, return_dict=return_dict, **kwargs)


def first_context(start_latent_BCTHW: Tensor) -> SegmentContext:
    """What is known before segment 0: the start image alone. Without memory tokens this is image-to-video as in F1."""
    history = empty_history(start_latent_BCTHW)
    return SegmentContext(history_BCTHW=history, memory=None, start_latent_BCTHW=start_latent_BCTHW, segment_index=0)


def next_context(
    model: MemoryPackTransformer3DModel, context: SegmentContext, condition: Condition, segment_BCTHW: Tensor
) -> SegmentContext:
    """What is known after a segment: it joins the history, and psi advances (paper, eq. 1).

    psi_0 comes from the condition and is only ever read by the first update; gradients flow into it and through all
    updates, unless the caller detaches.

    Args:
        model: Owner of the memory.
        context: What was known when the segment was made.
        condition: Prompt and image.
        segment_BCTHW: Clean latents of the segment, given or generated, T = 9.
    """
    memory = context.memory
    if model.semantic_pack is not None:
        psi = model.semantic_pack.initial_memory(condition) if memory is None else memory
        memory = model.semantic_pack.update(psi, segment_BCTHW)
    return replace(
        context,
        history_BCTHW=append_history(context.history_BCTHW, segment_BCTHW),
        memory=memory,
        segment_index=context.segment_index + 1,
    )


def memory_tokens(model: MemoryPackTransformer3DModel, context: SegmentContext) -> Tensor | None:
    """Context tokens of the backbone that carry psi, None where there is no memory.

    psi_0, the only memory with padded tokens, is never read here: memory begins with psi_1, whose tokens are all real.
    """
    if model.semantic_pack is None or context.memory is None:
        return None
    assert context.segment_index > 0, "psi_0 has padded tokens, which the context stream cannot mask"
    return model.semantic_pack.context_tokens(context.memory)


def predict_velocity(
    model: MemoryPackTransformer3DModel,
    x_t: Tensor,
    t: Tensor,
    context: SegmentContext,
    condition: Condition,
    *,
    guidance_scale: float,
    rope_mode: RopeMode,
) -> Tensor:
    """The model's d x_t / d t, in fp32 and the paper's sign and time.

    Args:
        model: Backbone and memory.
        x_t: Noised segment, (B, C, 9, H, W).
        t: Time in [0, 1], (B,); 0 is noise.
        context: History, memory and start image.
        condition: Prompt and image.
        guidance_scale: Guidance embedding.
        rope_mode: Where the start image sits on the time axis.
    """
    indices = temporal_indices(context.segment_index, rope_mode, device=x_t.device)
    output = model(
        hidden_states=x_t.to(model.dtype),
        timestep=timestep_of(t),
        guidance=x_t.new_full((len(x_t),), GUIDANCE_UNIT * guidance_scale, dtype=torch.float32),
        memory_tokens=memory_tokens(model, context),
        return_dict=False,
        **_condition_arguments(condition, model.dtype),
        **_history_arguments(context, indices, model.dtype),
    )
    return velocity_of_backbone(output[0])


def _condition_arguments(condition: Condition, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "encoder_hidden_states": condition.text_BLD.to(dtype),
        "encoder_attention_mask": condition.text_mask_BL,
        "pooled_projections": condition.pooled_BD.to(dtype),
        "image_embeds": condition.image_BND.to(dtype),
    }


def _history_arguments(context: SegmentContext, indices: TemporalIndices, dtype: torch.dtype) -> dict[str, Tensor]:
    packed = pack_history(context.history_BCTHW, context.start_latent_BCTHW)
    return {
        "indices_latents": indices.segment,
        "latents_clean": packed.clean_BCTHW.to(dtype),
        "indices_latents_clean": indices.clean,
        "latents_history_2x": packed.history_2x_BCTHW.to(dtype),
        "indices_latents_history_2x": indices.history_2x,
        "latents_history_4x": packed.history_4x_BCTHW.to(dtype),
        "indices_latents_history_4x": indices.history_4x,
    }
