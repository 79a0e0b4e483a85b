"""MemoryPack: SemanticPack's tokens in the context stream of the diffusers FramePack transformer, which is not forked.

The backbone takes what `context_embedder` makes of the prompt into its context stream, as long as a mask says. So that
layer is replaced by one with the same parameters that puts the memory tokens before the text tokens; nothing else of
the backbone changes, and without memory the output is the backbone's to the last bit. The tokens of the context stream
have no positions, so their order is free: image, then the real tokens of memory and text, and padding last, where the
backbone's mask expects it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTokenRefiner
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.config import MemoryConfig
from training.flow_matching import timestep_of, velocity_of_backbone
from training.model.frame_pack import append_history, empty_history, pack_history
from training.model.rope import ROPE_THETA, RopeMode, TemporalIndices, temporal_indices, warn_if_positions_repeat
from training.model.semantic_pack import SemanticPack
from training.types import Condition, Memory, SegmentContext

GUIDANCE_UNIT = 1000.0
"""The backbone's guidance embedding takes 1000 times the scale (FramePack)."""


class ContextEmbedder(HunyuanVideoTokenRefiner):
    """The backbone's text embedder, with memory tokens before what it returns, if any, and padding last."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, text_and_memory: tuple[Tensor, Tensor, Memory | None], timestep: Tensor, _context_mask: Tensor
    ) -> Tensor:
        """Memory and text tokens, (B, N + L, D), those that are real first.

        Args:
            text_and_memory: Text features (B, L, features), their mask, and psi.
            timestep: The backbone's, (B,).
        """
        text_BLD, text_mask_BL, memory = text_and_memory
        # diffusers declares integers, and takes all numbers
        refined = super().forward(text_BLD, timestep, text_mask_BL)  # pyright: ignore[reportArgumentType]
        if memory is None:
            return refined
        tokens = torch.cat([memory.tokens_BND, refined], dim=1)
        order = (context_mask(memory, text_mask_BL) == 0).int().argsort(dim=1, stable=True)
        return tokens.gather(1, order[:, :, None].expand_as(tokens))


def context_mask(memory: Memory, text_mask_BL: Tensor) -> Tensor:
    """Which tokens of memory and text are real, (B, N + L)."""
    return torch.cat([memory.mask_BN.to(text_mask_BL.dtype), text_mask_BL], dim=1)


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
        rope_theta: float = ROPE_THETA,
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
        self.context_embedder = ContextEmbedder(
            text_embed_dim, num_attention_heads, attention_head_dim, num_layers=num_refiner_layers
        )
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
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        memory: Memory | None = None,
        return_dict: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor] | Transformer2DModelOutput:
        """The backbone's forward pass, which see; every tensor it calls optional must be given.

        Args:
            args: As the backbone's.
            encoder_hidden_states: Text features, (B, L, features).
            encoder_attention_mask: 1 for a real text token, 0 for padding, (B, L).
            memory: psi with tokens of the backbone's width; None is no memory.
            return_dict: False for a tuple.
            kwargs: As the backbone's.
        """
        # the backbone hands the tuple to ContextEmbedder, unread
        text_and_memory: Any = (encoder_hidden_states, encoder_attention_mask, memory)
        if memory is not None:
            mask = context_mask(memory, encoder_attention_mask)
            encoder_attention_mask = mask.sort(dim=1, descending=True).values
        return super().forward(
            *args,
            encoder_hidden_states=text_and_memory,
            encoder_attention_mask=encoder_attention_mask,
            return_dict=return_dict,
            **kwargs,
        )


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
        memory = _updated(model, model.semantic_pack, psi, segment_BCTHW)
    return replace(
        context,
        history_BCTHW=append_history(context.history_BCTHW, segment_BCTHW),
        memory=memory,
        segment_index=context.segment_index + 1,
    )


def _updated(
    model: MemoryPackTransformer3DModel, semantic_pack: SemanticPack, psi: Memory, segment_BCTHW: Tensor
) -> Memory:
    """The memory after a segment; where activations are checkpointed, the backward pass recomputes its too."""
    if model.is_gradient_checkpointing and torch.is_grad_enabled():
        return checkpoint(semantic_pack.update, psi, segment_BCTHW, use_reentrant=False)
    return semantic_pack.update(psi, segment_BCTHW)


def context_memory(model: MemoryPackTransformer3DModel, context: SegmentContext) -> Memory | None:
    """What the backbone reads of psi, None before the first segment and where there is no memory."""
    if model.semantic_pack is None or context.memory is None:
        return None
    return model.semantic_pack.as_context(context.memory)


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
        memory=context_memory(model, context),
        return_dict=False,
        **_condition_arguments(condition, model.dtype),
        **_history_arguments(context, indices, model.dtype),
    )
    return velocity_of_backbone(output[0])


def warn_if_too_long(model: MemoryPackTransformer3DModel, num_segments: int, rope_mode: RopeMode) -> None:
    """Log a warning where a video of so many segments is longer than the model's positions can tell."""
    theta, temporal_dim = model.config["rope_theta"], model.config["rope_axes_dim"][0]
    warn_if_positions_repeat(num_segments, rope_mode, temporal_dim=temporal_dim, theta=theta)


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
