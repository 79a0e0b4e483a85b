"""What scanning costs: CPU seconds of ``longtake scan`` and all it starts, Ray included, over real videos.

    python benchmarks/scan_cost.py [VIDEOS] [--repeats 5] [--json]

VIDEOS is a folder with a `manifest.jsonl`; its files of `kind: real` are used. The contenders run in turn, again and again, each
from nothing, and medians are compared:

    scan         longtake scan, with a dataset, an MLflow database and a local Ray of its own
    again        the same command once more: nothing is new, nothing is decoded
    scenedetect  one `scenedetect detect-adaptive` process a file, which finds cuts and nothing else
    decode       every file at full rate by our own readers at analysis size, in one process

`scan_over_scenedetect` and `scan_over_decode` are ratios of medians. Who used the time is seen by looking at the processes; what a
decoding child does is measured by doing the same in one process, and MLflow is what a scan of one file costs more than without it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import process_time, thread_time
from typing import Any

from cpu_seconds import UNSEEN, CpuUse, cpu_seconds

VIDEOS = Path(__file__).parents[2] / "shared" / "videos"
CONTENDERS = ("scan", "again", "scenedetect", "decode")

_BIN = Path(sys.executable).parent
_ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parents[1]),  # this checkout, also where another one is installed
    "PYTHONDONTWRITEBYTECODE": "",  # users' bytecode is kept: without it half of a start is compiling, of either contender
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"),
}
_DRIVER, _CHILDREN = "driver", "decoding children"
_LABELS = {
    "_serve()": _CHILDREN,
    "longtake": _DRIVER,
    "gcs_server": "Ray: GCS",
    "raylet/raylet": "Ray: raylet",
    "dashboard/dashboard.py": "Ray: API server",
    "DashboardAgent": "Ray: agents",
    "dashboard/agent.py": "Ray: agents",
    "RuntimeEnvAgent": "Ray: agents",
    "runtime_env/agent/main.py": "Ray: agents",
    "log_monitor.py": "Ray: log monitor",
    "autoscaler": "Ray: autoscaler",
    "default_worker.py": "Ray: workers",
    "ray::": "Ray: workers",
    "scenedetect": "scenedetect",
}
"""What a command line holds, and what its process is; the first that fits."""


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _parser().parse_args()
    files = real_files(options.videos)
    if options.only:
        print(json.dumps({"decode": decode, "parts": parts}[options.only](files)))
        return
    figures = summary(run_in_turn(files, options.repeats), inside(files))
    print(json.dumps(figures) if options.json else as_table(figures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="?", type=Path, default=VIDEOS, help="folder with a manifest.jsonl")
    parser.add_argument("--repeats", type=int, default=5, help="how often each contender runs")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--only", choices=("decode", "parts"), help=argparse.SUPPRESS)
    return parser


def real_files(videos: Path) -> list[Path]:
    """The files of kind `real`, in the manifest's order."""
    rows = [json.loads(line) for line in (videos / "manifest.jsonl").read_text().splitlines()]
    return [videos / row["file"] for row in rows if row["kind"] == "real"]


def run_in_turn(files: Sequence[Path], repeats: int) -> Mapping[str, Sequence[CpuUse]]:
    """What every contender used, each time; who begins changes from turn to turn."""
    used: dict[str, list[CpuUse]] = {name: [] for name in CONTENDERS}
    contenders: list[Callable[[], Mapping[str, CpuUse]]] = [
        lambda: _scan_twice(files),
        lambda: {
            "scenedetect": _sum([_run(_BIN / "scenedetect", "-q", "-i", file, "detect-adaptive") for file in files])
        },
        lambda: {"decode": _run(*_ourselves(files), "--only", "decode")},
    ]
    for turn in range(repeats):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            for name, use in contender().items():
                used[name].append(use)
                print(f"{name}: {use.cpu_s:.1f} CPU s, {use.wall_s:.1f} s on the clock", file=sys.stderr)
    return used


def _scan_twice(files: Sequence[Path]) -> Mapping[str, CpuUse]:
    with tempfile.TemporaryDirectory(prefix="scan-cost-") as folder:
        command = (_BIN / "longtake", "scan", *files, "--dataset", Path(folder) / "data")
        return {"scan": _run(*command), "again": _run(*command)}


def _ourselves(files: Sequence[Path]) -> list[str | Path]:
    return [sys.executable, __file__, files[0].parent]


def _run(*command: str | Path) -> CpuUse:
    use = cpu_seconds([str(word) for word in command], label=label, env=_ENVIRONMENT)
    if use.status or use.left:
        raise SystemExit(f"{command[0]} ended with status {use.status} and left {use.left} processes")
    return use


def _sum(uses: Sequence[CpuUse]) -> CpuUse:
    by_label = defaultdict[str, float](float)
    for use in uses:
        for name, used_s in use.by_label.items():
            by_label[name] += used_s
    cpu_s, wall_s = sum(use.cpu_s for use in uses), sum(use.wall_s for use in uses)
    return CpuUse(cpu_s=cpu_s, by_label=by_label, wall_s=wall_s, status=0, left=0)


def label(command: Sequence[str]) -> str:
    """Which part of a run a process is, by its command line."""
    line = " ".join(command[:4])
    return next((name for word, name in _LABELS.items() if word in line), "others")


def inside(files: Sequence[Path]) -> dict[str, float]:
    """What cannot be seen from outside: parts of the driver, and of a decoding child that takes all files."""
    imports = "import pipeline.cli, pipeline.jobs.preprocess"
    with tempfile.TemporaryDirectory(prefix="scan-cost-") as folder:
        scan = (_BIN / "longtake", "scan", files[0], "--dataset")
        tracked = _run(*scan, Path(folder) / "a" / "data").by_label[_DRIVER]
        untracked = _run(*scan, Path(folder) / "b" / "data", "--tracking-uri", "none").by_label[_DRIVER]
    alone = subprocess.run(
        [str(word) for word in (*_ourselves(files), "--only", "parts")],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **_ENVIRONMENT},
    )
    return {
        f"{_DRIVER}: interpreter and imports": _run(sys.executable, "-c", imports).cpu_s,
        f"{_DRIVER}: MLflow": tracked - untracked,
        **{f"{_CHILDREN}: {name}": used_s for name, used_s in json.loads(alone.stdout).items()},
    }


def decode(files: Sequence[Path]) -> int:
    """Decode files at full rate and analysis size, as scanning does; how many frames there are."""
    from preprocessing.config import ScanConfig
    from preprocessing.scan import analysis_size
    from preprocessing.video_io.probe import probe
    from preprocessing.video_io.read import read_frames

    count = 0
    for file in map(str, files):
        probed = probe(file)
        height_px, width_px = analysis_size(probed, ScanConfig().analysis_width_px)
        count += sum(1 for _ in read_frames(file, probed, height_px=height_px, width_px=width_px))
    return count


def parts(files: Sequence[Path]) -> dict[str, float]:
    """CPU seconds of a child's work by part; decoding, which has a thread of its own, is what the others leave."""
    from preprocessing import scan
    from preprocessing.config import MotionConfig, ScanConfig, TransitionsConfig
    from preprocessing.video_io import read

    used = defaultdict[str, float](float, {"interpreter and imports": process_time()})
    for name, owner, function in (
        ("probe and packets", scan, "probe"),
        ("probe and packets", read, "packet_table"),
        ("transitions", scan.TransitionDetector, "add"),
        ("transitions", scan.TransitionDetector, "result"),
        ("motion", scan.MotionMeter, "add"),
        ("thumbnails", scan, "_thumbnail"),
    ):
        setattr(owner, function, _timed(getattr(owner, function), name, used))
    settings = scan.ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())
    for file in files:
        for _ in scan.measure_file(str(file), settings, with_decord=True):
            pass
    return {**used, "decoding, and the loop": process_time() - sum(used.values())}


def _timed(function: Callable[..., Any], name: str, used: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: object, **kwargs: object) -> object:
        start_s = thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            used[name] += thread_time() - start_s

    return timed


def summary(used: Mapping[str, Sequence[CpuUse]], parts_s: Mapping[str, float]) -> dict[str, Any]:
    """All figures as JSON values."""
    cpu_s = {name: [round(use.cpu_s, 2) for use in uses] for name, uses in used.items()}
    medians = {name: median(figures) for name, figures in cpu_s.items()}
    labels = [*sorted({label for use in used["scan"] for label in use.by_label} - {UNSEEN}), UNSEEN]
    return {
        "scan_over_scenedetect": round(medians["scan"] / medians["scenedetect"], 3),
        "scan_over_decode": round(medians["scan"] / medians["decode"], 3),
        "cpu_s": cpu_s,
        "wall_s": {name: [round(use.wall_s, 1) for use in uses] for name, uses in used.items()},
        "processes_cpu_s": {
            name: round(median(use.by_label.get(name, 0.0) for use in used["scan"]), 2) for name in labels
        },
        "parts_cpu_s": {name: round(used_s, 2) for name, used_s in parts_s.items()},
    }


def as_table(figures: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"{'CPU seconds':40} median      least       most"]
    for name, cpu_s in figures["cpu_s"].items():
        lines.append(f"{name:40} {median(cpu_s):6.2f} {min(cpu_s):10.2f} {max(cpu_s):10.2f}")
    for title, key in (("of scan, by process", "processes_cpu_s"), ("of these, measured alone", "parts_cpu_s")):
        lines += ["", title, *(f"  {name:38} {used_s:6.2f}" for name, used_s in figures[key].items())]
    ratios = (f"{name}: {figures[name]}" for name in ("scan_over_scenedetect", "scan_over_decode"))
    return "\n".join([*lines, "", *ratios])


if __name__ == "__main__":
    main()
