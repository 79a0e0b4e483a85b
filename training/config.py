"""Settings of the model, the objectives, the engine and generation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from preprocessing.config import Positive, Settings, Share

Steps = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class MemoryConfig(Settings):
    """SemanticPack, the long-term memory (paper, 3.1 and A.1)."""

    enabled: bool = True
    """False is FramePack-F1 alone."""
    width: Positive = 128
    """Features of a memory token."""
    kernel: tuple[Positive, Positive, Positive] = (3, 4, 4)
    """Latent frames, rows and columns behind one memory token."""
    window: tuple[Positive, Positive, Positive] = (3, 2, 2)
    """Memory tokens (t, h, w) that attend to each other in Memorize."""
    depth: Positive = 1
    """Blocks in each of Memorize and Squeeze."""
    num_heads: Positive = 4
    """Attention heads."""
    structure: Literal["A"] = "A"
    """How Squeeze fuses (paper, A.1): A, visual queries over psi."""
    init: Literal["guidance", "zero"] = "guidance"
    """psi_0: prompt and image features, or zeros of their shape (paper, Table 2: zero-MemoryPack)."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"a width of {self.width} does not divide into {self.num_heads} heads")
        return self


class ModelConfig(Settings):
    """The backbone, from the table in `training/model/presets.py`, and its memory."""

    preset: Literal["tiny", "demo", "small", "framepack_f1"] = "tiny"
    """A name of that table."""
    memory: MemoryConfig = MemoryConfig()
    """Long-term memory."""
    rope_mode: Literal["f1", "relative_start", "absolute"] = "relative_start"
    """Temporal index of the start image (paper, 3.1, RoPE consistency)."""


class FlowConfig(Settings):
    """How times are drawn and the loss is weighted."""

    logit_mean: float = 0.0
    """Mean of the normal whose sigmoid is sigma."""
    logit_std: Annotated[float, Field(gt=0)] = 1.0
    """Its standard deviation."""
    shift: Annotated[float, Field(gt=0)] = 3.0
    """sigma <- s sigma / (1 + (s - 1) sigma); more noise for s > 1."""
    guidance_scale: Annotated[float, Field(ge=0)] = 1.0
    """Guidance embedding given in training."""


class OptimizerConfig(Settings):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate (paper, 4.1)."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of the moment estimates."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    warmup_steps: Steps = 0
    """Steps of linear warm-up."""
    decay: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradient norm at which gradients are clipped; 0 never clips."""


class EngineConfig(Settings):
    """DeepSpeed ZeRO over the workers of Ray Train."""

    num_workers: Positive = 2
    """Ranks."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is partitioned: 0 nothing, 1 optimizer states, 2 gradients as well, 3 parameters as well."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of weights and activations."""
    use_gpu: bool = False
    """One GPU a rank and NCCL; else the CPU and gloo."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that Ray sets aside for a rank."""
    threads_per_worker: Positive = 1
    """torch threads of a rank on the CPU."""
    activation_checkpointing: bool = False
    """Recompute the blocks in the backward pass."""


class TeacherConfig(Settings):
    """Stage 1: teacher forcing, all parameters (paper, 4.1)."""

    steps: Positive = 1000
    """Optimizer steps."""
    global_batch: Positive = 1
    """Clips a step, over all ranks (paper, 4.1: batch size 1)."""
    memory_dropout: Share = 0.1
    """Share of steps without memory tokens."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""


class DirectConfig(Settings):
    """Stage 2: Direct Forcing, `norm_out` and `proj_out` only (paper, 3.2 and A.2)."""

    steps: Positive = 100
    """Optimizer steps; each accumulates over all segments of the global batch."""
    global_batch: Positive = 1
    """Clips a step, over all ranks."""
    curriculum: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4, 8, 16, 40)
    """Caps on the number of segments, one after another in equal shares of the steps (paper, A.2)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""


class CheckpointConfig(Settings):
    """What is saved and how often."""

    every_steps: Positive = 100
    """Steps between checkpoints; the last step always saves."""
    keep: Positive = 2
    """Newest checkpoints that stay on disk."""


class ValidationConfig(Settings):
    """Loss on held-out clips with fixed times and noise."""

    every_steps: Positive = 100
    """Steps between validations; the first and last step always validate."""
    num_clips: Positive = 16
    """Held-out clips."""
    max_segments: Positive = 4
    """Leading segments of each that are scored."""


class TrainConfig(Settings):
    """Everything about training but the model."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random numbers."""
    engine: EngineConfig = EngineConfig()
    """Distribution."""
    flow: FlowConfig = FlowConfig()
    """Times and loss."""
    teacher: TeacherConfig = TeacherConfig()
    """Stage 1."""
    direct: DirectConfig = DirectConfig()
    """Stage 2."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    validation: ValidationConfig = ValidationConfig()
    """Held-out loss."""


class GenerateConfig(Settings):
    """The roll-out."""

    num_inference_steps: Positive = 25
    """Denoising steps of a segment (FramePack: 25)."""
    shift: Annotated[float, Field(gt=0)] = 7.0
    """Shift of the noise schedule (FramePack at 480p: the cap on mu always binds, e^mu = 7)."""
    guidance_scale: Annotated[float, Field(ge=0)] = 10.0
    """Guidance embedding (FramePack-F1 demo: 10)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise."""
    device: str = "cpu"
    """torch device."""
