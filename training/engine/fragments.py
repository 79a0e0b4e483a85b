"""What the ranks hold of the trained parameters, and the files that keep it.

Every rank writes ``rank-00000.safetensors`` and so on: flat fp32 pieces of parameters, each under
``<kind>/<first element>/<parameter>``. Whoever reads takes the elements it needs from whichever file has them, so a
checkpoint fits any number of ranks and any ZeRO stage. DeepSpeed's own checkpoints fit only the ranks that wrote them,
and its universal ones lose frozen weights silently (measured on 0.19.8).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.disk_errors import disk_errors

WEIGHT, EMA = "weight", "ema"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's names for its moment estimates."""


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A piece of one trained parameter, as the optimizer of this rank updates it.

    Attributes:
        name: Of the parameter in the module.
        start: First element of the flattened parameter that is in the piece.
        tensors: By kind, flat fp32 views of one length: the weight, AdamW's moments, and what else is kept of it.
    """

    name: str
    start: int
    tensors: dict[str, Tensor] = field(repr=False)

    @property
    def weight(self) -> Tensor:
        """The elements of the parameter."""
        return self.tensors[WEIGHT]


def rank_file(folder: Path, rank: int) -> Path:
    """Where a rank keeps its fragments."""
    return folder / f"rank-{rank:05}.safetensors"


def save_fragments(path: Path, fragments: Iterable[Fragment]) -> None:
    """Write all kinds of some fragments.

    Raises:
        OSError: If the disk takes no more.
    """
    tensors = {
        f"{kind}/{fragment.start}/{fragment.name}": tensor.detach().cpu().contiguous()
        for fragment in fragments
        for kind, tensor in fragment.tensors.items()
    }
    with disk_errors(path):
        save_file(tensors, path)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A stored piece of one kind of one parameter: elements [start, end)."""

    path: Path
    key: str
    start: int
    end: int


class StoredFragments:
    """The fragments of all ranks of a checkpoint."""

    def __init__(self, folder: Path, *, num_ranks: int) -> None:
        """Reads what is there, and no data.

        Args:
            folder: The checkpoint's.
            num_ranks: How many wrote it.
        """
        self._folder = folder
        self._pieces: Mapping[tuple[str, str], list[_Piece]] = _index(
            rank_file(folder, rank) for rank in range(num_ranks)
        )

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters."""
        return frozenset(name for _, name in self._pieces)

    def has(self, kind: str) -> bool:
        """Whether anything of this kind was kept."""
        return any(kept == kind for kept, _ in self._pieces)

    def fill(self, target: Tensor, *, kind: str, name: str, start: int) -> None:
        """Copy elements [start, start + len(target)) of a parameter.

        Raises:
            ValueError: If not all of them were kept.
        """
        end, missing = start + target.numel(), target.numel()
        for piece in self._pieces.get((kind, name), ()):
            first, last = max(start, piece.start), min(end, piece.end)
            if first < last:
                with safe_open(piece.path, framework="pt") as file:
                    values = file.get_slice(piece.key)[first - piece.start : last - piece.start]
                target[first - start : last - start].copy_(values)
                missing -= last - first
        if missing:
            raise ValueError(f"{self._folder} lacks {missing} of {target.numel()} elements of the {kind} of {name}")


def _index(paths: Iterable[Path]) -> dict[tuple[str, str], list[_Piece]]:
    pieces: dict[tuple[str, str], list[_Piece]] = defaultdict(list)
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - safetensors' file is no mapping
                kind, start, name = key.split("/", 2)
                (length,) = file.get_slice(key).get_shape()
                pieces[kind, name].append(_Piece(path=path, key=key, start=int(start), end=int(start) + length))
    return pieces


@torch.no_grad()
def load_fragments(stored: StoredFragments, fragments: Sequence[Fragment]) -> None:
    """Bring fragments to what a checkpoint kept; an average that it did not keep begins at the weights.

    Raises:
        ValueError: If the checkpoint lacks something else.
    """
    for fragment in fragments:
        for kind, tensor in fragment.tensors.items():
            kept = WEIGHT if kind == EMA and not stored.has(EMA) else kind
            stored.fill(tensor, kind=kept, name=fragment.name, start=fragment.start)
