from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing.config import ReportConfig
from preprocessing.dataset import Dataset
from preprocessing.effort import Effort
from preprocessing.listing import InputSize
from preprocessing.report.pilot import Basis, Estimate, Pilot, pilot, ratio_estimate
from preprocessing.report.settings import ReportSettings
from preprocessing.report.work import Skipped
from preprocessing.samples import PlannedShard, ShardRecord, Source, Verdict
from tests.preprocessing.report.test_write import SETTINGS
from tests.preprocessing.test_ledger import A, B, decide, make_planned, make_scan, plan_table

PRICED = replace(SETTINGS, prices=ReportConfig(cost_per_cpu_hour=0.5, cost_per_gb_month=0.02))
WHOLE = InputSize(num_sources=20, size_bytes=30_000_000)


def sized(source: Source, size_bytes: int | None) -> Source:
    return replace(source, size_bytes=size_bytes)


def pilot_dataset(
    tmp_path: Path, *, encoded: bool = True, sizes: tuple[int | None, int | None] = (1_000_000, 2_000_000)
) -> Dataset:
    """Two sources, 36 and 72 CPU-s to scan, one and two kept segments, and 18 CPU-s and 1 MB for each segment."""
    dataset = Dataset.create(str(tmp_path))
    for source, size, cpu_s in zip((A, B), sizes, (36.0, 72.0), strict=True):
        dataset.ledger.append_scans(
            [replace(make_scan(sized(source, size)), effort=Effort(cpu_s=cpu_s, wall_s=cpu_s))], "f"
        )
    decide(dataset.ledger, A, [Verdict.KEEP])
    decide(dataset.ledger, B, [Verdict.KEEP, Verdict.KEEP])
    if encoded:
        rows = dataset.ledger.clips().to_pylist()
        uris = {source.source_id: source.uri for source in (A, B)}
        clips = tuple(make_planned(row["clip_id"], uri=uris[row["source_id"]]) for row in rows)
        dataset.ledger.append_plan(plan_table([PlannedShard(name="0", bucket="64x64", clips=clips)]))
        ids, took = tuple(clip.clip_id for clip in clips), Effort(cpu_s=54.0, wall_s=60.0)
        dataset.ledger.append_encodes(
            [ShardRecord(key="64x64/0", sha256="", size=3_000_000, clip_ids=ids, failed={}, effort=took)]
        )
    return dataset


def estimate(dataset: Dataset, settings: ReportSettings, sources: Sequence[Source]) -> Pilot:
    found = pilot(dataset, [source.source_id for source in sources], WHOLE, settings, parallel=(4.0, 2.0))
    assert found is not None
    return found


def pilot_of(
    tmp_path: Path,
    settings: ReportSettings,
    *,
    encoded: bool = True,
    sizes: tuple[int | None, int | None] = (1_000_000, 2_000_000),
) -> Pilot:
    return estimate(pilot_dataset(tmp_path, encoded=encoded, sizes=sizes), settings, (A, B))


def test_a_pilot_says_what_the_whole_would_take_in_time_space_and_money(tmp_path: Path) -> None:
    found = pilot_of(tmp_path, PRICED)
    assert (found.num_done, found.num_all) == (2, 20)
    assert found.scan_cpu_hours.value == pytest.approx(10 * 108 / 3600)
    assert isinstance(found.encode_cpu_hours, Estimate)
    assert found.encode_cpu_hours.value == pytest.approx(10 * 54 / 3600)
    assert isinstance(found.wall_hours, Estimate)
    assert found.wall_hours.value == pytest.approx(10 * (108 / 4 + 60 / 2) / 3600)
    assert isinstance(found.shards_gb, Estimate)
    assert found.shards_gb.value == pytest.approx(0.03)
    assert isinstance(found.cost, Estimate)
    assert found.cost.value == pytest.approx(10 * (108 + 54) / 3600 * 0.5, rel=1e-3)
    assert isinstance(found.cost_per_video_hour, Estimate)
    assert found.cost_per_video_hour.value == pytest.approx((108 + 54) / 8 * 0.5, rel=1e-3)
    assert found.storage_cost_per_month == Estimate(value=0.0006, low=0.0006, high=0.0006)


def test_a_shard_counts_whatever_became_of_its_sources(tmp_path: Path) -> None:
    dataset = pilot_dataset(tmp_path)
    dataset.ledger.append_missing({A.source_id})
    decide(dataset.ledger, B, [Verdict.KEEP, Verdict.DROP])
    found = estimate(dataset, PRICED, (B,))
    assert isinstance(found.encode_cpu_hours, Estimate)
    assert found.encode_cpu_hours.value == pytest.approx(
        15 * 18 / 3600
    )  # B has 1 of 15 parts of all bytes, and one segment
    assert found.basis == Basis(
        scanned=("videos/b.mp4",), encoded=("videos/a.mp4", "videos/b.mp4"), shards=("64x64/0",), segments=3
    )
    (line,) = [line for line in found.lines() if "from:" in line]
    assert line == "  from: scans of videos/b.mp4; encodes of 3 segments of videos/a.mp4, videos/b.mp4, in 64x64/0"


def test_of_many_sources_and_shards_a_line_names_few() -> None:
    many = tuple(f"{i}.mp4" for i in range(12))
    basis = Basis(scanned=many, encoded=many, shards=("64x64-1/a",), segments=40)
    assert basis.line().startswith("scans of 0.mp4, 1.mp4, 2.mp4, 9 more; encodes of 40 segments of 0.mp4")


def test_where_bytes_tell_all_the_interval_is_narrow(tmp_path: Path) -> None:
    found = pilot_of(tmp_path, PRICED)
    assert found.scan_cpu_hours == Estimate(value=0.3, low=0.3, high=0.3)
    assert found.video_hours.low is not None
    assert found.video_hours.high is not None
    assert found.video_hours.low < found.video_hours.value < found.video_hours.high


def test_without_sizes_the_number_of_sources_stands_for_them(tmp_path: Path) -> None:
    found = pilot_of(tmp_path, PRICED, sizes=(None, None))
    assert found.scan_cpu_hours.value == pytest.approx(20 / 2 * 108 / 3600)
    assert "in proportion to the number" in found.lines()[-1]


def test_what_is_not_known_is_skipped_with_what_to_do(tmp_path: Path) -> None:
    found = pilot_of(tmp_path / "unpriced", SETTINGS)
    assert found.cost == Skipped(skipped="no price is known: --set report.cost_per_cpu_hour=PRICE")
    found = pilot_of(tmp_path / "scanned", PRICED, encoded=False)
    assert isinstance(found.encode_cpu_hours, Skipped)
    assert isinstance(found.cost, Skipped)
    assert any("skipped" in line for line in found.lines())


def test_gpus_that_encoding_sets_aside_must_be_priced_too(tmp_path: Path) -> None:
    with_gpu = replace(PRICED, gpus_per_encode=1.0)
    found = pilot_of(tmp_path / "unpriced", with_gpu)
    assert isinstance(found.cost, Skipped)
    assert "cost_per_gpu_hour" in found.cost.skipped
    prices = ReportConfig(cost_per_cpu_hour=0.5, cost_per_gpu_hour=3.0)
    found = pilot_of(tmp_path / "priced", replace(with_gpu, prices=prices))
    assert isinstance(found.cost, Estimate)
    assert found.cost.value == pytest.approx(10 * ((108 + 54) * 0.5 + 60 * 3.0) / 3600, rel=1e-3)


def test_one_source_gives_no_interval_and_all_sources_leave_none() -> None:
    one = ratio_estimate(np.array([3.0]), np.array([2.0]), total=10.0, done_share=0.1)
    assert one == Estimate(value=15.0, low=None, high=None)
    taken, weights = np.array([1.0, 5.0, 2.0]), np.array([1.0, 2.0, 3.0])
    assert ratio_estimate(taken, weights, total=6.0, done_share=1.0) == Estimate(value=8.0, low=8.0, high=8.0)


def test_nine_of_ten_intervals_hold_the_true_total() -> None:
    """Of 1,000 inputs with 400 sources each whose cost per byte varies, 30 are drawn and the total is estimated."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        weights = rng.lognormal(0, 1, 400)
        taken = weights * rng.uniform(0.5, 1.5, 400)
        drawn = rng.choice(400, 30, replace=False)
        found = ratio_estimate(taken[drawn], weights[drawn], total=weights.sum(), done_share=30 / 400)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= taken.sum() <= found.high
    assert 0.82 <= held / 1000 <= 0.94
