"""A sample as the members of its shard: safetensors and JSON, never a pickle.

Floats are stored as bfloat16, rounded to nearest even; the text mask as int64. numpy has no bfloat16, so its bits are
handled as uint16 here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize

from preprocessing.samples import LATENTS_PER_SEGMENT, LatentSample, TextFeatures

CLIP_ID = re.compile(r"[a-z0-9_-]+")
LATENTS = "latents.safetensors"
MEMBERS = ("image.safetensors", "json", LATENTS, "text.safetensors")
"""What every sample consists of, in the order of the tar; WebDataset keys split at the first dot."""

HEADER_SIZE = 8
"""Bytes of a safetensors file that give the length of its header."""

NUMPY_TYPES = {"BF16": np.uint16, "I64": np.int64}
"""How numpy holds the types of a shard's tensors."""


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to nearest, ties to even.

    Raises:
        ValueError: If a value is not finite; a NaN in a shard would poison a training.
    """
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    return rounded.astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 numbers with these upper halves; exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode_sample(sample: LatentSample) -> dict[str, bytes]:
    """The members of a sample, by the part of their name after the first dot.

    Raises:
        ValueError: If the key is not a clip id, or a value is not finite.
    """
    if not CLIP_ID.fullmatch(sample.key):
        raise ValueError(f"{sample.key!r} is not a clip id: expected [a-z0-9_-]+")
    text = sample.text
    try:
        return {
            "image.safetensors": _save({"siglip": sample.siglip_ND}),
            "json": json.dumps(dict(sample.metadata), sort_keys=True, ensure_ascii=False, allow_nan=False).encode(),
            LATENTS: _save({"latents": sample.latents_CTHW, "start_latent": sample.start_latent_CTHW}),
            "text.safetensors": _save(
                {"llama": text.llama_LD, "mask": text.mask_L, "clip_pooled": text.clip_pooled_D},
            ),
        }
    except ValueError as error:
        raise ValueError(f"{sample.key} cannot be stored: {error}") from error


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A sample as its shard holds it: views of the bytes that were read, bfloat16 numbers as their bits.

    Nothing is copied or converted before it is known which segments are wanted. The arrays are read-only.

    Attributes:
        key: The clip's id.
        latents_CTHW: Bits of the clip's latents, (C, 1 + 9 n, h, w).
        start_latent_CTHW: Bits of its first frame encoded alone.
        llama_LD: Bits of the prompt's tokens.
        mask_L: Which of them are real.
        clip_pooled_D: Bits of the pooled prompt.
        siglip_ND: Bits of the first frame's features.
        metadata: As `LatentSample` has it.
    """

    key: str
    latents_CTHW: NDArray[np.uint16]
    start_latent_CTHW: NDArray[np.uint16]
    llama_LD: NDArray[np.uint16]
    mask_L: NDArray[np.int64]
    clip_pooled_D: NDArray[np.uint16]
    siglip_ND: NDArray[np.uint16]
    metadata: Mapping[str, object]

    def decoded(self) -> LatentSample:
        """The numbers."""
        return LatentSample(
            key=self.key,
            latents_CTHW=from_bfloat16(self.latents_CTHW),
            start_latent_CTHW=from_bfloat16(self.start_latent_CTHW),
            text=TextFeatures(
                llama_LD=from_bfloat16(self.llama_LD),
                mask_L=self.mask_L,
                clip_pooled_D=from_bfloat16(self.clip_pooled_D),
            ),
            siglip_ND=from_bfloat16(self.siglip_ND),
            metadata=self.metadata,
        )


def decode_sample(key: str, members: Mapping[str, bytes]) -> LatentSample:
    """A sample from its members, named as `encode_sample` and WebDataset name them; no pickle is ever read.

    Raises:
        ValueError: If a member is missing or malformed.
    """
    return view_sample(key, members).decoded()


def view_sample(key: str, members: Mapping[str, bytes | memoryview]) -> StoredSample:
    """The same without a copy.

    Raises:
        ValueError: If a member is missing or malformed.
    """
    missing = sorted(set(MEMBERS) - set(members))
    if missing:
        raise ValueError(f"sample {key} lacks {', '.join(missing)}")
    latents, text = _load(members[LATENTS]), _load(members["text.safetensors"])
    return StoredSample(
        key=key,
        latents_CTHW=latents["latents"],
        start_latent_CTHW=latents["start_latent"],
        llama_LD=text["llama"],
        mask_L=text["mask"],
        clip_pooled_D=text["clip_pooled"],
        siglip_ND=_load(members["image.safetensors"])["siglip"],
        metadata=json.loads(bytes(members["json"])),
    )


def _save(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    stored = {name: _stored(values) for name, values in tensors.items()}
    return bytes(
        serialize(
            {
                name: TensorSpec(dtype=dtype, shape=values.shape, data_ptr=values.ctypes.data, data_len=values.nbytes)
                for name, (dtype, values) in stored.items()
            }
        )
    )


def _stored(values: NDArray[np.generic]) -> tuple[str, NDArray[np.generic]]:
    if values.dtype == np.int64:
        return "int64", np.ascontiguousarray(values)
    return "bfloat16", to_bfloat16(values.astype(np.float32, copy=False))


def _load(data: bytes | memoryview) -> dict[str, NDArray]:
    """Views of a safetensors file; the package's own reader would copy."""
    header, begin = _header(data)
    try:
        return {name: _view(data, begin, tensor) for name, tensor in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"a broken safetensors member: {error}") from error


def _header(data: bytes | memoryview) -> tuple[dict[str, dict], int]:
    """What a safetensors file says of its tensors, and where their bytes begin."""
    begin = HEADER_SIZE + int.from_bytes(data[:HEADER_SIZE], "little")
    try:
        return json.loads(bytes(data[HEADER_SIZE:begin])), begin
    except ValueError as error:
        raise ValueError(f"a broken safetensors member: {error}") from error


def _view(data: bytes | memoryview, begin: int, tensor: Mapping[str, Any]) -> NDArray:
    if tensor["dtype"] not in NUMPY_TYPES:
        raise ValueError(f"a tensor of type {tensor['dtype']}; shards hold BF16 and I64")
    start, end = tensor["data_offsets"]
    if not 0 <= start <= end <= len(data) - begin:
        raise ValueError(f"bytes {start} to {end} of {len(data) - begin}")
    values = np.frombuffer(data, np.uint8, count=end - start, offset=begin + start)
    return values.view(NUMPY_TYPES[tensor["dtype"]]).reshape(tensor["shape"])


def stored_num_segments(latents_member: bytes) -> int:
    """Segments of a sample, from the header of its latents."""
    header, _ = _header(latents_member)
    return (int(header["latents"]["shape"][1]) - 1) // LATENTS_PER_SEGMENT
