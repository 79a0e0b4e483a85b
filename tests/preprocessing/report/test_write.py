import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from preprocessing.config import ClipsConfig, DecideConfig, PlanConfig, ReportConfig
from preprocessing.dataset import Dataset, inspect_table, manifest_table
from preprocessing.plan import failed_clips, kept_clips, plan
from preprocessing.plan_rows import PLAN, shards_of_plan
from preprocessing.reasons import Reason
from preprocessing.report.settings import ReportSettings
from preprocessing.report.summary import summarize
from preprocessing.report.write import write_report
from preprocessing.samples import Thumbnail, Verdict
from preprocessing.shards import write_shard
from tests.preprocessing.test_dataset import FINGERPRINT
from tests.preprocessing.test_ledger import A, B, C, decide, make_failure, make_scan, make_source
from tests.preprocessing.test_members import make_sample

SETTINGS = ReportSettings(
    clips=ClipsConfig(), decide=DecideConfig(), prices=ReportConfig(), cpus_per_task=1.0, gpus_per_encode=0.0
)


def jpeg(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (16, 12), grey).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two good sources with three kept and two dropped clips, and two bad sources, one with a hostile name."""
    dataset = Dataset.create(str(tmp_path / "data"))
    hostile = make_failure(make_source("d", uri="videos/<script>alert(1)</script>.mp4"))
    thumbnails = tuple(Thumbnail(frame=frame, jpeg=jpeg(frame)) for frame in (0, 50, 100))
    dataset.ledger.append_scans([replace(make_scan(A), thumbnails=thumbnails), make_scan(B)], "f")
    dataset.ledger.append_scans([make_failure(C), hostile], "f")
    decide(dataset.ledger, A, [Verdict.KEEP, Verdict.DROP, Verdict.KEEP])
    decide(dataset.ledger, B, [Verdict.DROP, Verdict.KEEP])
    return dataset


def one_byte_each(clips: pa.Table) -> NDArray[np.int64]:
    return np.ones(clips.num_rows, np.int64)


def encode_all_but_one(dataset: Dataset, scratch: Path) -> None:
    ledger = dataset.ledger
    kept = kept_clips(ledger.sources(), ledger.clips(), [(64, 64)], eval_percent=5)
    options = {"encode_fingerprint": FINGERPRINT}
    ledger.append_plan(
        plan(kept, PLAN.empty_table(), PlanConfig(max_samples_per_shard=2), latent_bytes=one_byte_each, **options)
    )
    first, _ = shards_of_plan(ledger.plan())
    good, bad = first.clips
    samples, failed = [make_sample(good.clip_id)], {bad.clip_id: "decoding died"}
    ledger.append_encodes([write_shard(dataset.storage, first.key, samples, scratch=scratch, failed=failed)])
    table = manifest_table(kept, ledger.plan(), ledger.encodes(), latents_bytes=one_byte_each, **options)
    dataset.write_manifest(table)


def test_the_numbers_reconcile(dataset: Dataset, tmp_path: Path) -> None:
    encode_all_but_one(dataset, tmp_path)
    summary = summarize(dataset)
    assert (summary.sources, summary.sources_ok, summary.failed) == (4, 2, {"undecodable": 2})
    assert (summary.clips, summary.kept, summary.dropped) == (5, 3, {"static": 2})
    assert (summary.in_version, summary.encode_failed, summary.waiting) == (1, 1, 1)
    assert (summary.samples, summary.leaving) == (1, 0)
    assert (summary.segments, summary.splits, summary.shards) == (1, {"train": 1}, 1)
    assert summary.kept_hours == pytest.approx(3 * 1.5 / 3600, abs=1e-6)
    assert summary.dropped_hours == pytest.approx({"static": 2 * 1.5 / 3600}, abs=1e-6)


def test_a_clip_that_failed_waits_again_once_it_is_planned_again(dataset: Dataset, tmp_path: Path) -> None:
    encode_all_but_one(dataset, tmp_path)
    ledger = dataset.ledger
    kept = kept_clips(ledger.sources(), ledger.clips(), [(64, 64)], eval_percent=5)
    options = {"encode_fingerprint": FINGERPRINT, "retry": failed_clips(ledger.plan(), ledger.encodes())}
    ledger.append_plan(plan(kept, ledger.plan(), PlanConfig(), latent_bytes=one_byte_each, **options))
    summary = summarize(dataset)
    assert (summary.in_version, summary.encode_failed, summary.waiting) == (1, 0, 2)


def test_what_a_version_holds_is_not_changed_by_a_decision(dataset: Dataset, tmp_path: Path) -> None:
    encode_all_but_one(dataset, tmp_path)
    of_version = ("samples", "sample_hours", "segments", "splits", "shards", "manifest")
    before = summarize(dataset)
    for source, number in ((A, 3), (B, 2)):
        decide(dataset.ledger, source, [Verdict.DROP] * number)
    after = summarize(dataset)
    assert [getattr(after, name) for name in of_version] == [getattr(before, name) for name in of_version]
    assert (after.samples, after.leaving) == (1, 1)
    assert (after.kept, after.in_version, after.encode_failed, after.waiting) == (0, 0, 0, 0)
    write_report(dataset, SETTINGS)
    text = dataset.storage.read_bytes("report/index.html").decode()
    assert "1 no longer kept, until" in text


def test_an_empty_dataset_has_a_report_too(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path))
    write_report(dataset, SETTINGS)
    assert json.loads(dataset.storage.read_bytes("report/report.json"))["sources"] == 0


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.pictures += [value or "" for name, value in attrs if name == "src"]


def test_the_page_shows_reasons_and_pictures_and_runs_no_names(dataset: Dataset) -> None:
    write_report(dataset, SETTINGS)
    text = dataset.storage.read_bytes("report/index.html").decode()
    page = Page(text)
    assert "script" not in page.tags
    assert "&lt;script&gt;" in text
    assert "2 static: nothing moves" in text
    assert "http" not in text
    assert page.pictures
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in page.pictures)


def test_the_json_says_all_that_the_page_shows_and_reconciles(dataset: Dataset, tmp_path: Path) -> None:
    encode_all_but_one(dataset, tmp_path)
    write_report(dataset, SETTINGS)
    said = json.loads(dataset.storage.read_bytes("report/report.json"))
    assert said["sources"] == said["sources_ok"] + sum(said["failed"].values())
    assert said["clips"] == said["kept"] + sum(said["dropped"].values())
    assert said["kept"] == said["in_version"] + said["encode_failed"] + said["waiting"]
    assert said["samples"] == said["in_version"] + said["leaving"] == sum(said["splits"].values())
    reasons = {row["reason"]: row for row in said["reasons"]}
    assert (reasons["static"]["clips"], reasons["undecodable"]["sources"]) == (2, 2)
    assert reasons["static"]["sentence"] == "nothing moves"
    assert [row["detail"] for row in reasons["static"]["examples"]] == ["0.000 to 1.500 s"] * 2
    assert {row["clip_id"] for row in reasons["static"]["examples"]} <= {*dataset.ledger.clips()["clip_id"].to_pylist()}
    assert said["decoders"] == {"pyav": 2}
    assert [row["message"] for row in said["failed_sources"]] == ["not a video"] * 2
    for histogram in said["histograms"]:
        assert sum(histogram["kept"]) + sum(histogram["dropped"]) + histogram["unmeasured"] == said["clips"]


def test_a_reason_that_comes_once_among_many_sources_is_named_too(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path))
    many = [make_failure(make_source(f"{i:03d}", uri=f"videos/{i:03d}.mp4")) for i in range(150)]
    last = replace(make_failure(make_source("z")), reasons=(Reason.CRASHED,), message="died of signal 11")
    dataset.ledger.append_scans([*many, last], "f")
    write_report(dataset, SETTINGS)
    said = json.loads(dataset.storage.read_bytes("report/report.json"))
    examples = {row["reason"]: row["examples"] for row in said["reasons"]}
    assert examples["crashed"] == [{"uri": "videos/z.mp4", "clip_id": None, "detail": "died of signal 11"}]
    assert examples["undecodable"][0] == {"uri": "videos/000.mp4", "clip_id": None, "detail": "not a video"}
    text = dataset.storage.read_bytes("report/index.html").decode()
    assert "died of signal 11" in text
    assert "and 50 more" in text


def test_a_source_that_broke_off_is_named_with_where(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path))
    dataset.ledger.append_scans(
        [replace(make_scan(A), reasons=(Reason.TRUNCATED,), message="ends at 4.0 s of 9.0")], "f"
    )
    write_report(dataset, SETTINGS)
    (named,) = json.loads(dataset.storage.read_bytes("report/report.json"))["truncated_sources"]
    assert (named["uri"], named["message"]) == ("videos/a.mp4", "ends at 4.0 s of 9.0")
    assert "ends at 4.0 s of 9.0" in dataset.storage.read_bytes("report/index.html").decode()


def test_a_clip_that_could_not_be_encoded_is_named_with_why(dataset: Dataset, tmp_path: Path) -> None:
    encode_all_but_one(dataset, tmp_path)
    write_report(dataset, SETTINGS)
    (failure,) = json.loads(dataset.storage.read_bytes("report/report.json"))["encode_failures"]
    assert (failure["uri"], failure["message"]) == ("videos/a.mp4", "decoding died")
    assert failure["clip_id"] in dataset.storage.read_bytes("report/index.html").decode().partition("encode_failed:")[2]


def test_hdr_sources_are_counted_and_named(tmp_path: Path) -> None:
    dataset, probe = Dataset.create(str(tmp_path)), make_scan(A).probe
    assert probe is not None
    hdr = [replace(make_scan(source), probe=replace(probe, transfer="smpte2084")) for source in (A, C)]
    dataset.ledger.append_scans([*hdr, make_scan(B), make_failure(make_source("d"))], "f")
    assert inspect_table(dataset, "sources")["transfer"].to_pylist() == ["smpte2084", "", "smpte2084", None]
    write_report(dataset, SETTINGS)
    said = json.loads(dataset.storage.read_bytes("report/report.json"))
    assert said["hdr"] == 2
    assert said["colours"][0] == {
        "transfer": "smpte2084", "is_hdr": True, "sources": 2, "hours": 0.002222,
        "examples": ["videos/a.mp4", "videos/c.mp4"],
    }  # fmt: skip
    assert "videos/a.mp4, videos/c.mp4" in dataset.storage.read_bytes("report/index.html").decode()


def test_a_price_that_nobody_gave_is_skipped_and_never_nothing(dataset: Dataset) -> None:
    write_report(dataset, SETTINGS)
    cost = json.loads(dataset.storage.read_bytes("report/report.json"))["cost"]
    assert "--set report.cost_per_cpu_hour" in cost["time"]["skipped"]
    assert "--set report.cost_per_gb_month" in cost["storage_per_month"]["skipped"]


def test_a_report_that_says_the_same_is_not_written_again(dataset: Dataset, tmp_path: Path) -> None:
    write_report(dataset, SETTINGS)
    before = (tmp_path / "data/report/index.html").stat().st_ino
    write_report(dataset, SETTINGS)
    assert (tmp_path / "data/report/index.html").stat().st_ino == before
