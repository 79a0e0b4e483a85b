"""Whether decoding runs beside encoding: the time of a shard against the times of its two halves.

    python benchmarks/encode_overlap.py [--clips 8] [--segments 1] [--json]

A rendered 720p video is cut into clips at 480 x 832 and encoded by the `dct` codec. `decode` reads the frames and drops
them, `encode` encodes frames that lie ready, `shard` is `encode_shard`. Two cores that share nothing would give
`shard` = max(decode, encode); one after the other would give their sum.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from preprocessing.codecs.dct import DctCodec
from preprocessing.config import EncodeConfig
from preprocessing.downloads import Downloads
from preprocessing.encode import encode_shard
from preprocessing.isolation import IsolatedWorker
from preprocessing.samples import PlannedClip, PlannedShard, Split, clip_num_frames
from preprocessing.storage import open_storage
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import read_clip
from preprocessing.video_io.write import Mp4Writer

HEIGHT_PX, WIDTH_PX, FPS = 480, 832, 24
"""The paper's size and rate."""


def main() -> None:
    """Print the times, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = render(Path(folder) / "video.mp4", options.clips, options.segments)
        figures = measure(clips, Path(folder))
    for name, value in figures.items():
        print(json.dumps(figures) if options.json else f"{name:>16} {value:8.3f}")
        if options.json:
            break


def render(path: Path, num_clips: int, num_segments: int) -> tuple[PlannedClip, ...]:
    """A 720p video in motion and clips that cover it one after the other."""
    step = clip_num_frames(num_segments)
    y, x = np.mgrid[:720, :1280]
    with Mp4Writer(path, fps=FPS, width_px=1280, height_px=720) as writer:
        for t in range(num_clips * step):
            shifted = x + 3 * t
            picture = np.stack([128 + 80 * np.sin(shifted / 20), 128 + 60 * np.cos((y + t) / 15), shifted % 200], -1)
            writer.write(picture.astype(np.uint8))
    return tuple(
        PlannedClip(
            clip_id=f"clip-{k}", source_id="s", group_id="g", uri=path.name, location=str(path), caption="waves",
            licence="", split=Split.TRAIN, shot_index=0, clip_index=k, start_frame=k * step, end_frame=(k + 1) * step,
            start_s=k * step / FPS, end_s=(k + 1) * step / FPS, fps=float(FPS), num_segments=num_segments,
            height_px=HEIGHT_PX, width_px=WIDTH_PX, scores={},
        )
        for k in range(num_clips)
    )  # fmt: skip


def measure(clips: tuple[PlannedClip, ...], folder: Path) -> dict[str, float]:
    """Wall and CPU seconds of each half and of both together."""
    codec, settings = DctCodec(), EncodeConfig()
    held = list(frames(clips[0]))
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=2048) as worker:

        def shard(name: str, part: tuple[PlannedClip, ...]) -> None:
            encode_shard(
                PlannedShard(name=name, bucket="b", clips=part), codec=codec, worker=worker,
                storage=open_storage(str(folder / "dataset")), settings=settings, fingerprint="f" * 64,
                scratch=folder / "scratch", downloads=Downloads(),
            )  # fmt: skip

        shard("00000000-warm", clips[:1])  # the child's imports are not what is measured
        decode_s = timed(lambda: sum(len(frame) for clip in clips for frame in frames(clip)))
        encode_s = timed(lambda: [codec.encode_video(iter(held)) for _ in clips])
        shard_s = timed(lambda: shard("00000000-all", clips))
    return {
        "decode_s": decode_s,
        "encode_s": encode_s,
        "shard_s": shard_s,
        "shard_over_sum": shard_s / (decode_s + encode_s),
    }


def frames(clip: PlannedClip) -> Iterator[np.ndarray]:
    """A clip's frames, read in this process."""
    return read_clip(
        clip.location, probe(clip.location), start_frame=clip.start_frame, fps=clip.fps, num_frames=clip.num_frames,
        height_px=clip.height_px, width_px=clip.width_px,
    )  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    """Wall seconds of the fastest of three."""
    found = []
    for _ in range(3):
        since_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - since_s)
    return min(found)


if __name__ == "__main__":
    main()
