import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from preprocessing.config import PlanConfig
from preprocessing.dataset import Dataset, manifest_table
from preprocessing.plan import kept_clips, plan
from preprocessing.report import summarize, write_report
from preprocessing.samples import Thumbnail, Verdict
from preprocessing.shards import write_shard
from tests.preprocessing.test_dataset import FINGERPRINT
from tests.preprocessing.test_ledger import A, B, C, decide, make_failure, make_scan, make_source
from tests.preprocessing.test_members import make_sample


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


def encode_all_but_one(dataset: Dataset, scratch: Path) -> None:
    ledger = dataset.ledger
    kept = kept_clips(ledger.sources(), ledger.clips(), [(64, 64)])
    options = {"encode_fingerprint": FINGERPRINT}
    ledger.append_plan(plan(kept, (), PlanConfig(max_samples_per_shard=2), latent_bytes=lambda clip: 1, **options))
    first, _ = ledger.plan()
    good, bad = first.clips
    samples, failed = [make_sample(good.clip_id)], {bad.clip_id: "decoding died"}
    ledger.append_encodes([write_shard(dataset.storage, first.key, samples, scratch=scratch, failed=failed)])
    table = manifest_table(kept, ledger.plan(), ledger.encodes(), latents_bytes=lambda clip: 1, **options)
    dataset.write_manifest(table)


def test_the_numbers_reconcile(dataset: Dataset, tmp_path: Path) -> None:
    encode_all_but_one(dataset, tmp_path)
    summary = summarize(dataset)
    assert (summary.sources, summary.sources_ok, summary.failed) == (4, 2, {"undecodable": 2})
    assert (summary.clips, summary.kept, summary.dropped) == (5, 3, {"static": 2})
    assert (summary.samples, summary.encode_failed, summary.waiting) == (1, 1, 1)
    assert (summary.segments, summary.splits, summary.shards) == (1, {"eval": 1}, 1)
    assert summary.kept_hours == pytest.approx(3 * 1.5 / 3600, abs=1e-6)


def test_an_empty_dataset_has_a_report_too(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path))
    write_report(dataset)
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
    write_report(dataset)
    text = dataset.storage.read_bytes("report/index.html").decode()
    page = Page(text)
    assert "script" not in page.tags
    assert "&lt;script&gt;" in text
    assert "2 static: nothing moves" in text
    assert page.tags.count("figure") == 5
    assert len(page.pictures) == 5
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in page.pictures)


def test_a_report_that_says_the_same_is_not_written_again(dataset: Dataset, tmp_path: Path) -> None:
    write_report(dataset)
    before = (tmp_path / "data/report/index.html").stat().st_ino
    write_report(dataset)
    assert (tmp_path / "data/report/index.html").stat().st_ino == before
