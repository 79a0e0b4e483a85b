"""The data types of this package.

Shapes: B batch, C latent channels, T latent frames, H and W latent rows and columns, L text tokens, N image or memory
tokens, D features. Time t is the paper's: 0 is noise and 1 is data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from preprocessing.samples import LATENTS_PER_SEGMENT, CodecRecord


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a clip is about, from the encoders: constant over its segments.

    Attributes:
        text_BLD: Token features of the prompt.
        text_mask_BL: 1 for a real token, 0 for padding; ones are a prefix.
        pooled_BD: Pooled prompt feature.
        image_BND: Features of the start image.
    """

    text_BLD: Tensor
    text_mask_BL: Tensor
    pooled_BD: Tensor
    image_BND: Tensor

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"Condition(text={tuple(self.text_BLD.shape)}, pooled={tuple(self.pooled_BD.shape)}, image={tuple(self.image_BND.shape)})"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """psi: the long-term memory of SemanticPack.

    Attributes:
        tokens_BND: Memory tokens.
        mask_BN: 1 for a real token and 0 for padding (padded text).
        num_segments: How many segments it has taken in: the n of psi_n.
    """

    tokens_BND: Tensor
    mask_BN: Tensor
    num_segments: int

    def detach(self) -> "Memory":
        """The same memory, outside of any graph."""
        return replace(self, tokens_BND=self.tokens_BND.detach())

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"Memory(psi_{self.num_segments}, tokens={tuple(self.tokens_BND.shape)})"


@dataclass(frozen=True, kw_only=True)
class SegmentBatch:
    """Clips of one global batch on one rank, all with the same number of segments.

    Attributes:
        clip_ids: Names of the clips; none of a stand-in, which takes the place of clips that cannot be read.
        latents_BCTHW: The clips, T = 1 + 9 n; segment i is ``[:, :, 1 + 9 i : 10 + 9 i]``.
        start_latent_BCTHW: The first frames encoded alone, T = 1.
        positions: Position of each clip in the global batch; keys its random numbers.
    """

    clip_ids: tuple[str, ...]
    latents_BCTHW: Tensor
    start_latent_BCTHW: Tensor
    condition: Condition
    positions: tuple[int, ...]

    @property
    def num_segments(self) -> int:
        """Segments of each clip."""
        return (self.latents_BCTHW.shape[2] - 1) // LATENTS_PER_SEGMENT

    @property
    def is_stand_in(self) -> bool:
        """True if it only keeps this rank's passes those of the plan; nothing is learnt from it."""
        return not self.clip_ids

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"SegmentBatch({len(self.clip_ids)} clips, latents={tuple(self.latents_BCTHW.shape)})"


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """One training clip of a manifest: all that the order of training needs to know.

    Attributes:
        dataset: URI of the dataset that holds it.
        shard: Key of the shard's files in the dataset.
        num_segments: Segments of the clip.
    """

    clip_id: str
    dataset: str
    shard: str
    num_segments: int
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        """Refuse a clip without a segment."""
        if self.num_segments < 1:
            raise ValueError(f"clip {self.clip_id} has {self.num_segments} segments; expected at least 1")

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width: clips of one size can be one tensor."""
        return self.height_px, self.width_px


@dataclass(frozen=True, kw_only=True)
class GlobalStep:
    """One optimizer step, the same on every rank.

    Attributes:
        step: From 0.
        clips: The global batch, by position.
        num_segments: Leading segments of each clip that are loaded.
        segment_index: n of teacher forcing; None trains all loaded segments in order.
        use_memory: False withholds psi for the whole step (memory dropout).
        use_history: False withholds past latents for the whole step, all but the start image (history dropout).
        broken: Positions whose sample cannot be read, once that is known; they have no loss.
    """

    step: int
    clips: tuple[ClipRow, ...]
    num_segments: tuple[int, ...]
    segment_index: int | None
    use_memory: bool
    use_history: bool = True
    broken: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Hold every clip to its segments."""
        assert len(self.clips) == len(self.num_segments)
        for clip, used in zip(self.clips, self.num_segments, strict=True):
            if not 1 <= used <= clip.num_segments:
                raise ValueError(f"{used} of the {clip.num_segments} segments of {clip.clip_id}")

    @property
    def healthy(self) -> tuple[int, ...]:
        """Positions of the clips that can be read, as far as is known."""
        return tuple(position for position in range(len(self.clips)) if position not in self.broken)

    @property
    def num_losses(self) -> int:
        """Segments with a loss, over the whole global batch; the step's loss is their mean."""
        if self.segment_index is not None:
            return len(self.healthy)
        return sum(self.num_segments[position] for position in self.healthy)


@dataclass(frozen=True, kw_only=True)
class RandomKey:
    """Names the random numbers of one global step; clips add their position, segments their index."""

    seed: int
    stage: str
    step: int


@dataclass(frozen=True, kw_only=True)
class FlowSample:
    """A point on the straight path from noise to data (paper, eq. 3 and 4).

    Attributes:
        x_t: t data + (1 - t) noise.
        target_velocity: data - noise, which does not depend on t.
        noise: Where the path starts.
        data: Where it ends.
        t: Time, (B,).
    """

    x_t: Tensor
    target_velocity: Tensor
    noise: Tensor
    data: Tensor
    t: Tensor


@dataclass(frozen=True, kw_only=True)
class SegmentContext:
    """What the model knows when it makes segment `segment_index`.

    Attributes:
        history_BCTHW: The last 19 latent frames, oldest first, zeros where there were none.
        memory: psi, None before the first segment or where memory is off.
        start_latent_BCTHW: The start image, T = 1.
        segment_index: n, from 0; the same for the whole batch.
    """

    history_BCTHW: Tensor
    memory: Memory | None
    start_latent_BCTHW: Tensor
    segment_index: int


@dataclass(frozen=True, kw_only=True)
class ClipLosses:
    """What the loss of a segment is the mean of; detached.

    Attributes:
        t: Time of each clip, (B,).
        loss: Loss of each clip, (B,).
    """

    t: Tensor
    loss: Tensor


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What an objective gives back for one segment.

    Attributes:
        loss: Scalar, fp32, with gradient.
        next_context: Context of the next segment, detached; None where the objective has no next one.
        clip_losses: Whose mean is the loss; None of what is measured and not trained.
        metrics: Numbers to log.
    """

    loss: Tensor
    next_context: SegmentContext | None
    clip_losses: ClipLosses | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """What a model must know of the clips that it is trained on.

    Attributes:
        codec: Who wrote the latents.
        fps: Frames a second.
        sizes_px: Picture sizes, (height, width).
    """

    codec: CodecRecord
    fps: float
    sizes_px: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """What a checkpoint folder says of itself (``checkpoint.json``).

    Attributes:
        step: Optimizer steps done.
        num_updates: Of these, steps that changed the weights.
        val_loss: Held-out loss after the step; None if it was not measured then.
        settings: All settings that shape the weights, by their dotted names.
        plan_hash: Of the clips that make the order.
        base_sha256: Weights that the stage began from.
        num_ranks: How many wrote it; any number may read it.
        clip_format: Of the clips; None from a version of longtake that did not say.
    """

    stage: str
    step: int
    num_updates: int
    val_loss: float | None
    settings: Mapping[str, object]
    plan_hash: str
    base_sha256: str
    num_ranks: int
    clip_format: ClipFormat | None = None


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """What came out of a finished stage (``summary.json``).

    Attributes:
        steps: Optimizer steps.
        num_clips: Clips of the training split, less `num_withheld_clips`.
        num_unused_clips: Of these, clips that no step used.
        num_validation_clips: Held-out clips behind the validation losses, less `val_broken_samples`; without any there are
            no such losses.
        at_start: Metrics before the first step.
        at_end: Metrics after the last; empty where the file of metrics lost them.
        base_sha256: Weights it began from.
        weights_sha256: Weights it ended with.
        num_broken_samples: Clips that steps went without because their sample could not be read, the same clip as often as
            it came; without `train.skip_broken` there are none.
        num_skipped_steps: Steps that were left out, because a loss or gradient was not finite or none of their clips could be
            read; without `train.skip_nonfinite` and `train.skip_broken` there are none.
        num_withheld_clips: Clips of a training split that are held out, themselves or their group, by any of the datasets.
    """

    stage: str
    steps: int
    num_clips: int
    num_unused_clips: int
    num_validation_clips: int
    at_start: Mapping[str, float]
    at_end: Mapping[str, float]
    base_sha256: str
    weights_sha256: str
    num_broken_samples: int = 0
    num_skipped_steps: int = 0
    num_withheld_clips: int = 0


@dataclass(frozen=True, kw_only=True)
class GeneratedVideo:
    """How a generated video was made; written beside it as JSON.

    Attributes:
        num_frames: Frames in the file.
        conditioning: Half-open frame ranges that were given, not generated.
        generated: Half-open frame ranges in the order of generation.
    """

    num_frames: int
    fps: float
    prompt: str
    seed: int
    num_segments: int
    conditioning: tuple[tuple[int, int], ...]
    generated: tuple[tuple[int, int], ...]
