"""Settings of the model, the objectives, the engine and generation."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from preprocessing.config import Device, Positive, Settings, Share

StageName = Literal["teacher", "direct", "student"]
"""Training stages; direct and student share their settings."""

Steps = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Structure = Literal["A", "B", "C"]


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
    structure: Structure = "A"
    """What queries what in Squeeze (paper, A.1): A, the segment queries psi; B, psi queries the segment; C, as B, but
    psi takes up the tokens of the first segment."""
    init: Literal["guidance", "zero"] = "guidance"
    """psi_0: prompt and image features, or zeros of their shape (paper, Table 2: zero-MemoryPack)."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"a width of {self.width} does not divide into {self.num_heads} heads")
        return self

    @model_validator(mode="after")
    def _queries_differ(self) -> Self:
        if self.structure == "B" and self.init == "zero":
            raise ValueError(
                "queries of zeros all find the same: structure B needs init guidance, init zero needs A or C"
            )
        return self


class ModelConfig(Settings):
    """The backbone, from the table in `training/model/presets.py`, and its memory."""

    preset: Literal["tiny", "demo", "small", "framepack_f1"] = "tiny"
    """A name of that table."""
    memory: MemoryConfig = MemoryConfig()
    """Long-term memory."""
    rope_mode: Literal["f1", "relative_start", "absolute"] = "relative_start"
    """Temporal index of the start image (paper, 3.1, RoPE consistency)."""


class TimesConfig(Settings):
    """How times are drawn: sigma is the sigmoid of a normal number, shifted."""

    logit_mean: float = 0.0
    """Mean of the normal whose sigmoid is sigma."""
    logit_std: Annotated[float, Field(gt=0)] = 1.0
    """Its standard deviation."""
    shift: Annotated[float, Field(gt=0)] = 3.0
    """sigma <- s sigma / (1 + (s - 1) sigma); more noise for s > 1."""


class FlowConfig(TimesConfig):
    """How times are drawn and the loss is weighted."""

    weighting: Literal["none", "cosmap"] = "none"
    """Weight of a time in the loss: 1 (paper, eq. 5), or SD3's 2 / (pi (1 - 2 t + 2 t^2)), which favours t = 1/2."""
    guidance_scale: Annotated[float, Field(ge=0)] = 1.0
    """Guidance embedding given in training."""


class SampleConfig(Settings):
    """A segment sampled from noise while training goes on."""

    num_inference_steps: Positive = 10
    """Denoising steps."""
    shift: Annotated[float, Field(gt=0)] = 3.0
    """Shift of the noise schedule; that of `generate` shows the model what it meets there."""


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
    persistence_threshold: Annotated[int, Field(ge=0)] = 100_000
    """ZeRO-3 leaves parameters of up to so many elements whole on every rank instead of gathering them at every use (the
    default is DeepSpeed's); 0 partitions all."""
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
    offload_optimizer: bool = False
    """Keep fp32 weights and moments in CPU memory and update them there; needs ZeRO-1, 2 or 3."""
    step_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that ranks wait for each other without progress of any, before the run is ended and begun again. Files of a
    checkpoint that grow are progress, and so is reading one; loading the weights to begin from is not, where a rank is slower
    than the others."""

    @model_validator(mode="after")
    def _zero_0_keeps_nothing_apart(self) -> Self:
        if self.zero_stage == 0 and self.offload_optimizer:
            raise ValueError(
                "offload_optimizer needs optimizer states that are partitioned: set zero_stage to 1, 2 or 3"
            )
        if self.zero_stage == 0 and self.dtype == "bf16":
            raise ValueError(
                "zero_stage 0 with dtype bf16 would add up gradients in another way than ZeRO-1, which keeps fp32 weights"
                " as well: set zero_stage to 1, 2 or 3"
            )
        return self


class TeacherConfig(Settings):
    """Stage 1: teacher forcing, all parameters (paper, 4.1)."""

    steps: Positive = 1000
    """Optimizer steps."""
    global_batch: Positive = 1
    """Clips a step, over all ranks (paper, 4.1: batch size 1)."""
    memory_dropout: Share = 0.1
    """Share of steps without memory tokens."""
    history_dropout: Share = 0.0
    """Share of steps in which the last latents are withheld, all but the start image, drawn apart from `memory_dropout`:
    what is known of the past is psi. A segment 0 has no past to withhold."""
    memory_warmup_steps: Steps = 0
    """First steps, in which only the memory learns, if there is one: fresh tokens draw attention away from the rest, even
    without content. Nothing learns there from a segment 0 or a dropped memory."""
    memory_grad_steps: Positive | None = None
    """Updates of psi that a loss flows back through, counted from the last; None is all of them."""
    history_noise: Share = 0.0
    """The past is seen at a sigma of up to this, drawn anew for each clip and step; 0 is the clean past (paper)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""


class DirectConfig(Settings):
    """Stage 2, after a past that the model made: Direct Forcing, or student forcing, its ablation (paper, 3.2, 4.3, A.2).

    The two differ in nothing but how the past is made.
    """

    steps: Positive = 100
    """Global batches of clips; each accumulates over all segments of its clips."""
    global_batch: Positive = 1
    """Clips a step, over all ranks."""
    curriculum: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4, 8, 16, 40)
    """Caps on the number of segments, one after another in equal shares of the steps (paper, A.2)."""
    sort_by_length: bool = False
    """False: a clip beyond the cap gives its first segments. True: it waits for its cap (paper, A.2: "sorting videos")."""
    update: Literal["clip", "segment"] = "clip"
    """The optimizer steps once for all segments of a global batch, or after each (paper, 3.2: the first)."""
    trained: Literal["head", "all"] = "head"
    """`norm_out` and `proj_out` only (paper, A.2), or all parameters."""
    from_scratch: bool = False
    """Without `--init`, begin from fresh weights instead of a teacher."""
    condition_times: TimesConfig | None = None
    """Times of the one-step past of Direct Forcing, at a forward pass more; None: the loss's own (paper, eq. 7)."""
    ground_truth_share: Share = 0.0
    """Share of steps that train one segment after its true past, as the teacher does."""
    final_ground_truth_share: Share | None = None
    """That share at the last step, straight in between; None keeps it. 1 to 0: teacher to direct in one stage."""
    student: SampleConfig = SampleConfig(num_inference_steps=5)
    """How student forcing samples the past (paper, 4.3: 5 steps)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""

    @property
    def has_teacher_steps(self) -> bool:
        """Whether some steps train after the true past, by what `TeacherConfig` says of it."""
        return max(self.ground_truth_share, self.final_ground_truth_share or 0.0) > 0


class CheckpointConfig(Settings):
    """What is saved and how often."""

    every_steps: Positive = 100
    """Steps between checkpoints; the last step always saves."""
    keep: Positive = 2
    """Newest checkpoints that stay on disk."""
    keep_best: bool = True
    """Keep the checkpoint with the lowest `val_loss` as well; those between two validations have none."""
    allow_changed: bool = False
    """Go on from a checkpoint although settings have changed since, where they leave the weights' shapes alone."""


class VideoConfig(Settings):
    """A video that the model makes, as it stands, of a held-out clip's first frame and prompt."""

    every_steps: Positive
    """Steps between videos; the first and last step always make one."""
    num_segments: Positive = 4
    """Its length. All ranks make all of it, and training waits for them."""
    guidance_scale: Annotated[float, Field(ge=0)] = 1.0
    """Guidance embedding; that of `generate` shows what the model would make there."""


class ValidationConfig(Settings):
    """Loss on held-out clips with fixed times and noise, and a video with fixed noise."""

    every_steps: Positive = 100
    """Steps between validations; the first and last step always validate."""
    num_clips: Positive = 16
    """Held-out clips."""
    max_segments: Positive = 4
    """Leading segments of each that are scored."""
    sample: SampleConfig = SampleConfig()
    """How the model's own samples are made: those that one-step approximations are held against before stage 2, and the
    segments of `video`."""
    video: VideoConfig | None = None
    """A video of the model every so many steps; None makes none."""


def _each_once_and_the_teacher_first(stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
    if len(set(stages)) < len(stages):
        raise ValueError("a stage runs once: name each one time")
    if "teacher" in stages[1:]:
        raise ValueError("the other stages begin from the teacher: name it first")
    return stages


class TrainConfig(Settings):
    """Everything about training but the model."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random numbers."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the old average that a step keeps in an fp32 moving average of the trained weights; None keeps none.
    Validation is of the average."""
    model_weights: Literal["live", "ema"] = "live"
    """What goes into a stage's model folder: the weights of its last step, or their average."""
    skip_nonfinite: bool = False
    """Leave out steps whose loss or gradient is not finite, and count them, instead of ending the run."""
    skip_broken: bool = False
    """Leave out clips whose sample cannot be read, and count them, instead of ending the run. A step's gradient is the mean
    over the segments of its other clips, and a step that has none is left out."""
    engine: EngineConfig = EngineConfig()
    """Distribution."""
    flow: FlowConfig = FlowConfig()
    """Times and loss."""
    teacher: TeacherConfig = TeacherConfig()
    """Stage 1."""
    direct: DirectConfig = DirectConfig()
    """Stage 2."""
    stages: Annotated[tuple[StageName, ...], Field(min_length=1), AfterValidator(_each_once_and_the_teacher_first)] = (
        "teacher",
        "direct",
    )
    """What `longtake train` runs where no stage is named, in this order; each once, and the teacher first."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    validation: ValidationConfig = ValidationConfig()
    """Held-out loss and video."""

    @model_validator(mode="after")
    def _an_average_is_exported_only_if_there_is_one(self) -> Self:
        if self.model_weights == "ema" and self.ema_decay is None:
            raise ValueError("model_weights ema needs ema_decay, for example 0.999")
        return self


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
    device: Device = "cpu"
    """torch device."""
