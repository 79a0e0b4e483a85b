"""Three hundred spoiled videos through `longtake preprocess`: ``python benchmarks/fuzz.py ../shared/videos --json``.

Bytes of real videos are flipped, cut, repeated and swapped (fixed seed). The run must end, leave no process, give every file a
row, and add up (`verify`); whole files that lie between the spoiled ones must get the rows that they get alone.
"""

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from random import Random
from tempfile import mkdtemp

from benchmarks.runs import SharedRay, shared_ray, start
from preprocessing.dataset import Dataset
from preprocessing.verify import verify

LARGEST_BYTES = 400_000
"""Sources that are larger are spoiled seldom: a scan of them costs seconds."""
SELDOM = 0.1
WINDOW_BYTES = 4096
CLEAN_EVERY = 25
TIMEOUT_S = 7200.0
SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".gif", ".h264"}


def flip(data: bytearray, rng: Random) -> bytearray:
    """Other bytes in up to 64 places: anywhere, or all of them close together."""
    first, width = (0, len(data)) if rng.random() < 0.5 else (_place(data, rng), WINDOW_BYTES)
    for _ in range(rng.randint(1, 64)):
        data[min(len(data) - 1, first + rng.randrange(width))] = rng.randrange(256)
    return data


def cut(data: bytearray, rng: Random) -> bytearray:
    """Without a piece: of the middle, the beginning or the end."""
    first, last = sorted((rng.choice((0, _place(data, rng))), rng.choice((len(data), _place(data, rng)))))
    del data[first:last]
    return data


def repeat(data: bytearray, rng: Random) -> bytearray:
    """A piece once more behind itself."""
    first = _place(data, rng)
    piece = data[first : first + rng.randint(1, 4 * WINDOW_BYTES)]
    data[first:first] = piece
    return data


def swap(data: bytearray, rng: Random) -> bytearray:
    """Two pieces in each other's place."""
    size = rng.randint(1, WINDOW_BYTES)
    a, b = sorted((_place(data, rng), _place(data, rng)))
    if a + size <= b:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


def _place(data: bytearray, rng: Random) -> int:
    """Anywhere; every second time where headers are, in the first or last pieces of the file."""
    near = rng.randrange(min(len(data), WINDOW_BYTES))
    return rng.choice((rng.randrange(len(data)), rng.randrange(len(data)), near, len(data) - 1 - near))


WAYS: Mapping[str, Callable[[bytearray, Random], bytearray]] = {
    "flip": flip,
    "cut": cut,
    "repeat": repeat,
    "swap": swap,
}


def spoil(videos: Path, folder: Path, *, files: int, seed: int) -> list[str]:
    """Write the spoiled files, and whole ones between them.

    Returns:
        Names of the whole ones.
    """
    rng, clean = Random(seed), []
    sources = sorted(path for path in videos.iterdir() if path.suffix in SUFFIXES and path.stat().st_size)
    small = [path for path in sources if path.stat().st_size <= LARGEST_BYTES]
    whole = [path for path in small if not path.name.startswith(("edge_", "up_", "-", "edge "))]
    folder.mkdir(parents=True)
    for k in range(files):
        source = rng.choice(sources if rng.random() < SELDOM else small)
        way = list(WAYS)[k % len(WAYS)]
        whole_bytes = data = source.read_bytes()
        while data == whole_bytes:  # two equal windows, swapped, spoil nothing
            data = WAYS[way](bytearray(whole_bytes), rng)
        (folder / f"{k:03}-{way}-{source.name}").write_bytes(data)
        if k % CLEAN_EVERY == 0:
            good = whole[k // CLEAN_EVERY % len(whole)]
            clean.append(f"{k:03}-whole-{good.name}")
            shutil.copy(good, folder / clean[-1])
    return clean


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What came of the spoiled files.

    Attributes:
        rows: Spoiled files with a row.
        outcomes: How many came to what: a reason, or `ok`.
        by_way: The same for each way of spoiling.
        clips: Verdicts, and what encoding made of the kept ones.
        slowest: The slowest scans, in seconds where the ledger says so.
        faults: What is wrong; nothing if all is well.
    """

    files: int
    rows: int
    outcomes: Mapping[str, int]
    by_way: Mapping[str, Mapping[str, int]]
    clips: Mapping[str, int]
    slowest: Mapping[str, float]
    wall_s: float
    faults: Sequence[str]


def judge(
    dataset: Dataset,
    alone: Dataset,
    said: Mapping,
    clean: Sequence[str],
    *,
    files: int,
    wall_s: float,
    left: Sequence[str],
) -> Findings:
    """Hold a finished run against what must be true of it, and the whole files against a run of their own."""
    rows = _rows_by_name(dataset)
    spoiled = {name: row for name, row in rows.items() if name not in clean}
    outcomes = {name: "+".join(row["reasons"]) or "ok" for name, row in spoiled.items()}
    by_way = {way: Counter(o for name, o in outcomes.items() if name.split("-")[1] == way) for way in WAYS}
    summary = said["dataset"]
    clips = {"kept": summary["kept"], "dropped": sum(summary["dropped"].values()), "in_version": summary["in_version"], "encode_failed": summary["encode_failed"], "waiting": summary["waiting"]}  # fmt: skip
    harmed = [name for name in clean if _facts(dataset, name) != _facts(alone, name)]
    seconds = {name: float(row["scan_wall_s"] or 0) for name, row in rows.items()}
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:5]
    return Findings(
        files=files,
        rows=len(spoiled),
        outcomes=dict(Counter(outcomes.values()).most_common()),
        by_way={way: dict(counts.most_common()) for way, counts in by_way.items()},
        clips=clips,
        slowest={name: round(seconds[name], 1) for name in slowest},
        wall_s=round(wall_s, 1),
        faults=[
            *[f"{files - len(spoiled)} files have no row"][: files != len(spoiled)],
            *(f"harmed: {name}" for name in harmed),
            *(f"left: {title}" for title in left),
            *verify(dataset),
        ],
    )


def _rows_by_name(dataset: Dataset) -> dict[str, dict]:
    return {PurePosixPath(row["uri"]).name: row for row in dataset.ledger.sources().to_pylist()}


def _facts(dataset: Dataset, name: str) -> object:
    """What a scan found of a source, and what was decided of it."""
    row = _rows_by_name(dataset).get(name)
    if row is None:
        return None
    source_id = row["source_id"]
    tables = (dataset.ledger.transitions(), dataset.ledger.clips())
    found = [[r for r in table.to_pylist() if r["source_id"] == source_id] for table in tables]
    names = ("status", "reasons", "num_frames", "fps", "duration_s", "width_px", "height_px", "num_shots", "decoder")
    return {name: row[name] for name in names}, found


def preprocess(
    videos: Path, dataset: Path, log: Path, timeout_s: float, cluster: SharedRay | None
) -> tuple[dict, float, list[str]]:
    """Run the command; what it said, how long it took, what it left."""
    settings = ("encode.sizes_px=[[64, 64]]", "cluster.wave_sources=50", f"scan.progress_timeout_s={timeout_s}")
    words = [word for setting in settings for word in ("--set", setting)]
    since_s = time.monotonic()
    words = ["preprocess", str(videos), "--dataset", str(dataset), *words, "--tracking-uri", "none", "--json"]
    run = start(*words, log=log, cluster=cluster)
    run.family.living()
    said = run.finish(TIMEOUT_S)
    return said, time.monotonic() - since_s, run.left()


def lines(found: Findings) -> list[str]:
    """For people."""
    outcomes = [f"  {number:>4}  {outcome}" for outcome, number in found.outcomes.items()]
    ways = [f"  {way:<7} {counts}" for way, counts in found.by_way.items()]
    return [
        f"{found.rows} of {found.files} spoiled files have a row; {found.wall_s} s", *outcomes, *ways,
        f"clips: {dict(found.clips)}", f"slowest: {dict(found.slowest)}",
        *(found.faults or ["whole files unharmed, no process left, totals reconcile"]),
    ]  # fmt: skip


def main() -> None:
    """Spoil, run, judge; exit 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("videos", type=Path, help="folder of real videos")
    parser.add_argument("--files", type=int, default=300, help="spoiled files")
    parser.add_argument("--seed", type=int, default=1, help="draws what is spoiled where")
    parser.add_argument("--timeout", type=float, default=15.0, help="progress deadline, in seconds")
    parser.add_argument("--folder", type=Path, help="where to work; default: a new temporary folder")
    parser.add_argument("--shared-ray", action="store_true", help="start Ray before, and not by the command")
    parser.add_argument("--nice", type=int, default=0, help="yield to others, once a shared Ray is up")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    folder = options.folder or Path(mkdtemp(prefix="longtake-fuzz-"))
    with shared_ray(options.shared_ray, nice=options.nice) as cluster:
        found = fuzz(options, folder, cluster)
    print(json.dumps(asdict(found)) if options.json else "\n".join(lines(found)))
    sys.exit(bool(found.faults))


def fuzz(options: argparse.Namespace, folder: Path, cluster: SharedRay | None) -> Findings:
    """Spoil, run the whole files alone and all together, judge."""
    together, by_themselves = (
        folder / name / "videos" for name in ("together", "alone")
    )  # the last name is in a source's id
    clean = spoil(options.videos, together, files=options.files, seed=options.seed)
    by_themselves.mkdir(parents=True)
    for name in clean:
        shutil.copy(together / name, by_themselves)
    preprocess(by_themselves, folder / "reference", folder / "alone.log", options.timeout, cluster)
    said, wall_s, left = preprocess(together, folder / "dataset", folder / "fuzz.log", options.timeout, cluster)
    alone, dataset = (Dataset.open(str(folder / name)) for name in ("reference", "dataset"))
    return judge(dataset, alone, said, clean, files=options.files, wall_s=wall_s, left=left)


if __name__ == "__main__":
    main()
