import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.config import load_recipe
from pipeline.jobs.cluster import ray_cluster
from pipeline.jobs.evaluate import evaluate_videos
from pipeline.tracking.lines import RUNS_FILE
from pipeline.tracking.tracked_run import Tracking
from pipeline.tracking.uris import default_uri
from preprocessing.video_io.write import Mp4Writer


def write_take(path: Path, num_frames: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 255, (8, 30, 3)).astype(np.uint8)
    backdrop = cv2.resize(coarse, (240, 64), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    with Mp4Writer(path, fps=24, width_px=64, height_px=64) as writer:
        for frame in range(num_frames):
            writer.write(backdrop[:, frame : frame + 64].copy())


@pytest.mark.ray
def test_a_folder_is_scored_once_and_tracked_with_its_report(tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "report"
    videos.mkdir()
    write_take(videos / "good.mp4", 40)
    (videos / "broken.mp4").write_text("no video")
    record = {
        "num_frames": 40,
        "conditioning": [[0, 1]],
        "generated": [[1, 40]],
        "model": {"weights_sha256": "ab" * 32},
    }
    (videos / "good.json").write_text(json.dumps(record))

    def evaluate(uri: str | None = None) -> dict[str, float]:
        tracking = Tracking(uri=uri, line=None)
        return evaluate_videos(videos, out, load_recipe("embedded"), line="takes", address="local", tracking=tracking)

    with ray_cluster("local", num_cpus=1):
        figures = evaluate("none")
        assert not (out / RUNS_FILE).exists()
        page = (out / "index.html").stat().st_mtime_ns
        assert evaluate() == figures  # tracks what nobody has tracked
        assert evaluate() == figures
        assert (out / "index.html").stat().st_mtime_ns == page
        write_take(videos / "another.mp4", 40)
        assert evaluate().keys() == figures.keys()

    results = json.loads((out / "results.json").read_text())
    assert [(video["name"], video["status"]) for video in results["videos"]] == [
        ("another.mp4", "ok"),
        ("broken.mp4", "failed"),
        ("good.mp4", "ok"),
    ]
    runs = json.loads((out / RUNS_FILE).read_text())
    assert len(runs) == 2  # what was evaluated again without a change opened none
    client = MlflowClient(default_uri(tmp_path))
    first = client.get_run(next(iter(runs.values())))
    assert first.info.status == "FINISHED"
    assert first.data.tags["longtake.weights_sha256"] == "ab" * 32  # as the training run of these weights
    assert first.data.metrics["eval/ref/contrast/drift"] == figures["eval/ref/contrast/drift"]
    assert {file.path for file in client.list_artifacts(first.info.run_id)} == {"index.html", "results.json"}
