"""Samples of shards to batches of segments in time order.

Shapes: B batch, C latent channels, T latent frames, H and W latent rows and columns, L text tokens, N image tokens,
D features.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocessing.dataset import Dataset
from preprocessing.members import StoredSample
from preprocessing.pins import Pin, pin, unpin
from preprocessing.samples import CodecRecord, Split, clip_num_latents
from preprocessing.shards import ShardReader, read_metadata
from training.order import stacks_of_rank
from training.types import ClipFormat, ClipRow, Condition, GlobalStep, SegmentBatch

logger = logging.getLogger(__name__)

T = TypeVar("T")

SampleReader = Callable[[ClipRow], StoredSample]
"""Reads one clip of the manifest."""

UNREADABLE = (ValueError, FileNotFoundError)
"""What reading a sample raises if that sample is the reason; a store that does not answer raises another OSError."""


class BrokenSampleError(ValueError):
    """A clip's sample is not what was written, or not there."""


def step_batches(
    step: GlobalStep, read: SampleReader, *, rank: int, num_ranks: int, device: torch.device
) -> tuple[SegmentBatch, ...]:
    """A rank's share of a global step: clips of one size and one number of segments are one batch.

    Args:
        step: What all ranks do.
        read: Reads a clip.
        rank: This rank, from 0.
        num_ranks: All ranks.
        device: Where the batches go.

    Raises:
        BrokenSampleError: If a clip cannot be read.
        ValueError: If a clip is not what the manifest says, or the ranks cannot share the clips.
    """
    return tuple(
        clip_batch([read(step.clips[p]) for p in stack], stack, num_segments=step.num_segments[stack[0]], device=device)
        for stack in stacks_of_rank(step, rank=rank, num_ranks=num_ranks)
    )


def clip_batch(
    samples: Sequence[StoredSample], positions: Sequence[int], *, num_segments: int, device: torch.device
) -> SegmentBatch:
    """The first segments of some clips as one batch, in fp32.

    Raises:
        ValueError: If a clip is shorter, or their sizes differ.
    """
    num_latents = clip_num_latents(num_segments)
    latents = [_first_latents(sample, num_latents) for sample in samples]
    _check_one_shape(samples, latents)
    return SegmentBatch(
        clip_ids=tuple(sample.key for sample in samples),
        latents_BCTHW=_stack(latents, device),
        start_latent_BCTHW=_stack([sample.start_latent_CTHW for sample in samples], device),
        condition=_condition(samples, device),
        positions=tuple(positions),
    )


def _first_latents(sample: StoredSample, num_latents: int) -> NDArray[np.uint16]:
    if sample.latents_CTHW.shape[1] < num_latents:
        raise ValueError(
            f"clip {sample.key} has {sample.latents_CTHW.shape[1]} latent frames, the manifest promises {num_latents};"
            " run longtake verify on the dataset"
        )
    return sample.latents_CTHW[:, :num_latents]


def _check_one_shape(samples: Sequence[StoredSample], latents: Sequence[NDArray[np.uint16]]) -> None:
    shapes = {sample.key: array.shape for sample, array in zip(samples, latents, strict=True)}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"clips of unequal size in one batch: {shapes}; run longtake verify on the dataset")


def _condition(samples: Sequence[StoredSample], device: torch.device) -> Condition:
    """The clips' features; prompts of unequal length are padded behind their last token."""
    length = max(len(sample.mask_L) for sample in samples)
    return Condition(
        text_BLD=_stack([_pad(sample.llama_LD, length) for sample in samples], device),
        text_mask_BL=torch.from_numpy(np.stack([_pad(sample.mask_L, length) for sample in samples])).to(device),
        pooled_BD=_stack([sample.clip_pooled_D for sample in samples], device),
        image_BND=_stack([sample.siglip_ND for sample in samples], device),
    )


def _pad(tokens: NDArray[np.generic], length: int) -> NDArray[np.generic]:
    missing = length - len(tokens)
    return np.pad(tokens, [(0, missing), *[(0, 0)] * (tokens.ndim - 1)]) if missing else tokens


def _stack(bits: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    """bfloat16 until they are on the device, fp32 from there on."""
    return torch.from_numpy(np.stack(bits)).view(torch.bfloat16).to(device, non_blocking=True).float()


@dataclass(frozen=True, kw_only=True)
class PinnedDataset:
    """One version of a dataset: preprocessing may go on beside the training.

    Attributes:
        manifest: SHA-256 of the manifest.
    """

    uri: str
    manifest: str


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The clips of all datasets, and what a model must know of them.

    Attributes:
        train: Clips to train on.
        held_out: Clips of the evaluation split of any dataset.
        num_withheld: Clips of a training split that are not trained on, because the same clip or another of its group is held
            out, by any of the datasets.
        codec: Who wrote the latents.
        fps: Frames a second of the clips.
    """

    train: tuple[ClipRow, ...]
    held_out: tuple[ClipRow, ...]
    num_withheld: int
    codec: CodecRecord
    fps: float

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """Picture sizes of the training clips."""
        return tuple(sorted({row.size_px for row in self.train}))

    @property
    def clip_format(self) -> ClipFormat:
        """Of the training clips."""
        return ClipFormat(codec=self.codec, fps=self.fps, sizes_px=self.sizes_px)


def current_versions(uris: Sequence[str]) -> tuple[PinnedDataset, ...]:
    """The current version of each dataset.

    Raises:
        ValueError: If there is no such dataset, or it has no samples yet.
    """
    return tuple(PinnedDataset(uri=uri, manifest=Dataset.open(uri).load_manifest(None).sha256) for uri in uris)


def are_current(datasets: Sequence[PinnedDataset]) -> bool:
    """Whether these are the current versions still."""
    return current_versions([pinned.uri for pinned in datasets]) == tuple(datasets)


def pin_datasets(datasets: Sequence[PinnedDataset], *, pin_id: str, holder: str) -> None:
    """Keep `gc` away from these versions until `unpin_datasets`.

    Args:
        datasets: What is read.
        pin_id: Of whoever reads it, see `preprocessing.pins`.
        holder: The same for people.
    """
    for pinned in datasets:
        try:
            pin(Dataset.open(pinned.uri), Pin(pin_id=pin_id, manifest=pinned.manifest, holder=holder))
        except OSError as error:
            logger.warning(
                "%s cannot be pinned (%s): while this runs, give %s to longtake gc --keep",
                pinned.uri, error, pinned.manifest,
            )  # fmt: skip


def unpin_datasets(datasets: Sequence[PinnedDataset], *, pin_id: str) -> None:
    """Let `gc` have what nobody else pins."""
    for pinned in datasets:
        try:
            unpin(Dataset.open(pinned.uri), pin_id)
        except OSError as error:
            logger.warning("%s stays pinned: %s", pinned.uri, error)


def version_exists(pinned: PinnedDataset) -> bool:
    """Whether the dataset still has it."""
    return pinned.manifest in Dataset.open(pinned.uri).manifests()


def open_data(datasets: Sequence[PinnedDataset]) -> TrainingData:
    """All clips of some datasets.

    Raises:
        ValueError: If the datasets were encoded in different ways or rates, or hold nothing to train on.
    """
    tables = {pinned.uri: Dataset.open(pinned.uri).load_manifest(pinned.manifest).table for pinned in datasets}
    held_out = _of_split(tables, Split.EVAL)
    train = _held_out_nowhere(_of_split(tables, Split.TRAIN), held_out)
    num_withheld = _num_rows(_of_split(tables, Split.TRAIN)) - _num_rows(train)
    if not _num_rows(train):
        elsewhere = f" ({num_withheld} are held out, themselves or another of their group)" if num_withheld else ""
        raise ValueError(
            f"no clip to train on in {', '.join(tables)}{elsewhere}: preprocess more videos, or loosen the recipe's `decide`"
        )
    rates = sorted({float(rate) for table in tables.values() for rate in table["fps"].to_pylist() if rate is not None})
    if len(rates) > 1:
        raise ValueError(f"clips of {rates} frames a second: one model has one rate")
    return TrainingData(
        train=tuple(_rows(train)),
        held_out=tuple(_rows(held_out)),
        num_withheld=num_withheld,
        codec=_one_codec(tables),
        fps=rates[0],
    )


def _of_split(tables: Mapping[str, pa.Table], split: Split) -> dict[str, pa.Table]:
    return {uri: table.filter(pc.field("split") == str(split)) for uri, table in tables.items()}


def _held_out_nowhere(train: Mapping[str, pa.Table], held_out: Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
    """Without clips that any dataset holds out, themselves or their group: each drew its split for itself."""
    for column in ("clip_id", "group_id"):
        known = {value for table in held_out.values() for value in table[column].to_pylist()}
        values = pa.array(sorted(known), pa.string())
        train = {
            uri: table.filter(pc.invert(pc.is_in(table[column], value_set=values))) for uri, table in train.items()
        }
    return train


def _num_rows(tables: Mapping[str, pa.Table]) -> int:
    return sum(table.num_rows for table in tables.values())


def _rows(tables: Mapping[str, pa.Table]) -> Iterator[ClipRow]:
    columns = ["clip_id", "shard", "num_segments", "height_px", "width_px"]
    for uri, table in tables.items():
        yield from (ClipRow(dataset=uri, **row) for row in table.select(columns).to_pylist())


def _one_codec(tables: Mapping[str, pa.Table]) -> CodecRecord:
    """Who wrote the latents of these versions; what preprocessing encodes with by now may be another."""
    records = {uri: _codec_of(uri, table) for uri, table in tables.items() if table.num_rows}
    first_uri, first = next(iter(records.items()))
    for uri, record in records.items():
        differences = _differences(record, first)
        if differences:
            raise ValueError(
                f"{uri} and {first_uri} were encoded differently ({'; '.join(differences)}): encode both with one recipe"
            )
    return first


def _differences(one: CodecRecord, other: CodecRecord) -> list[str]:
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in CodecRecord.__dataclass_fields__]
    return [f"{name} {mine!r} and {its!r}" for name, mine, its in pairs if mine != its]


def _codec_of(uri: str, table: pa.Table) -> CodecRecord:
    """As the first sample says it that can be read: a version holds samples of one codec."""
    metadata = next(_readable_metadata(uri, table), None)
    if metadata is None:
        raise ValueError(f"no sample of {uri} can be read; run longtake verify {uri}")
    return CodecRecord(**metadata["codec"])  # pyright: ignore[reportCallIssue]


def _readable_metadata(uri: str, table: pa.Table) -> Iterator[Mapping[str, object]]:
    storage = Dataset.open(uri).storage
    for shard, clip_id in zip(table["shard"], table["clip_id"], strict=True):
        with suppress(*UNREADABLE):
            yield read_metadata(storage, str(shard), str(clip_id))


def sample_reader() -> SampleReader:
    """Reads clips of any dataset, and raises `BrokenSampleError` for one that it cannot read; keeps the last shards open."""
    readers: dict[str, ShardReader] = {}

    def read(row: ClipRow) -> StoredSample:
        if row.dataset not in readers:
            readers[row.dataset] = ShardReader(Dataset.open(row.dataset).storage)
        try:
            return readers[row.dataset].view(row.shard, row.clip_id)
        except UNREADABLE as error:
            raise BrokenSampleError(
                f"clip {row.clip_id} of {row.dataset} cannot be read: {error}; or go on without such clips by"
                " --set train.skip_broken=true"
            ) from error

    return read


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()


def prefetch(items: Iterable[T], *, depth: int) -> Iterator[T]:
    """The same items, made up to `depth` ahead in a thread; an error arrives where its item would have.

    The thread ends when the iterator is exhausted, closed, or forgotten.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item  # pyright: ignore[reportReturnType] - what _fill put there
    finally:
        stop.set()
        thread.join()


def _fill(items: Iterable[object], ready: "queue.Queue[object]", stop: threading.Event) -> None:
    try:
        for item in items:
            if not _put(item, ready, stop):
                return
        _put(_END, ready, stop)
    except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer's thread
        _put(_Failure(error), ready, stop)


def _put(item: object, ready: "queue.Queue[object]", stop: threading.Event) -> bool:
    """False if nobody waits for it any more."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
