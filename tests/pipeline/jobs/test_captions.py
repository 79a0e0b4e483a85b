"""Captions by a model inside the preprocess command, and clips that are dropped for want of one."""

import json
import shutil
from pathlib import Path

import pytest

from preprocessing.dataset import Dataset
from preprocessing.rendering.demo_set import write_film
from preprocessing.rendering.takes import takes
from preprocessing.shards import read_sample
from tests.pipeline.commands import longtake
from tests.preprocessing.captions.tiny_qwen import save_qwen

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def preprocess(videos: Path, dataset: Path, *settings: str) -> dict:
    options = [part for setting in settings for part in ("--set", setting)]
    where = ("--dataset", str(dataset), "--tracking-uri", "none", "--json")
    return longtake("preprocess", str(videos), *options, *where).result()


def captions(dataset: Path) -> dict[str, str]:
    """Captions of the current version's samples, by the video's name."""
    samples = Dataset.open(str(dataset)).load_manifest(None).table.to_pylist()
    return {Path(str(row["uri"])).name: str(row["caption"]) for row in samples}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two moving takes, of which the second has a caption."""
    folder = tmp_path / "raw"
    for name in "ab":
        (folder / name).mkdir(parents=True)
    for name, film in zip("ab", takes()[:2], strict=True):
        write_film(film, folder / name, seed=1)
        (folder / name / film.file).rename(folder / f"{name}.mp4")
        shutil.rmtree(folder / name)
    (folder / "b.txt").write_text("a disc glides over a plain")
    return folder


def test_missing_captions_are_written_once_and_encoded(videos: Path, tmp_path: Path) -> None:
    model, dataset = save_qwen(tmp_path / "tiny-qwen"), tmp_path / "d"
    settings = (f"captions.model={model}", "captions.empty=write", "captions.max_new_tokens=8", "captions.num_frames=2")
    first = preprocess(videos, dataset, *settings)
    written = captions(dataset)
    assert written["a.mp4"] != ""
    assert written["b.mp4"] == "a disc glides over a plain"
    assert first["captioned"] >= 1
    opened = Dataset.open(str(dataset))
    by_video = {Path(str(row["uri"])).name: row for row in opened.load_manifest(None).table.to_pylist()}
    row = by_video["a.mp4"]
    metadata = read_sample(opened.storage, str(row["shard"]), str(row["clip_id"])).metadata
    assert metadata["caption"] == written["a.mp4"]
    assert metadata["caption_origin"]["model"] == "tiny-qwen"  # type: ignore[index]
    assert str(model) not in json.dumps(dict(metadata))

    shutil.rmtree(model)  # nobody needs it where captions exist
    again = preprocess(videos, dataset)
    assert (again["captioned"], again["encoded_shards"]) == (0, 0)
    assert again["dataset"] == first["dataset"]


def test_clips_without_a_caption_are_dropped_until_they_have_one(videos: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "d"
    first = preprocess(videos, dataset, "decide.min_caption_words=1")
    assert set(captions(dataset)) == {"b.mp4"}
    assert first["dataset"]["dropped"]["no_caption"] >= 1
    (videos / "a.txt").write_text("two discs meet")
    again = preprocess(videos, dataset)
    assert again["scanned"] == 0
    assert captions(dataset) == {"a.mp4": "two discs meet", "b.mp4": "a disc glides over a plain"}
