"""How much work a step or a data set is: floating-point operations, and the GPU-days that they would take.

A backward pass counts as two forward passes, and blocks that are computed again as one more.
"""

from dataclasses import dataclass

from preprocessing.samples import FRAMES_PER_SEGMENT, CodecRecord
from training.config import ModelConfig, StageName, TrainConfig
from training.model.costs import SegmentFlops, segment_flops, segment_tokens
from training.types import GlobalStep

PAPER_HOURS = 150
"""Of video (paper, 4.1)."""

PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "H20": 148e12, "B200": 2250e12}
"""Operations a second in bf16 without sparsity, by a part of the device's name (after NVIDIA's data sheets; look yours up)."""

ASSUMED_DEVICE = "H100"
"""Of the estimate in GPU-days."""

ASSUMED_MFU = 0.4
"""Share of that peak which a training reaches: a guess to plan with, not measured here."""

DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Operations of a stage's steps.

    Attributes:
        config: Of the model.
        train: Of the run.
        stage: Which stage.
        codec: Whose latents and features are read.
    """

    config: ModelConfig
    train: TrainConfig
    stage: StageName
    codec: CodecRecord

    def step_flops(self, step: GlobalStep) -> int:
        """Operations of a global step, over all ranks."""
        return sum(self._clip_flops(step.clips[p].size_px, step.num_segments[p], step) for p in step.healthy)

    def _clip_flops(self, size_px: tuple[int, int], num_segments: int, step: GlobalStep) -> int:
        flops = segment_flops(self.config, self.codec, size_px)
        if step.segment_index is None:
            return sum(self.after_own_past(flops, n) for n in range(num_segments))
        return self.after_true_past(flops, step.segment_index if step.use_memory else 0)

    def segment(self, flops: SegmentFlops, segment_index: int) -> int:
        """Training on segment n as the stage does."""
        past = self.after_true_past if self.stage == "teacher" else self.after_own_past
        return past(flops, segment_index)

    def after_true_past(self, flops: SegmentFlops, segment_index: int) -> int:
        """Segment n of teacher forcing; a backward pass through psi_0 .. psi_n as far as gradients reach."""
        limit = 0 if self._trains_head_only else self.train.teacher.memory_grad_steps
        without = 0 if limit is None else flops.psi(max(0, segment_index - limit))
        return self._loss_cost * flops.backbone(segment_index) + 3 * flops.psi(segment_index) - 2 * without

    def after_own_past(self, flops: SegmentFlops, segment_index: int) -> int:
        """Segment n after what the model made, and an update of psi without gradient."""
        update = flops.psi(segment_index + 1) - flops.psi(segment_index)
        return (self._loss_cost + self._passes_for_the_past) * flops.backbone(segment_index) + update

    @property
    def _loss_cost(self) -> int:
        """In forward passes of the backbone; of a head that is trained alone the backward pass is next to nothing."""
        if self._trains_head_only:
            return 1
        return 4 if self.train.engine.activation_checkpointing else 3

    @property
    def _trains_head_only(self) -> bool:
        return self.stage != "teacher" and self.train.direct.trained == "head"

    @property
    def _passes_for_the_past(self) -> int:
        direct = self.train.direct
        return (
            direct.student.num_inference_steps if self.stage == "student" else int(direct.condition_times is not None)
        )


def device_peak_flops(device_name: str) -> float | None:
    """Operations a second that a device could do at best; None if its name is unknown. Longer names are more special."""
    known = [name for name in PEAK_FLOPS if name in device_name]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def gpu_days_lines(workload: Workload, *, size_px: tuple[int, int], num_segments: int, fps: float) -> list[str]:
    """For people: one pass over the paper's hours of video, every segment once.

    Args:
        workload: Of the stage.
        size_px: Height and width of the pictures.
        num_segments: Of the longest clip; psi is counted for its middle one.
        fps: Frames a second of the clips.
    """
    flops = segment_flops(workload.config, workload.codec, size_px)
    middle = num_segments // 2
    each = workload.segment(flops, middle)
    segments = int(PAPER_HOURS * 3600 * fps / FRAMES_PER_SEGMENT)
    peak = PEAK_FLOPS[ASSUMED_DEVICE]
    days = segments * each / (ASSUMED_MFU * peak) / DAY_S
    tokens = segment_tokens(workload.config, workload.codec, size_px)
    return [
        f"tokens of a segment: {tokens.total:,} = {tokens.noise:,} noise + {tokens.clean:,} clean + {tokens.history_2x:,} +"
        f" {tokens.history_4x:,} compressed history + {tokens.image:,} image + {tokens.memory:,} memory + {tokens.text:,} text",
        f"an update of psi: {flops.update / 1e12:.2f} TFLOP",
        f"a forward pass of one segment: {flops.backbone(middle) / 1e12:.2f} TFLOP; with all it takes to train on it:"
        f" {each / 1e12:.2f} TFLOP",
        f"every segment of {PAPER_HOURS} hours once: {segments:,} segments x {each / 1e12:.2f} TFLOP"
        f" / ({ASSUMED_MFU:g} MFU, assumed, x {peak / 1e12:.0f} TFLOP/s of an {ASSUMED_DEVICE}) = {days:.1f} GPU-days",
    ]
