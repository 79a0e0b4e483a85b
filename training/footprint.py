"""Will a stage fit? Bytes that a rank holds, line by line with their arithmetic, from the settings alone.

A GB is 10^9 bytes. What DeepSpeed keeps was read in its version 0.19.8; the activations of a block were counted with
autograd's saved-tensor hooks, and `tests/training/test_footprint.py` counts them again.
"""

import math
from dataclasses import dataclass

from preprocessing.samples import CodecRecord
from training.config import ModelConfig, StageName, TrainConfig
from training.curriculum import most_segments
from training.engine.base import freeze_all_but_head
from training.model.costs import inner_dim, segment_tokens
from training.model.presets import build_model, preset

GB = 1e9

BUCKET_ELEMENTS = 500_000_000
"""Gradients that DeepSpeed collects before it sends them (`reduce_bucket_size`)."""

GATHERED_ELEMENTS = 1_000_000_000
"""Weights that ZeRO-3 holds whole at once, at most (`stage3_max_live_parameters`)."""

DUAL_BLOCK = {"fp32": 24, "bf16": 28}
"""Numbers that a block of two streams keeps for its backward pass, by token and feature; norms are kept in fp32."""

SINGLE_BLOCK = {"fp32": 22, "bf16": 26}
"""The same of a block of one stream."""

OUTSIDE_BLOCKS = 5
"""The same of embeddings, text refiner and head together."""

UPDATE_BLOCK = {"fp32": 44, "bf16": 51}
"""Numbers that a block each of Memorize and Squeeze keep for an update of psi, by memory token and feature.

Where activations are checkpointed an update as a whole is: of all its blocks only psi stays, 1 by token and feature.
"""

HEAD = 2
"""Numbers that the final norm and the output layer keep, by token of the segment and feature."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of weights.

    Attributes:
        total: Of the model.
        trained: Of these, weights that the stage changes.
    """

    total: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class Holding:
    """One thing that a rank holds.

    Attributes:
        name: What.
        num_bytes: How much.
        arithmetic: Where the figure comes from.
    """

    name: str
    num_bytes: float
    arithmetic: str

    def line(self) -> str:
        """For people."""
        return f"{self.name}: {self.num_bytes / GB:.2f} GB = {self.arithmetic}"


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a rank holds on its device.

    Attributes:
        start: While the stage starts.
        states: All the time after that.
        passes: In forward and backward passes as well.
        update: In an optimizer step as well, when the passes are over.
    """

    start: Holding
    states: tuple[Holding, ...]
    passes: tuple[Holding, ...]
    update: Holding

    @property
    def peak_bytes(self) -> float:
        """The most that is held at any time."""
        states = sum(holding.num_bytes for holding in self.states)
        passes = sum(holding.num_bytes for holding in self.passes)
        return max(self.start.num_bytes, states + max(passes, self.update.num_bytes))

    def lines(self) -> list[str]:
        """For people."""
        holdings = (*self.states, *self.passes, self.update, self.start)
        return [
            *(holding.line() for holding in holdings),
            f"peak of a rank: {self.peak_bytes / GB:.2f} GB, the larger of the start alone, and of all states with the"
            " passes or the update",
        ]

    def verdict(self, gpu_memory_gb: float) -> str:
        """Whether a device of this size holds it."""
        peak_gb = self.peak_bytes / GB
        return f"{'fits' if peak_gb <= gpu_memory_gb else 'does not fit'} into {gpu_memory_gb:g} GB ({peak_gb:.2f} GB)"


def count_parameters(config: ModelConfig, codec: CodecRecord, *, head_only: bool) -> Parameters:
    """Weights of a model that is never built: on the meta device it has shapes alone."""
    model = build_model(config, codec, device="meta", seed=0)
    if head_only:
        freeze_all_but_head(model)
    numbers = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return Parameters(total=sum(n for n, _ in numbers), trained=sum(n for n, trained in numbers if trained))


def footprint(
    config: ModelConfig,
    train: TrainConfig,
    stage: StageName,
    parameters: Parameters,
    *,
    codec: CodecRecord,
    size_px: tuple[int, int],
    num_segments: int,
) -> Footprint:
    """What a rank holds in a stage.

    Args:
        config: Of the model.
        train: Of the run.
        stage: Which stage.
        parameters: As `count_parameters` counts them.
        codec: Whose latents and features are read.
        size_px: Height and width of the largest pictures.
        num_segments: Of the longest clip.
    """
    rank = _Rank(config, train, stage, parameters, codec, size_px, num_segments)
    return Footprint(start=rank.start(), states=rank.states(), passes=rank.passes(), update=rank.update())


@dataclass(frozen=True)
class _Rank:
    config: ModelConfig
    train: TrainConfig
    stage: StageName
    parameters: Parameters
    codec: CodecRecord
    size_px: tuple[int, int]
    num_segments: int

    @property
    def bytes_each(self) -> int:
        return 2 if self.train.engine.dtype == "bf16" else 4

    @property
    def shards(self) -> int:
        """Ranks that share optimizer states."""
        return self.train.engine.num_workers if self.train.engine.zero_stage else 1

    @property
    def clips(self) -> int:
        """Clips of one size that a rank stacks."""
        stage = self.train.teacher if self.stage == "teacher" else self.train.direct
        return math.ceil(stage.global_batch / self.train.engine.num_workers)

    def start(self) -> Holding:
        total = self.parameters.total
        return Holding(
            name="weights in fp32 while the stage starts, on the host as well",
            num_bytes=4 * total,
            arithmetic=f"4 B x {total:,}",
        )

    def states(self) -> tuple[Holding, ...]:
        return tuple(holding for holding in self._possible_states() if holding.num_bytes)

    def _possible_states(self) -> tuple[Holding, ...]:
        zero = self.train.engine.zero_stage
        total, trained = self.parameters.total, self.parameters.trained
        gathered = min(GATHERED_ELEMENTS, total) if zero == 3 else 0
        return (
            self._held("weights", self.bytes_each, total, ranks=self.shards if zero == 3 else 1),
            self._held("weights that ZeRO-3 gathers", self.bytes_each, gathered),
            self._held("gradients", self.bytes_each, trained, ranks=self.shards if self._splits_gradients else 1),
            self._held("gradients on their way", self.bytes_each, BUCKET_ELEMENTS if zero else 0),
            self._optimizer_states(),
        )

    @property
    def _splits_gradients(self) -> bool:
        """Gradients of several backward passes are reduced once, in the end, and are whole until then."""
        return self.train.engine.zero_stage >= 2 and self.stage == "teacher"

    def _optimizer_states(self) -> Holding:
        """AdamW's moments; under ZeRO the fp32 weights it updates; the moving average."""
        engine = self.train.engine
        each = 8 + (4 if engine.zero_stage else 0) + (0 if self.train.ema_decay is None else 4)
        if engine.offload_optimizer:
            return Holding(name="optimizer states", num_bytes=0, arithmetic="offloaded to the host")
        return self._held("optimizer states", each, self.parameters.trained, ranks=self.shards)

    def update(self) -> Holding:
        each = 4 if self.train.engine.dtype == "bf16" and not self.train.engine.offload_optimizer else 0
        return self._held("fp32 gradients in the update", each, self.parameters.trained, ranks=self.shards)

    def _held(self, name: str, each: int, elements: int, *, ranks: int = 1) -> Holding:
        shared = f" / {ranks} ranks" if ranks > 1 else ""
        return Holding(name=name, num_bytes=each * elements / ranks, arithmetic=f"{each} B x {elements:,}{shared}")

    def passes(self) -> tuple[Holding, ...]:
        if self.stage != "teacher" and self.train.direct.trained == "head":
            return (self._head(), self._working(1, "a block computes, nothing of it is kept"))
        checkpointing = self.train.engine.activation_checkpointing
        working = (
            self._working(2, "a block is computed again, with as much for its gradients")
            if checkpointing
            else self._working(1, "gradients of a block")
        )
        return (self._kept(checkpointing=checkpointing), working, *self._psi(checkpointing=checkpointing))

    @property
    def _tokens(self) -> int:
        return segment_tokens(self.config, self.codec, self.size_px).total

    def _kept(self, *, checkpointing: bool) -> Holding:
        size, dtype = preset(self.config.preset), self.train.engine.dtype
        dual, single = (1, 1) if checkpointing else (DUAL_BLOCK[dtype], SINGLE_BLOCK[dtype])
        each = size.num_dual_layers * dual + size.num_single_layers * single + OUTSIDE_BLOCKS
        how = f"{size.num_dual_layers} x {dual} + {size.num_single_layers} x {single} + {OUTSIDE_BLOCKS}"
        return self._activations("activations", each, how, self._tokens, inner_dim(self.config))

    def _working(self, times: int, why: str) -> Holding:
        block = DUAL_BLOCK[self.train.engine.dtype]
        return self._activations(
            f"one block at work ({why})", times * block, f"{times} x {block}", self._tokens, inner_dim(self.config)
        )

    def _head(self) -> Holding:
        tokens = segment_tokens(self.config, self.codec, self.size_px).noise
        return self._activations("activations", HEAD, str(HEAD), tokens, inner_dim(self.config))

    def _psi(self, *, checkpointing: bool) -> tuple[Holding, ...]:
        """Of psi_1 .. psi_n at the last segment of the longest clip, as far back as gradients reach; in teacher steps alone."""
        memory, after_true_past = self.config.memory, self.stage == "teacher" or self.train.direct.has_teacher_steps
        last = most_segments(self.train, self.stage, self.num_segments) - 1
        updates = min(last, self.train.teacher.memory_grad_steps or last)
        if not after_true_past or not memory.enabled or not updates:
            return ()
        update = memory.depth * UPDATE_BLOCK[self.train.engine.dtype]
        how = f"{memory.depth} x {UPDATE_BLOCK[self.train.engine.dtype]}"
        if not checkpointing:
            return (self._of_psi("activations of psi", updates * update, f"{updates} updates x {how}"),)
        return (
            self._of_psi("activations of psi", updates, f"{updates} updates x 1"),
            self._of_psi("one update of psi at work (computed again, with its gradients)", 2 * update, f"2 x {how}"),
        )

    def _of_psi(self, name: str, each: int, how: str) -> Holding:
        tokens = segment_tokens(self.config, self.codec, self.size_px).memory
        return self._activations(name, each, how, tokens, self.config.memory.width)

    def _activations(self, name: str, each: int, how: str, tokens: int, features: int) -> Holding:
        return Holding(
            name=name,
            num_bytes=self.clips * tokens * features * each * self.bytes_each,
            arithmetic=f"{self.clips} clips x {tokens:,} tokens x {features:,} features x ({how}) x {self.bytes_each} B",
        )
