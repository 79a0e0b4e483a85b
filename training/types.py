"""The data types of this package.

Shapes: B batch, C latent channels, T latent frames, H and W latent rows and columns, L text tokens, N image or memory
tokens, D features. Time t is the paper's: 0 is noise and 1 is data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


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
        mask_BN: 1 for a real token and 0 for padding (padded text in psi_0).
    """

    tokens_BND: Tensor
    mask_BN: Tensor

    def detach(self) -> "Memory":
        """The same memory, outside of any graph."""
        return Memory(tokens_BND=self.tokens_BND.detach(), mask_BN=self.mask_BN)

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"Memory(tokens={tuple(self.tokens_BND.shape)})"


@dataclass(frozen=True, kw_only=True)
class SegmentBatch:
    """Clips of one global batch on one rank, all with the same number of segments.

    Attributes:
        clip_ids: Names of the clips.
        latents_BCTHW: The clips, T = 1 + 9 n; segment i is ``[:, :, 1 + 9 i : 10 + 9 i]``.
        start_latent_BCTHW: The first frames encoded alone, T = 1.
        positions: Position of each clip in the global batch; keys its random numbers.
    """

    clip_ids: tuple[str, ...]
    latents_BCTHW: Tensor
    start_latent_BCTHW: Tensor
    condition: Condition
    positions: tuple[int, ...]

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"SegmentBatch({len(self.clip_ids)} clips, latents={tuple(self.latents_BCTHW.shape)})"


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
class StepOutput:
    """What an objective gives back for one segment.

    Attributes:
        loss: Scalar, fp32, with gradient.
        next_context: Context of the next segment, detached; None where the objective has no next one.
        metrics: Numbers to log.
    """

    loss: Tensor
    next_context: SegmentContext | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """What a checkpoint folder says of itself (``checkpoint.json``)."""

    stage: str
    step: int
    recipe_fingerprint: str
    plan_hash: str
    base_sha256: str
    num_ranks: int
    zero_stage: int


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
