"""A training keeps the versions it was begun with, whatever preprocessing and gc do to the dataset."""

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from preprocessing.dataset import MANIFEST, Dataset
from preprocessing.pins import pins, unpin
from preprocessing.samples import LatentSample
from preprocessing.shards import write_shard
from preprocessing.storage import LocalStorage
from preprocessing.verify import gc
from tests.training.small_checkpoint import engine
from tests.training.small_dataset import CODEC, MODEL, damage, make_dataset, train_config
from training.batches import open_data, sample_reader, step_batches
from training.checkpoint import start_weights, write_checkpoint
from training.checkpoint_files import step_folder
from training.disk_errors import DamagedError
from training.model.weights import save_model
from training.run_folder import check_export, finished, prepare_job, warn_before_start, write_summary
from training.stage import StageJob, checkpoint_record, global_steps
from training.types import SegmentBatch, StageSummary

CPU = torch.device("cpu")


def prepare(dataset: Path, run: Path) -> StageJob:
    return prepare_job(run, "teacher", model=MODEL, train=train_config(), dataset_uris=[str(dataset)], init=None)


def batches(job: StageJob) -> Iterator[tuple[SegmentBatch, ...]]:
    read = sample_reader()
    for step in global_steps(job, open_data(job.datasets).train):
        yield step_batches(step, read, rank=0, num_ranks=1, device=CPU)


def preprocess_more(folder: Path, first: LatentSample) -> None:
    """As if other settings had been chosen: new clips by another codec, and nothing of the first version is kept."""
    dataset = Dataset.open(str(folder))
    codec = replace(CODEC, codec_id="another", latent_channels=8)
    sample = replace(first, key="new", metadata={"codec": asdict(codec)})
    write_shard(dataset.storage, "tiny/001", [sample], scratch=folder / "scratch")
    row = {**dataset.load_manifest(None).table.to_pylist()[0], "clip_id": "new", "shard": "tiny/001"}
    dataset.write_record(replace(dataset.record(), codec=codec))
    dataset.write_manifest(pa.Table.from_pylist([row], schema=MANIFEST))


def some_sample(job: StageJob) -> LatentSample:
    return sample_reader()(open_data(job.datasets).train[0]).decoded()


def test_a_training_reads_on_while_preprocessing_goes_on_and_gc_runs(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data")
    job = prepare(folder, tmp_path / "run")
    expected = list(islice(batches(job), 6))
    reading = batches(job)
    read = [next(reading), next(reading)]
    preprocess_more(folder, some_sample(job))
    assert gc(Dataset.open(str(folder)), []) == ()
    read += [*islice(reading, 2), *islice(batches(prepare(folder, tmp_path / "run")), 4, 6)]  # killed, and resumed
    for ours, theirs in zip(read, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.latents_BCTHW, b.latents_BCTHW)


def test_the_codec_is_that_of_the_pinned_version_not_of_the_dataset_now(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data")
    job = prepare(folder, tmp_path / "run")
    preprocess_more(folder, some_sample(job))
    assert open_data(job.datasets).codec == CODEC
    assert open_data(prepare(folder, tmp_path / "other").datasets).codec.codec_id == "another"


def test_any_sample_that_can_be_read_says_who_wrote_the_latents(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", train=(1, 1), held_out=())
    job = prepare(folder, tmp_path / "run")
    damage(folder, "clip00", member="json")
    assert open_data(job.datasets).codec == CODEC
    damage(folder, "clip01", member="json")
    with pytest.raises(ValueError, match=r"no sample of .*data can be read; run longtake verify"):
        open_data(job.datasets)


def test_a_finished_stage_lets_go_and_is_still_finished_when_gc_has_run(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data")
    dataset, job = Dataset.open(str(folder)), prepare(folder, tmp_path / "run")
    assert [held.manifest for held in pins(dataset)] == [job.datasets[0].manifest]
    finish(job)
    assert pins(dataset) == ()
    preprocess_more(folder, some_sample(job))
    assert gc(dataset, [])
    again = prepare(folder, tmp_path / "run")
    assert again.datasets == job.datasets
    assert finished(again) is not None
    assert pins(dataset) == ()


def finish(job: StageJob) -> None:
    values = {
        name: {} if name.startswith("at_") else "" if name.endswith("256") else 0
        for name in StageSummary.__annotations__
    }
    write_summary(job, StageSummary(**{**values, "stage": "teacher", "steps": job.settings.steps}))


def test_a_version_that_gc_removes_just_before_it_is_pinned_is_not_the_one_that_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(tmp_path / "data")
    dataset, sample = Dataset.open(str(folder)), some_sample(prepare(folder, tmp_path / "earlier"))
    for held in pins(dataset):
        unpin(dataset, held.pin_id)
    write = LocalStorage.write_atomic

    def late(storage: LocalStorage, key: str, data: bytes) -> None:
        monkeypatch.undo()
        preprocess_more(folder, sample)
        gc(dataset, [])
        write(storage, key, data)

    monkeypatch.setattr(LocalStorage, "write_atomic", late)
    job = prepare(folder, tmp_path / "run")
    assert job.datasets[0].manifest == dataset.record().manifest
    assert [held.manifest for held in pins(dataset)] == [job.datasets[0].manifest]
    assert [row.clip_id for row in open_data(job.datasets).train] == ["new"]


def test_a_training_that_never_began_pins_nothing(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", train=())
    with pytest.raises(ValueError, match="no clip to train on"):
        prepare(folder, tmp_path / "run")
    assert pins(Dataset.open(str(folder))) == ()


def test_a_dataset_that_cannot_be_pinned_is_trained_on_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_dataset(tmp_path / "data")
    (folder / "pins").write_text("in the way")
    assert prepare(folder, tmp_path / "run").datasets[0].manifest == Dataset.open(str(folder)).record().manifest
    assert "cannot be pinned" in caplog.text


def save_teacher(folder: Path, *, fps: float = 24.0, sizes_px: tuple[tuple[int, int], ...] = ((64, 64),)) -> Path:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, folder, config=MODEL, codec=CODEC, fps=fps, sizes_px=sizes_px)
    return folder


def prepare_from(init: Path, dataset: Path, run: Path) -> StageJob:
    return prepare_job(run, "direct", model=MODEL, train=train_config(), dataset_uris=[str(dataset)], init=init)


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("name", ["memory.safetensors", "diffusion_pytorch_model.safetensors"])
def test_a_stage_does_not_begin_from_a_model_that_was_cut_off_and_leaves_no_trace(tmp_path: Path, name: str) -> None:
    init, dataset = save_teacher(tmp_path / "init"), make_dataset(tmp_path / "data")
    cut_off(init / name)
    with pytest.raises(DamagedError, match=rf"/{name} is damaged"):
        prepare_from(init, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_that_is_cut_off_after_a_stage_began_is_called_damaged_and_not_another_one(tmp_path: Path) -> None:
    base, dataset, run = save_teacher(tmp_path / "base"), make_dataset(tmp_path / "data"), tmp_path / "run"
    for name in ("longtake.json", "memory.safetensors"):
        (base / name).unlink()
    job = prepare_from(base, dataset, run)
    checkpoint_of(job)
    cut_off(base / "diffusion_pytorch_model.safetensors")
    with pytest.raises(DamagedError, match=r"/diffusion_pytorch_model\.safetensors is damaged"):
        prepare_from(base, dataset, run)
    with pytest.raises(DamagedError, match=r"/diffusion_pytorch_model\.safetensors is damaged"):
        check_export(run, "direct", tmp_path / "out", weights="live", step=None)


def checkpoint_of(job: StageJob) -> None:
    """As if the job had been killed after two steps."""
    folder = step_folder(job.checkpoints, 2)
    folder.mkdir(parents=True)
    record = checkpoint_record(job, open_data(job.datasets), base_sha256="b")
    write_checkpoint(engine(), folder, replace(record, step=2))


def test_a_stage_that_has_ended_asks_no_more_of_what_it_began_from(tmp_path: Path) -> None:
    init, dataset = save_teacher(tmp_path / "init"), make_dataset(tmp_path / "data")
    finish(prepare_from(init, dataset, tmp_path / "run"))
    (init / "memory.safetensors").unlink()
    assert finished(prepare_from(init, dataset, tmp_path / "run")) is not None


def test_a_training_that_holds_nothing_out_says_so_and_what_to_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_before_start(prepare(make_dataset(tmp_path / "some", held_out=(2,)), tmp_path / "a"))
    assert not caplog.records
    warn_before_start(prepare(make_dataset(tmp_path / "none", held_out=()), tmp_path / "b"))
    (record,) = caplog.records
    assert "no clip is held out" in record.getMessage()
    assert "--set sources.eval_percent=" in record.getMessage()


def test_clips_that_the_model_to_begin_from_does_not_know_are_announced_before_the_stage_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset(tmp_path / "data", size_px=(64, 96))
    warn_before_start(prepare_from(save_teacher(tmp_path / "known", sizes_px=((64, 96),)), dataset, tmp_path / "a"))
    assert not caplog.records
    warn_before_start(prepare_from(save_teacher(tmp_path / "other", fps=8.0), dataset, tmp_path / "b"))
    rate, size = caplog.messages
    assert "other was trained on 8 frames a second, and the clips have 24" in rate
    assert "other was trained on pictures of 64 x 64 pixels, and has never seen those of 64 x 96" in size


def test_clips_that_are_longer_than_positions_can_tell_are_announced_before_the_stage_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # the tiny model's longest wavelength is 100 latent frames, and 12 segments are 108
    dataset = make_dataset(tmp_path / "data", train=(2, 12))
    warn_before_start(prepare(dataset, tmp_path / "run"))
    (record,) = caplog.records
    assert "the last of 12 segments lies 108 latent frames after the start image" in record.getMessage()


def test_clips_that_another_dataset_holds_out_are_counted_before_the_stage_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datasets = (
        make_dataset(tmp_path / "x", train=(1, 2), held_out=(2,)),
        make_dataset(tmp_path / "y", train=(1, 2, 2), held_out=()),
    )
    uris = [str(folder) for folder in datasets]
    warn_before_start(
        prepare_job(tmp_path / "run", "teacher", model=MODEL, train=train_config(), dataset_uris=uris, init=None)
    )
    (record,) = caplog.records
    assert "leaves out 1 clips" in record.getMessage()
