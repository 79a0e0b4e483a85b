"""How deciding, planning and replaying grow: a million clips, a ledger of 10,000, a night over 100,000 known sources.

    python benchmarks/plan_scale.py [--json] [--only clips|replay|night]

Everything is generated with a fixed seed. Seconds are CPU time of this process and its children, memory is the peak so far.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import Recipe, load_recipe
from pipeline.decisions import decide_fingerprint, recipe_clips
from preprocessing import plan_rows, rows
from preprocessing.config import DecideConfig, PlanConfig, SourcesConfig
from preprocessing.dataset import SCAN_SETTINGS, Dataset, manifest_table
from preprocessing.decide import decide
from preprocessing.motion import SERIES
from preprocessing.parts import Parts
from preprocessing.plan import kept_clips, latent_bytes, pending_shards, plan
from preprocessing.samples import (
    CodecRecord,
    Probe,
    ShardRecord,
    Signals,
    Source,
    SourceScan,
    Transition,
    TransitionKind,
)
from preprocessing.splits import splits_of

T = TypeVar("T")

SEED = 7
PER_SOURCE = 5
"""Clips of every generated source."""
EVAL_PERCENT = SourcesConfig().eval_percent
SCANS_PER_PART = 64
FINGERPRINT = "0123456789abcdef"
SIZES_PX = [(480, 832), (832, 480), (640, 640)]
CODEC = CodecRecord(
    codec_id="generated", latent_channels=16, spatial_stride=8, text_dim=8, text_tokens=4, pooled_dim=4, image_dim=4,
    image_tokens=4, weights_sha256="", options={},
)  # fmt: skip

REPLAYS = {
    "thresholds": "decide.min_dynamism=6.0",
    "frame rate": "clips.fps=12.0",
    "clip length": "clips.max_segments=2",
    "policy": "clips.policy=longest",
    "guard band": "clips.guard_s=0.5",
}
"""Each kind of setting that is replayed without decoding."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step took: CPU seconds of this process and the children it waited for, and the peak of memory until then."""

    name: str
    result: str
    cpu_s: float
    peak_gb: float


class Steps:
    """Measures steps one after the other."""

    def __init__(self) -> None:
        """Nothing measured yet."""
        self.done: list[Step] = []

    def take(self, name: str, work: Callable[[], T], say: Callable[[T], str]) -> T:
        """The step's outcome, and a row about it."""
        before = cpu_s()
        outcome = work()
        spent = cpu_s() - before
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        step = Step(name=name, result=say(outcome), cpu_s=round(spent, 2), peak_gb=round(peak / 2**20, 2))
        self.done.append(step)
        line = f"{step.name:52} {step.result:36} {step.cpu_s:8.2f} s {step.peak_gb:6.2f} GB"
        print(line, file=sys.stderr, flush=True)
        return outcome


def cpu_s() -> float:
    """CPU seconds of this process and of the children it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


# --- what is generated ---


def ids(number: int) -> list[str]:
    """Source ids, 16 hex digits, in the order of their uris."""
    return [f"{i * 2654435761 % 2**64:016x}" for i in range(number)]


def make_sources(number: int) -> pa.Table:
    """Rows of sources that are `ok`, in parts of `SCANS_PER_PART` (schema `rows.SOURCES`)."""
    sizes = np.array([(1080, 1920), (1920, 1080), (720, 1280), (720, 720)])[np.arange(number) % 4]
    columns = {
        "source_id": ids(number),
        "group_id": ids(number),
        "uri": [f"videos/{i // 1000:04d}/{i:09d}.mp4" for i in range(number)],
        "location": [f"/data/raw/videos/{i // 1000:04d}/{i:09d}.mp4" for i in range(number)],
        "caption": [f"A camera moves along street {i} of a town at the sea, in the evening." for i in range(number)],
        "content_id": [f"{i + 10_000_000}-1700000000000000000" for i in range(number)],
        "status": ["ok"] * number,
        "fingerprint": ["scan"] * number,
        "duration_s": np.full(number, 50.0),
        "height_px": sizes[:, 0],
        "width_px": sizes[:, 1],
        "scan_part": np.arange(number) // SCANS_PER_PART,
        **{name: [[]] * number for name in ("reasons", "extra")},
        **{name: [""] * number for name in ("reason", "message", "licence", "probe", "sha256", "crop")},
    }
    arrays = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(number, f.type) for f in rows.SOURCES
    ]
    return pa.Table.from_arrays(arrays, schema=rows.SOURCES)


def make_candidates(number: int, rng: np.random.Generator) -> pa.Table:
    """Candidates with scores as real ones have them; nine in ten pass (schema `rows.CANDIDATES`)."""
    index, source = np.arange(number) % PER_SOURCE, np.arange(number) // PER_SOURCE
    segments = rng.integers(1, 7, number)
    starts = index * 240
    ends = starts + 36 * segments + 1
    source_ids = np.array(ids(-(-number // PER_SOURCE)))[source]
    names = zip(source_ids, index, starts, ends, strict=True)
    columns = {
        "clip_id": [f"{source_id}-000-{i:03d}-{a}-{b}-24000" for source_id, i, a, b in names],
        "source_id": source_ids,
        "shot_index": np.zeros(number, np.int32),
        "clip_index": index,
        "start_frame": starts,
        "end_frame": ends,
        "start_s": starts / 24,
        "end_s": ends / 24,
        "fps": np.full(number, 24.0),
        "num_segments": segments,
        "scores": make_scores(number, rng),
    }
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in rows.CANDIDATES], schema=rows.CANDIDATES)


def make_scores(number: int, rng: np.random.Generator) -> pa.StructArray:
    """Some scores; the others were not measured."""
    scores = {
        "height_px": np.full(number, 720.0), "source_fps": np.full(number, 24.0), "transitions": np.zeros(number),
        "dynamism": np.round(rng.gamma(1.5, 5.0, number), 4), "long_dynamism": np.round(rng.gamma(1.5, 5.0, number), 4),
        "active_share": np.round(rng.beta(5, 1, number), 4), "black_share": np.round(rng.beta(1, 40, number), 4),
        "caption_words": np.full(number, 15.0),
    }  # fmt: skip
    fields = [pa.array(scores[name]) if name in scores else pa.nulls(number, pa.float64()) for name in rows.SCORES]
    return pa.StructArray.from_arrays(fields, names=list(rows.SCORES))


def as_clips(decided: pa.Table) -> pa.Table:
    """Decided candidates as the ledger holds them (schema `rows.CLIPS`); each source is a group of its own."""
    split = splits_of(decided["source_id"], EVAL_PERCENT)
    dynamism = pa.nulls(decided.num_rows, pa.float64())
    return decided.append_column("dynamism", dynamism).append_column("split", split).cast(rows.CLIPS)


def make_scan(i: int, source_id: str, rng: np.random.Generator) -> SourceScan:
    """A minute of video of five shots, with signals as a scan measures them; there is no file."""
    num_frames, fps = 1440, 24.0
    cuts = np.sort(rng.choice(np.arange(240, num_frames - 120, 60), PER_SOURCE - 1, replace=False))
    times_s = np.arange(0.5, num_frames / fps, 0.25)
    motion = {name: rng.gamma(2.0, 3.0, len(times_s)).astype(np.float32) for name in SERIES}
    motion |= {name: np.full(len(times_s), gap, np.float32) for name, gap in (("span_s", 0.5), ("far_span_s", 1.0))}
    return SourceScan(
        source=Source(
            source_id=source_id, group_id=source_id, uri=f"videos/{i:06d}.mp4", location=f"/raw/{i:06d}.mp4",
            content_id=f"{i}-1", caption="A street at the sea.",
        ),
        ok=True, reasons=(), message="", num_frames=num_frames, decoder="pyav",
        probe=Probe(
            codec="h264", stream_index=0, pixel_format="yuv420p", width_px=1280, height_px=720, rotation_deg=0, fps=fps,
            num_frames_declared=num_frames, duration_s=60.0,
        ),
        transitions=tuple(
            Transition(kind=TransitionKind.CUT, start_frame=int(cut), end_frame=int(cut), score=0.9) for cut in cuts
        ),
        signals=Signals(
            timestamps_s=np.arange(num_frames) / fps, luma=rng.uniform(60, 180, num_frames).astype(np.float32),
            motion_times_s=times_s, motion=motion, change=rng.uniform(4, 30, num_frames).astype(np.float32),
        ),
        thumbnails=(),
    )  # fmt: skip


# --- a million clips ---


def measure_clips(steps: Steps, number: int) -> None:
    """Decided, joined to their sources, planned, planned again, and named in a manifest."""
    sources, found = make_sources(number // PER_SOURCE), make_candidates(number, np.random.default_rng(SEED))
    decided = steps.take(f"decide {number:,} clips", lambda: decide(found, DecideConfig()), rows_of)
    clips, empty = as_clips(decided), plan_rows.PLAN.empty_table()
    kept = steps.take(
        "join the kept ones to their sources",
        lambda: kept_clips(sources, clips, SIZES_PX, eval_percent=EVAL_PERCENT),
        rows_of,
    )
    planned = steps.take("plan them", lambda: plan_generated(kept, empty), shards_of)
    steps.take("plan them again: nothing is added", lambda: plan_generated(kept, planned), shards_of)
    steps.take("shards to encode", lambda: pending_shards(planned, (), FINGERPRINT), shards_of)
    records = list(generated_records(planned))
    steps.take("name all samples in a manifest", lambda: manifest_of(kept, planned, records), rows_of)


def plan_generated(kept: pa.Table, so_far: pa.Table) -> pa.Table:
    """As the driver plans."""
    return plan(kept, so_far, PlanConfig(), latent_bytes=sizes_of, encode_fingerprint=FINGERPRINT)


def sizes_of(clips: pa.Table) -> NDArray[np.int64]:
    """Bytes of each clip's latents."""
    return latent_bytes(clips, CODEC)


def manifest_of(kept: pa.Table, planned: pa.Table, records: list[ShardRecord]) -> pa.Table:
    """As the driver names a version."""
    return manifest_table(kept, planned, records, latents_bytes=sizes_of, encode_fingerprint=FINGERPRINT)


def generated_records(planned: pa.Table) -> Iterator[ShardRecord]:
    """As if every shard was encoded."""
    keys, clip_ids = plan_rows.shard_keys(planned), planned["clip_id"]
    for start, end in plan_rows.shard_ranges(planned):
        of_shard = tuple(map(str, clip_ids[start:end].to_pylist()))
        yield ShardRecord(key=str(keys[start]), sha256="0" * 64, size=1, clip_ids=of_shard, failed={})


def rows_of(table: pa.Table) -> str:
    """For people."""
    return f"{table.num_rows:,} rows"


def shards_of(planned: pa.Table) -> str:
    """For people."""
    return f"{len(plan_rows.shard_ranges(planned)):,} shards of {planned.num_rows:,} clips"


# --- replay ---


def measure_replay(steps: Steps, number: int) -> None:
    """`longtake plan --dry-run` on a stored ledger, as a process of its own; no video exists."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, recipe, rng = Dataset.create(folder), load_recipe("embedded", ()), np.random.default_rng(SEED)
        recipe_json, scanned = recipe.model_dump(mode="json"), {SCAN_SETTINGS: "scan"}
        dataset.write_record(replace(dataset.record(), recipe=recipe_json, fingerprints=scanned))
        scans = [make_scan(i, source_id, rng) for i, source_id in enumerate(ids(number // PER_SOURCE))]
        for first in range(0, len(scans), SCANS_PER_PART):
            dataset.ledger.append_scans(scans[first : first + SCANS_PER_PART], "scan")
        steps.take(f"decide {len(scans):,} sources and store it", lambda: store_decisions(dataset, recipe), rows_of)
        for kind, override in REPLAYS.items():
            steps.take(f"dry run of another {kind}", lambda override=override: dry_run(folder, override), str)


def store_decisions(dataset: Dataset, recipe: Recipe) -> pa.Table:
    """What the driver decides first."""
    clips = recipe_clips(dataset.ledger.iterate_scans(None), recipe)
    dataset.ledger.append_clips(clips, dataset.ledger.source_ids(), fingerprint=decide_fingerprint(recipe))
    return clips


def dry_run(dataset: str, override: str) -> str:
    """The whole process, imports included."""
    program = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", program, "plan", "--dataset", dataset, "--dry-run", "--json", "--set", override]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return f"{said['kept']:,} kept, {sum(said['dropped'].values()):,} dropped"


# --- nights ---


def measure_night(steps: Steps, number: int, waves: int) -> None:
    """Planning in waves from nothing, and the next night over the same sources, with all commits to a local disk."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, recipe = Dataset.create(folder), load_recipe("embedded", ())
        store_scanned(dataset, number, recipe)
        for name in ("from nothing", "a night without news"):
            steps.take(
                f"plan {number:,} sources in {waves} waves, {name}",
                lambda: all_waves(folder, recipe, number, waves),
                str,
            )


def store_scanned(dataset: Dataset, number: int, recipe: Recipe) -> None:
    """Sources in the parts that scanning writes, decisions in one part a wave, and a codec that is known."""
    from pipeline.jobs.stored_settings import ENCODE_SETTINGS, codec_settings

    fingerprints = {SCAN_SETTINGS: "scan", ENCODE_SETTINGS: codec_settings(recipe)}
    dataset.write_record(replace(dataset.record(), codec=CODEC, fingerprints=fingerprints))
    sources, parts = make_sources(number), Parts(dataset.storage)
    for part in range(-(-number // SCANS_PER_PART)):
        parts.write("sources", part, sources.slice(part * SCANS_PER_PART, SCANS_PER_PART))
    clips = as_clips(decide(make_candidates(number * PER_SOURCE, np.random.default_rng(SEED)), recipe.decide))
    size, settings = 256, decide_fingerprint(recipe)
    for first in range(0, number, size):
        own = [str(source_id) for source_id in sources["source_id"].slice(first, size).to_pylist()]
        dataset.ledger.append_clips(clips.slice(first * PER_SOURCE, size * PER_SOURCE), own, fingerprint=settings)


def all_waves(dataset_uri: str, recipe: Recipe, number: int, waves: int) -> str:
    """What `preprocess` does between scanning and encoding, wave by wave, in a process that knows nothing yet."""
    from pipeline.jobs.driver import Driver

    source_ids, size = ids(number), -(-number // waves)
    first, *later = [source_ids[start : start + size] for start in range(0, number, size)]
    with ExitStack() as stack:
        driver = Driver(Dataset.open(dataset_uri), dataset_uri, recipe, None, stack)
        others = driver.sources_to_decide() - {source_id for wave in later for source_id in wave}
        assert set(first) <= others
        added = [driver.decide_and_plan(wave).num_rows for wave in (others, *later)]
    return f"{sum(added):,} clips planned"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["clips", "replay", "night"])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--replay", type=int, default=10_000)
    parser.add_argument("--sources", type=int, default=100_000)
    parser.add_argument("--waves", type=int, default=400)
    options = parser.parse_args()
    steps = Steps()
    if options.only in (None, "clips"):
        measure_clips(steps, options.clips)
    if options.only in (None, "replay"):
        measure_replay(steps, options.replay)
    if options.only in (None, "night"):
        measure_night(steps, options.sources, options.waves)
    if options.json:
        print(json.dumps({"seed": SEED, "steps": [asdict(step) for step in steps.done]}))


if __name__ == "__main__":
    main()
