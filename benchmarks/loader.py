"""How fast samples are read: ours with checksums, against a raw read of the same files, and against webdataset.

    python -m benchmarks.loader [--samples 40] [--rounds 9] [--json]

One process, one thread, files in the page cache. Each round reads everything in each way, one after the other; figures
are medians over the rounds, with the lowest and the highest. `ours` gives tensors as training takes them, views in
bfloat16 of what the shard holds, every checksum compared; `batches` goes on to fp32 batches, as training computes on them.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor
from webdataset.compat import WebDataset

from preprocessing.codecs.catalog import HUNYUAN_SIZES
from preprocessing.members import LATENTS, StoredSample, from_bfloat16
from preprocessing.samples import LatentSample, TextFeatures
from preprocessing.shards import ShardReader, tar_key, write_shard
from preprocessing.storage import Storage, open_storage
from training.batches import clip_batch

SAMPLES_A_SHARD = 10
NUM_SEGMENTS = 4
PIECE_BYTES = 8 << 20
"""Of a raw read."""


def sample(key: str, seed: int) -> LatentSample:
    """Four segments of 480 x 832 pixels, 7.4 MB, with the features of a short prompt."""
    rng = np.random.default_rng(seed)

    def data(*shape: int) -> np.ndarray:
        # finite bfloat16 numbers are enough: nothing is computed with them
        return from_bfloat16(rng.integers(0x3C00, 0x4000, shape, dtype=np.uint16))

    latents = data(16, 1 + 9 * NUM_SEGMENTS, 60, 104)
    text = TextFeatures(llama_LD=data(16, 4096), mask_L=np.ones(16, np.int64), clip_pooled_D=data(768))
    return LatentSample(
        key=key,
        latents_CTHW=latents,
        start_latent_CTHW=latents[:, :1],
        text=text,
        siglip_ND=data(4, 1152),
        metadata={"codec": asdict(HUNYUAN_SIZES)},
    )


def make_shards(storage: Storage, num_samples: int, scratch: Path) -> list[tuple[str, str]]:
    """Shards of random samples; (shard, sample) in their order."""
    names = [(f"s/{i // SAMPLES_A_SHARD}", f"clip-{i}") for i in range(num_samples)]
    for shard in dict.fromkeys(shard for shard, _ in names):
        inside = [clip for key, clip in names if key == shard]
        write_shard(storage, shard, (sample(clip, int(clip[5:])) for clip in inside), scratch=scratch)
    return names


def read_raw(paths: list[Path]) -> int:
    """Bytes of the files, read from end to end into one buffer."""
    buffer, total = memoryview(bytearray(PIECE_BYTES)), 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def tensors(stored: StoredSample) -> dict[str, Tensor]:
    """A sample's tensors in bfloat16, without a copy."""
    arrays = {name: value for name, value in vars(stored).items() if isinstance(value, np.ndarray)}
    views = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: view if view.dtype == torch.int64 else view.view(torch.bfloat16) for name, view in views.items()}


def ours(storage: Storage, names: list[tuple[str, str]]) -> Iterator[dict[str, Tensor]]:
    """Samples by name, every checksum compared."""
    reader = ShardReader(storage)
    return (tensors(reader.view(shard, clip)) for shard, clip in names)


def batches(storage: Storage, names: list[tuple[str, str]]) -> Iterator[Tensor]:
    """Batches of one clip."""
    reader, cpu = ShardReader(storage), torch.device("cpu")
    for shard, clip in names:
        stored = reader.view(shard, clip)
        yield clip_batch([stored], (0,), num_segments=NUM_SEGMENTS, device=cpu).latents_BCTHW


def webdatasets(paths: list[Path]) -> Iterator[dict[str, Tensor]]:
    """Samples in their order by webdataset's reader and safetensors', without checksums."""
    for raw in WebDataset([str(path) for path in paths], shardshuffle=False):
        text, image = load(raw["text.safetensors"]), load(raw["image.safetensors"])
        latents = load(raw[LATENTS])
        json.loads(raw["json"])
        yield {
            "latents_CTHW": latents["latents"], "start_latent_CTHW": latents["start_latent"],
            "llama_LD": text["llama"], "mask_L": text["mask"], "clip_pooled_D": text["clip_pooled"],
            "siglip_ND": image["siglip"],
        }  # fmt: skip


def refuse_unequal(left: Iterator[dict[str, Tensor]], right: Iterator[dict[str, Tensor]]) -> None:
    """Both must give the same tensors.

    Raises:
        RuntimeError: If they don't.
    """
    for a, b in zip(left, right, strict=True):
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            raise RuntimeError("the two readers give different tensors")


def seconds(read: Callable[[], object]) -> float:
    """Of reading everything."""
    begun = time.perf_counter()
    read()
    return time.perf_counter() - begun


def exhaust(items: Iterator[object]) -> None:
    """Take and forget every item."""
    for _ in items:
        pass


def measure(num_samples: int, rounds: int, folder: Path) -> dict[str, object]:
    """Megabytes a second of each way, and their ratios."""
    storage = open_storage(str(folder / "data"))
    names = make_shards(storage, num_samples, folder / "scratch")
    paths = [folder / "data" / tar_key(shard) for shard in dict.fromkeys(shard for shard, _ in names)]
    refuse_unequal(ours(storage, names), webdatasets(paths))
    num_bytes = sum(path.stat().st_size for path in paths)
    ways: dict[str, Callable[[], object]] = {
        "raw": lambda: read_raw(paths),
        "ours": lambda: exhaust(ours(storage, names)),
        "webdataset": lambda: exhaust(webdatasets(paths)),
        "batches": lambda: exhaust(batches(storage, names)),
    }
    speeds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            speeds[name].append(num_bytes / seconds(read) / 1e6)
    middle = {name: median(values) for name, values in speeds.items()}
    return {
        "sample_mb": num_bytes / num_samples / 1e6,
        "rounds": rounds,
        "mb_per_s": {name: [min(values), middle[name], max(values)] for name, values in speeds.items()},
        "ours_over_raw": middle["ours"] / middle["raw"],
        "ours_over_webdataset": middle["ours"] / middle["webdataset"],
        "batches_over_raw": middle["batches"] / middle["raw"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40, help="7.4 MB each")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # views are only read here
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.samples, arguments.rounds, Path(folder))
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
