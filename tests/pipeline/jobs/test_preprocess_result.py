"""What MLflow is told of the dataset that a run leaves."""

import json
from pathlib import Path

from mlflow import MlflowClient

from pipeline.config import load_recipe
from pipeline.jobs.driver import open_driver
from pipeline.tracking.lines import RUNS_FILE
from pipeline.tracking.tracked_run import Tracking
from preprocessing.dataset import Dataset
from preprocessing.lease import LEASE_KEY
from tests.preprocessing.test_ledger import A, make_failure
from tests.training.small_dataset import make_dataset


def finish(dataset: Path, uri: str) -> None:
    """As the last step of a command that found nothing to do."""
    with open_driver(str(dataset), load_recipe("embedded"), None) as driver:
        driver.finish(None, Tracking(uri=uri, line=None))


def run_ids(dataset: Path) -> list[str]:
    return list(json.loads((dataset / RUNS_FILE).read_text()).values())


def files(dataset: Path) -> dict[Path, tuple[int, bytes]]:
    found = (path for path in dataset.rglob("*") if path.is_file() and path.name != LEASE_KEY)
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_a_version_that_was_published_and_not_tracked_is_tracked_by_the_next_call_and_once(
    uri: str, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "street")  # and the driver that published it was killed

    finish(dataset, uri)

    (run_id,) = run_ids(dataset)
    run = MlflowClient(uri).get_run(run_id)
    manifest = Dataset.open(str(dataset)).load_manifest(None).sha256
    assert run.data.tags["longtake.manifest_sha256"] == manifest
    assert run.info.status == "FINISHED"
    before = files(dataset)
    (tmp_path / "mlflow.db").unlink()
    finish(dataset, uri)
    assert files(dataset) == before
    assert not (tmp_path / "mlflow.db").exists()  # nobody asked


def test_numbers_that_changed_within_a_version_are_another_run(uri: str, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "street")
    finish(dataset, uri)
    Dataset.open(str(dataset)).ledger.append_scans([make_failure(A)], "settings")
    finish(dataset, uri)
    runs = [MlflowClient(uri).get_run(run_id) for run_id in run_ids(dataset)]
    assert [run.data.metrics["sources"] for run in runs] == [0, 1]


def test_with_the_tracking_uri_none_the_dataset_keeps_nothing_of_tracking(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "street")
    finish(dataset, "none")
    before = set(files(dataset))
    finish(dataset, "none")
    assert set(files(dataset)) == before
    assert not [path for path in before if path.name in (RUNS_FILE, "receipts.json")]
