"""A sample as the members of its shard: safetensors and JSON, never a pickle.

Floats are stored as bfloat16, rounded to nearest even; the text mask as int64. numpy has no bfloat16, so its bits are
handled as uint16 here.
"""

import json
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, TensorSpec, deserialize, serialize

from preprocessing.samples import LATENTS_PER_SEGMENT, LatentSample, TextFeatures

CLIP_ID = re.compile(r"[a-z0-9_-]+")
LATENTS = "latents.safetensors"
MEMBERS = ("image.safetensors", "json", LATENTS, "text.safetensors")
"""What every sample consists of, in the order of the tar; WebDataset keys split at the first dot."""


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


def decode_sample(key: str, members: Mapping[str, bytes]) -> LatentSample:
    """A sample from its members, named as `encode_sample` and WebDataset name them; no pickle is ever read.

    Raises:
        ValueError: If a member is missing or malformed.
    """
    missing = sorted(set(MEMBERS) - set(members))
    if missing:
        raise ValueError(f"sample {key} lacks {', '.join(missing)}")
    latents, text = _load(members[LATENTS]), _load(members["text.safetensors"])
    return LatentSample(
        key=key,
        latents_CTHW=latents["latents"],
        start_latent_CTHW=latents["start_latent"],
        text=TextFeatures(llama_LD=text["llama"], mask_L=text["mask"], clip_pooled_D=text["clip_pooled"]),
        siglip_ND=_load(members["image.safetensors"])["siglip"],
        metadata=json.loads(members["json"]),
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


def _load(data: bytes) -> dict[str, NDArray]:
    try:
        return {name: _loaded(view) for name, view in deserialize(data)}
    except SafetensorError as error:
        raise ValueError(f"a broken safetensors member: {error}") from error


def _loaded(view: Mapping[str, object]) -> NDArray:
    dtype, shape, data = view["dtype"], view["shape"], view["data"]
    assert isinstance(data, bytes | bytearray)
    assert isinstance(shape, list | tuple)
    if dtype == "I64":
        return np.frombuffer(data, np.int64).reshape(shape)
    if dtype == "BF16":
        return from_bfloat16(np.frombuffer(data, np.uint16)).reshape(shape)
    raise ValueError(f"a tensor of type {dtype}; shards hold BF16 and I64")


def stored_num_segments(latents_member: bytes) -> int:
    """Segments of a sample, from the header of its latents."""
    header = json.loads(latents_member[8 : 8 + int.from_bytes(latents_member[:8], "little")])
    return (int(header["latents"]["shape"][1]) - 1) // LATENTS_PER_SEGMENT
