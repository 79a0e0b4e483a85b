"""Peak memory of scanning long videos and of encoding a minute: ``python benchmarks/memory.py --minutes 5 10 20 60 --json``.

The videos are made by writing the packets of one short group of pictures, a pan that closes on itself, again and again with
later time stamps. Peaks are those of resident memory (VmHWM), of the decoding child and of the process that a Ray worker would be;
Ray's own share is not in it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple, Self

import av
import numpy as np

from benchmarks.marks import peak_rss_mb
from preprocessing.codecs.catalog import load_codec
from preprocessing.config import EncodeConfig, MotionConfig, ScanConfig, TransitionsConfig
from preprocessing.downloads import Downloads
from preprocessing.encode import encode_shard
from preprocessing.isolation import IsolatedWorker
from preprocessing.samples import PlannedClip, PlannedShard, Source, Split
from preprocessing.scan import ScanSettings, scan_source
from preprocessing.storage import open_storage
from preprocessing.video_io.write import Mp4Writer

LIMIT_MB = 1500.0
STEP_PX = 20
"""The picture moves so far from frame to frame; 1920 and 840 are multiples."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What one piece of work needed.

    Attributes:
        frames: Frames decoded.
        child_mb: Most memory of the decoding child, in MiB.
        worker_mb: Most memory of the process above it.
    """

    what: str
    frames: int
    child_mb: float
    worker_mb: float
    cpu_s: float


def render(path: Path, *, height_px: int, width_px: int, fps: float, seconds: float) -> None:
    """A pan over a picture without seams, over and over."""
    loop = path.with_suffix(".loop.mp4")
    picture_HW3 = _picture(height_px, width_px)
    num_frames = width_px // STEP_PX
    with Mp4Writer(loop, fps=fps, width_px=width_px, height_px=height_px) as writer:
        for k in range(num_frames):
            writer.write(np.roll(picture_HW3, -k * STEP_PX, axis=1))
    _repeat(loop, path, round(seconds * fps / num_frames))
    loop.unlink()


def _picture(height_px: int, width_px: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    coarse = rng.integers(30, 220, (height_px // 40, width_px // 40, 3)).astype(np.uint8)
    return coarse.repeat(40, axis=0).repeat(40, axis=1)[:height_px, :width_px]


def _repeat(loop: Path, path: Path, times: int) -> None:
    with av.open(str(loop)) as given, av.open(str(path), "w") as made:
        source = given.streams.video[0]
        stream = made.add_stream_from_template(source)
        packets = [_Packet.of(packet) for packet in given.demux(source) if packet.size]
        length = sum(packet.duration for packet in packets)
        for i in range(times):
            for kept in packets:
                made.mux(kept.later(i * length, stream))


class _Packet(NamedTuple):
    data: bytes
    pts: int
    dts: int
    duration: int
    is_keyframe: bool
    time_base: Fraction

    @classmethod
    def of(cls, packet: Any) -> Self:  # noqa: ANN401 - PyAV's types allow no stamps
        return cls(bytes(packet), packet.pts, packet.dts, packet.duration, packet.is_keyframe, packet.time_base)

    def later(self, ticks: int, stream: Any) -> av.Packet:  # noqa: ANN401
        packet = av.Packet(self.data)
        packet.stream, packet.is_keyframe, packet.duration = stream, self.is_keyframe, self.duration
        packet.pts, packet.dts = self.pts + ticks, self.dts + ticks
        packet.time_base = self.time_base
        return packet


class _Watch:
    """Follows the child's peak while a worker works; the child is gone when it has ended."""

    def __init__(self, worker: IsolatedWorker) -> None:
        self.child_mb = 0.0
        self._worker, self._stop = worker, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(0.2):
            pid = self._worker.pid
            self.child_mb = max(self.child_mb, peak_rss_mb(pid) if pid else 0.0)

    def stop(self) -> float:
        self._stop.set()
        self._thread.join()
        return self.child_mb


def scan(path: Path) -> Peak:
    """A scan with the default settings."""
    settings = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())
    limits = settings.scan
    source = Source(source_id="a", group_id="a", uri=path.name, location=str(path), content_id="")
    with IsolatedWorker(progress_timeout_s=limits.progress_timeout_s, memory_limit_mb=limits.memory_limit_mb) as worker:
        watch = _Watch(worker)
        found = scan_source(source, settings, worker)
        child_mb, cpu_s = watch.stop(), worker.spent().cpu_s
    if not found.ok:
        raise RuntimeError(f"{path}: {found.message}")
    return Peak(
        what=f"scan {path.stem} ({found.decoder})", frames=found.num_frames, child_mb=child_mb,
        worker_mb=peak_rss_mb(os.getpid()), cpu_s=round(cpu_s, 1),
    )  # fmt: skip


def encode(path: Path) -> Peak:
    """A minute at 480 x 832 through the `dct` codec."""
    settings = EncodeConfig(sizes_px=((480, 832),))
    clip = PlannedClip(
        clip_id="a", source_id="a", group_id="a", uri=path.name, location=str(path), caption="", licence="",
        split=Split.TRAIN, shot_index=0, clip_index=0, start_frame=0, end_frame=1441, start_s=0.0, end_s=60.0, fps=24.0,
        num_segments=40, height_px=480, width_px=832, scores={},
    )  # fmt: skip
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=3072) as worker:
        watch = _Watch(worker)
        record = encode_shard(
            PlannedShard(name="00000000-a", bucket="480x832", clips=(clip,)), codec=load_codec(settings), worker=worker,
            storage=open_storage(str(path.parent / "dataset")), settings=settings, fingerprint="0" * 16,
            scratch=path.parent / "scratch", downloads=Downloads(),
        )  # fmt: skip
        child_mb, cpu_s = watch.stop(), worker.spent().cpu_s
    if not record.clip_ids:
        raise RuntimeError(f"{path}: {dict(record.failed)}")
    return Peak(
        what="encode 60 s at 480 x 832", frames=clip.num_frames, child_mb=child_mb, worker_mb=peak_rss_mb(os.getpid()),
        cpu_s=round(cpu_s, 1),
    )  # fmt: skip


WORK: dict[str, Callable[[Path], Peak]] = {"scan": scan, "encode": encode}


def in_a_process(what: str, path: Path) -> Peak:
    """Each in a process of its own: a peak never falls."""
    command = [sys.executable, __file__, "--work", what, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Peak(**json.loads(done.stdout))


def main() -> None:
    """Make the videos, measure, print; exit 1 if anything needs more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, nargs="*", default=[5.0, 10.0, 20.0, 60.0], help="lengths to scan")
    parser.add_argument("--fps", type=float, default=24.0, help="rate of the 1080p videos")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(asdict(WORK[options.work[0]](Path(options.work[1])))))
        return
    folder = Path(mkdtemp(prefix="longtake-memory-"))
    peaks = []
    for minutes in options.minutes:
        path = folder / f"{minutes:g}min.mp4"
        render(path, height_px=1080, width_px=1920, fps=options.fps, seconds=60 * minutes)
        peaks.append(in_a_process("scan", path))
        print(peaks[-1], file=sys.stderr, flush=True)
        path.unlink()
    render(folder / "minute.mp4", height_px=480, width_px=840, fps=24.0, seconds=64.0)
    peaks.append(in_a_process("encode", folder / "minute.mp4"))
    shutil.rmtree(folder)
    highest_mb = max(max(peak.child_mb, peak.worker_mb) for peak in peaks)
    if options.json:
        print(
            json.dumps(
                {"highest_mb": round(highest_mb), "limit_mb": LIMIT_MB, "peaks": [asdict(peak) for peak in peaks]}
            )
        )
    else:
        print(
            "\n".join(
                f"{p.what:<32} {p.frames:>7} frames, child {p.child_mb:6.0f} MiB, worker {p.worker_mb:6.0f} MiB"
                for p in peaks
            )
        )
    sys.exit(highest_mb > LIMIT_MB)


if __name__ == "__main__":
    main()
