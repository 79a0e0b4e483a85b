import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.full_disk import no_file_beyond
from tests.training.small_dataset import CODEC, MODEL, damage, make_dataset, train_config
from training.batches import BrokenSampleError, open_data, sample_reader
from training.checkpoint import Weights, start_weights, write_checkpoint
from training.checkpoint_files import step_folder
from training.config import MemoryConfig, StageName, TrainConfig
from training.engine.base import Engine
from training.engine.plain import PlainEngine
from training.held_out import validation_clips
from training.model.presets import build_model
from training.model.weights import load_model, read_record, weights_sha256
from training.nonfinite import NonFiniteError
from training.objectives.base import ObjectiveModule
from training.run_folder import (
    check_export,
    export_stage,
    finished,
    prepare_job,
    summarize,
    warn_before_start,
    write_summary,
)
from training.sampled_video import SampledVideo, load_video, sample_video, saved_videos
from training.stage import StageJob, global_steps, run_stage, stage_settings
from training.types import CheckpointRecord, StageSummary


class Killed(Exception):
    """Stands for kill -9 right after a checkpoint."""


def prepare(
    run: Path, stage: StageName, dataset: Path, config: TrainConfig | None = None, init: Path | None = None
) -> StageJob:
    config = config or train_config()
    return prepare_job(run, stage, model=MODEL, train=config, dataset_uris=[str(dataset)], init=init)


def run(job: StageJob, *, killed_after: int | None = None) -> StageSummary:
    def save(engine: Engine, record: CheckpointRecord) -> None:
        folder = step_folder(job.checkpoints, record.step)
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(engine, folder, record)
        if record.step == killed_after:
            raise Killed

    run_stage(job, PlainEngine, device=torch.device("cpu"), save=save)
    summary = summarize(job)
    write_summary(job, summary)
    return summary


def weights(job: StageJob) -> dict[str, torch.Tensor]:
    return load_model(job.model_folder, dtype=torch.float32)[0].state_dict()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def teacher(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """A run with a finished teacher stage."""
    job = prepare(tmp_path_factory.mktemp("run"), "teacher", dataset)
    run(job)
    return job


def test_a_finished_stage_has_a_model_and_says_so(teacher: StageJob) -> None:
    summary = finished(teacher)
    assert summary is not None
    assert (summary.steps, summary.num_clips, summary.num_validation_clips) == (6, 5, 2)
    assert summary.weights_sha256 == read_record(teacher.model_folder).weights_sha256
    for name in ("val_loss", "val_loss_without_history"):
        assert summary.at_start[name] > 0
        assert summary.at_end[name] < summary.at_start[name]


def test_every_step_has_its_metrics(teacher: StageJob) -> None:
    metrics = teacher.metrics_log.read()
    assert list(metrics) == [0, 1, 2, 3, 4, 5, 6]
    assert all("loss" in metrics[step] for step in range(1, 7))
    assert [step for step in metrics if "val_loss" in metrics[step]] == [0, 3, 6]


def test_a_killed_stage_ends_with_the_weights_of_an_undisturbed_one(
    dataset: Path, teacher: StageJob, tmp_path: Path
) -> None:
    job = prepare(tmp_path, "teacher", dataset)
    with pytest.raises(Killed):
        run(job, killed_after=2)
    run(prepare(tmp_path, "teacher", dataset))
    ours, undisturbed = weights(job), weights(teacher)
    assert all(torch.equal(ours[name], undisturbed[name]) for name in undisturbed)
    losses = [job.metrics_log.read()[step]["loss"] for step in range(1, 7)]
    assert losses == [teacher.metrics_log.read()[step]["loss"] for step in range(1, 7)]


def test_while_the_memory_warms_up_the_backbone_stays_as_it_was(dataset: Path, tmp_path: Path) -> None:
    """Whatever its gradient, and whatever weight decay would take away."""
    optimizer = {"learning_rate": 1e-3, "weight_decay": 0.1, "clip_norm": 1.0}
    warmup = {**train_config().teacher.model_dump(), "memory_warmup_steps": 6, "optimizer": optimizer}
    job = prepare(tmp_path, "teacher", dataset, train_config(teacher=warmup))
    run(job)
    begun, trained = start_weights(MODEL, CODEC, init=None, seed=5).state_dict(), weights(job)
    changed = {name for name in begun if not torch.equal(begun[name], trained[name])}
    assert changed == {name for name in begun if name.startswith("semantic_pack.")}
    rates = [job.metrics_log.read()[step]["memory_learning_rate"] for step in range(1, 7)]
    assert rates == [1e-3] * 6


def test_history_dropout_reaches_the_steps_of_the_teacher(dataset: Path, tmp_path: Path) -> None:
    always = train_config(teacher={**train_config().teacher.model_dump(), "history_dropout": 1.0})
    job = prepare(tmp_path, "teacher", dataset, always)
    steps = list(islice(global_steps(job, open_data(job.datasets).train), 20))
    assert [step.use_history for step in steps] == [step.segment_index == 0 for step in steps]


def test_the_direct_stage_changes_the_head_and_nothing_else(dataset: Path, teacher: StageJob) -> None:
    job = prepare(teacher.folder.parent, "direct", dataset)
    summary = run(job)
    before, after = weights(teacher), weights(job)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"norm_out.linear.weight", "norm_out.linear.bias", "proj_out.weight", "proj_out.bias"}
    assert summary.base_sha256 == read_record(teacher.model_folder).weights_sha256
    assert summary.at_start["val_loss"] == pytest.approx(teacher.metrics_log.read()[6]["val_loss"])


def test_what_direct_forcing_relies_on_is_measured_before_its_first_step(dataset: Path, teacher: StageJob) -> None:
    job = prepare(teacher.folder.parent, "direct", dataset)
    run(job)
    metrics = job.metrics_log.read()
    assert {step for step in metrics if "one_step_gap" in metrics[step]} == {0}
    assert {"one_step_gap_t0.1", "one_step_gap_t0.9", "sample_error"} < metrics[0].keys()
    assert not any("one_step_gap" in values for values in teacher.metrics_log.read().values())


def test_student_forcing_trains_the_same_layers_on_another_past(dataset: Path, teacher: StageJob) -> None:
    student, direct = (prepare(teacher.folder.parent, name, dataset) for name in ("student", "direct"))
    for job in (student, direct):
        run(job)
    before, after = weights(teacher), weights(student)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"norm_out.linear.weight", "norm_out.linear.bias", "proj_out.weight", "proj_out.bias"}
    assert not torch.equal(after["proj_out.weight"], weights(direct)["proj_out.weight"])


def test_one_stage_of_all_parameters_needs_no_teacher_and_trains_the_memory(dataset: Path, tmp_path: Path) -> None:
    direct = {
        "from_scratch": True, "trained": "all", "ground_truth_share": 1.0, "final_ground_truth_share": 0.0,
        "curriculum": (3,), "update": "segment",
    }  # fmt: skip
    config = train_config(direct={**train_config().direct.model_dump(), **direct})
    whole, killed = (prepare(tmp_path / name, "direct", dataset, config) for name in ("whole", "killed"))
    run(whole)
    with pytest.raises(Killed):
        run(killed, killed_after=2)
    run(killed)
    fresh = build_model(MODEL, CODEC, device="cpu", seed=config.seed).state_dict()
    ours, expected = weights(killed), weights(whole)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert not torch.equal(
        ours["semantic_pack.memorize.patchify.weight"], fresh["semantic_pack.memorize.patchify.weight"]
    )


def one_stage(share: float = 0.5, **teacher: object) -> TrainConfig:
    """All parameters from scratch; teacher steps in between, that go by these settings."""
    direct = {"from_scratch": True, "trained": "all", "ground_truth_share": share, "final_ground_truth_share": 0.0}
    return train_config(
        direct={**train_config().direct.model_dump(), **direct},
        teacher={**train_config().teacher.model_dump(), **teacher},
    )


def test_what_teacher_steps_go_by_is_a_setting_of_the_stage_that_takes_them(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "direct", dataset, one_stage()), killed_after=2)
    prepare(tmp_path, "direct", dataset, one_stage())
    with pytest.raises(ValueError, match=r"train\.teacher\.history_noise was 0\.0 and is 0\.9; .*allow_changed=true"):
        prepare(tmp_path, "direct", dataset, one_stage(history_noise=0.9))
    with pytest.raises(ValueError, match=r"train\.teacher\.memory_grad_steps was None and is 1; .*allow_changed=true"):
        prepare(tmp_path, "direct", dataset, one_stage(memory_grad_steps=1))


def test_a_stage_without_teacher_steps_has_no_settings_of_theirs(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "direct", dataset, one_stage(share=0.0)), killed_after=2)
    prepare(tmp_path, "direct", dataset, one_stage(share=0.0, history_noise=0.9, memory_grad_steps=1))
    with pytest.raises(ValueError, match=r"another run: train\.direct\.ground_truth_share was 0\.0 and is 0\.5; use"):
        prepare(tmp_path, "direct", dataset, one_stage(history_noise=0.9))


def test_a_killed_direct_stage_goes_on_from_its_checkpoint(dataset: Path, teacher: StageJob, tmp_path: Path) -> None:
    whole = prepare(tmp_path / "a", "direct", dataset, init=teacher.model_folder)
    run(whole)
    killed = prepare(tmp_path / "b", "direct", dataset, init=teacher.folder.parent)
    with pytest.raises(Killed):
        run(killed, killed_after=2)
    run(killed)
    ours, expected = weights(killed), weights(whole)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_curriculum_without_clips_is_refused_before_anything_starts(dataset: Path, teacher: StageJob) -> None:
    direct = {**train_config().direct.model_dump(), "sort_by_length": True, "curriculum": (3, 9, 12)}
    with pytest.raises(ValueError, match="no clip of 4 to 9 segments"):
        prepare(teacher.folder.parent, "direct", dataset, train_config(direct=direct))


def test_the_direct_stage_without_a_teacher_says_what_to_do(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run longtake train --stage teacher"):
        prepare(tmp_path, "direct", dataset)


def test_a_model_that_is_not_there_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model in"):
        prepare(tmp_path, "direct", dataset, init=tmp_path / "x")


def test_a_stage_that_was_begun_with_other_settings_is_refused(dataset: Path, teacher: StageJob) -> None:
    other = train_config(seed=6)
    with pytest.raises(ValueError, match=r"train\.seed was 5 and is 6"):
        prepare(teacher.folder.parent, "teacher", dataset, other)


def test_a_killed_stage_goes_on_with_another_learning_rate_if_it_is_told_and_says_so_once(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "teacher", dataset), killed_after=2)
    teacher = {**train_config().teacher.model_dump(), "optimizer": {"learning_rate": 2e-3}}
    with pytest.raises(ValueError, match=r"train.teacher.optimizer.learning_rate was 0.001 and is 0.002"):
        prepare(tmp_path, "teacher", dataset, train_config(teacher=teacher))
    told = train_config(teacher=teacher, checkpoint={"every_steps": 2, "allow_changed": True})
    job = prepare(tmp_path, "teacher", dataset, told)
    warn_before_start(job)
    run(job)
    (warning,) = (text for text in caplog.messages if "goes on" in text)
    assert warning.endswith("after step 2 with changes: train.teacher.optimizer.learning_rate was 0.001 and is 0.002")
    rates = {step: metrics["learning_rate"] for step, metrics in job.metrics_log.read().items() if step}
    assert rates == {step: 1e-3 if step <= 2 else 2e-3 for step in range(1, 7)}


def test_an_average_is_validated_kept_over_a_kill_and_exported(dataset: Path, tmp_path: Path) -> None:
    averaged = train_config(ema_decay=0.5, model_weights="ema")
    whole, killed = (
        prepare(tmp_path / "a", "teacher", dataset, averaged),
        prepare(tmp_path / "b", "teacher", dataset, averaged),
    )
    summary = run(whole)
    with pytest.raises(Killed):
        run(killed, killed_after=2)
    assert run(killed).weights_sha256 == summary.weights_sha256
    live, average = tmp_path / "live", tmp_path / "average"
    export_stage(tmp_path / "a", "teacher", live, weights="live", step=None)
    export_stage(tmp_path / "a", "teacher", average, weights="ema", step=None)
    assert read_record(average).weights_sha256 == summary.weights_sha256
    assert read_record(live).weights_sha256 != summary.weights_sha256


def test_the_live_weights_are_those_of_a_run_without_an_average(
    dataset: Path, teacher: StageJob, tmp_path: Path
) -> None:
    job = prepare(tmp_path, "teacher", dataset, train_config(ema_decay=0.5))
    run(job)
    assert read_record(job.model_folder).weights_sha256 == read_record(teacher.model_folder).weights_sha256
    assert job.metrics_log.read()[6]["val_loss"] != teacher.metrics_log.read()[6]["val_loss"]


def with_videos(**changes: object) -> TrainConfig:
    """Videos of two segments after every fourth of six steps."""
    video = {"every_steps": 4, "num_segments": 2}
    validation = {**train_config().validation.model_dump(), "sample": {"num_inference_steps": 2}, "video": video}
    return train_config(validation=validation, **changes)


@pytest.fixture(scope="module")
def shown(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """The teacher once more, with videos."""
    job = prepare(tmp_path_factory.mktemp("shown"), "teacher", dataset, with_videos())
    run(job)
    return job


def test_the_weights_are_to_the_byte_those_of_a_run_without_videos(teacher: StageJob, shown: StageJob) -> None:
    assert read_record(shown.model_folder).weights_sha256 == read_record(teacher.model_folder).weights_sha256
    assert not teacher.videos.exists()


def test_each_video_is_of_the_weights_of_its_step_and_begins_as_the_others(shown: StageJob) -> None:
    first, second, last = (load_video(path) for path in saved_videos(shown.videos))
    assert (first.step, second.step, last.step) == (0, 4, 6)
    assert torch.equal(first.start_latent_CTHW, last.start_latent_CTHW)
    assert not torch.equal(first.segments_CTHW, second.segments_CTHW)
    assert not torch.equal(second.segments_CTHW, last.segments_CTHW)


def test_a_killed_stage_has_the_videos_of_an_undisturbed_one(dataset: Path, shown: StageJob, tmp_path: Path) -> None:
    job = prepare(tmp_path, "teacher", dataset, with_videos())
    with pytest.raises(Killed):
        run(job, killed_after=4)
    run(job)
    ours, expected = saved_videos(job.videos), saved_videos(shown.videos)
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in expected]


def test_where_there_is_an_average_the_video_is_made_by_it(dataset: Path, tmp_path: Path) -> None:
    """The last one is that of the exported average, and not of the exported live weights."""
    job = prepare(tmp_path, "teacher", dataset, with_videos(ema_decay=0.5))
    run(job)
    made = load_video(saved_videos(job.videos)[-1]).segments_CTHW
    average, live = (sampled_by(job, kept, tmp_path / kept).segments_CTHW for kept in ("ema", "live"))
    torch.testing.assert_close(made, average, rtol=0, atol=1e-5)
    assert (made - live).abs().max() > 0.01


def sampled_by(job: StageJob, kept: Weights, folder: Path) -> SampledVideo:
    """What the last weights of a stage, exported, make of the same clip."""
    export_stage(job.folder.parent, "teacher", folder, weights=kept, step=None)
    data = open_data(job.datasets)
    clip = sample_reader()(validation_clips(data.held_out, job.train)[0])
    module = ObjectiveModule(load_model(folder, dtype=torch.float32)[0])
    engine = PlainEngine(module, job.settings.optimizer)
    return sample_video(engine, stage_settings(job), clip, data, job.train.validation, job.settings.steps)


def test_a_video_that_cannot_be_kept_does_not_end_the_run(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one_step = {**train_config().teacher.model_dump(), "steps": 1}
    job = prepare(tmp_path, "teacher", dataset, with_videos(teacher=one_step))
    job.videos.write_text("no folder")
    assert run(job).steps == 1
    assert "the video of step 1 is lost: " in caplog.text


def test_a_stage_whose_metrics_are_behind_its_checkpoint_goes_on_and_says_what_is_missing(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = prepare(tmp_path, "teacher", dataset)
    with pytest.raises(Killed):
        run(job, killed_after=6)
    job.metrics_log.truncate(4)
    assert run(job).at_end == {}
    assert "metrics.jsonl lacks 2 of the 6 steps that are done" in caplog.text
    assert finished(job) is not None


def test_a_checkpoint_that_training_removes_while_it_is_exported_says_so(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(tmp_path, "teacher", dataset)
    with pytest.raises(Killed):
        run(job, killed_after=2)
    real = Path.open

    def removed_just_now(path: Path, *arguments: Any, **options: Any) -> object:
        if path.name == "rank-00000.safetensors":
            shutil.rmtree(path.parent)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", removed_just_now)
    with pytest.raises(ValueError, match=r"step-00000002 went while it was read, .*; give the command again"):
        export_stage(tmp_path, "teacher", tmp_path / "out", weights="live", step=None)


def test_any_complete_checkpoint_of_an_unfinished_stage_is_exported(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "teacher", dataset), killed_after=4)
    assert (
        check_export(tmp_path, "teacher", tmp_path / "out", weights="live", step=2).name == step_folder(Path(), 2).name
    )
    assert not (tmp_path / "out").exists()
    export_stage(tmp_path, "teacher", tmp_path / "out", weights="live", step=2)
    model, record = load_model(tmp_path / "out", dtype=torch.float32)
    assert record.weights_sha256 == weights_sha256(model.state_dict())
    with pytest.raises(ValueError, match=r"no complete checkpoint of step 3 .* there are \[2, 4\]"):
        export_stage(tmp_path, "teacher", tmp_path / "out", weights="live", step=3)
    with pytest.raises(ValueError, match="holds no moving average"):
        export_stage(tmp_path, "teacher", tmp_path / "out", weights="ema", step=2)
    with pytest.raises(ValueError, match="holds no moving average"):
        check_export(tmp_path, "teacher", tmp_path / "out", weights="ema", step=2)


def test_a_finished_stage_is_exported_whatever_became_of_its_data(teacher: StageJob, tmp_path: Path) -> None:
    shutil.copytree(teacher.folder, tmp_path / "teacher")
    begun = tmp_path / "teacher" / "stage.json"
    begun.write_text(begun.read_text().replace(teacher.datasets[0].uri, str(tmp_path / "gone")))
    export_stage(tmp_path, "teacher", tmp_path / "out", weights="live", step=None)
    assert read_record(tmp_path / "out") == read_record(teacher.model_folder)


def test_a_direct_checkpoint_is_exported_from_a_run_that_was_moved(
    dataset: Path, teacher: StageJob, tmp_path: Path
) -> None:
    first, moved = tmp_path / "first", tmp_path / "moved"
    shutil.copytree(teacher.folder, first / "teacher")
    with pytest.raises(Killed):
        run(prepare(first, "direct", dataset), killed_after=2)
    first.rename(moved)
    export_stage(moved, "direct", tmp_path / "out", weights="live", step=None)
    shutil.rmtree(moved / "teacher")
    with pytest.raises(ValueError, match=r"moved/teacher/model, where the stage began, is not there"):
        check_export(moved, "direct", tmp_path / "out", weights="live", step=None)


def test_a_folder_that_is_gone_is_looked_for_nowhere_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone, where the stage began, is not there"):
        start_weights(MODEL, CODEC, init=tmp_path / "gone", seed=0)


def test_a_stage_does_not_go_on_with_the_same_clips_in_another_codec(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "teacher", dataset), killed_after=2)
    other = make_dataset(tmp_path / "other", codec=replace(CODEC, codec_id="another"))
    with pytest.raises(ValueError, match=r"codec\.codec_id was 'tiny' and is 'another'; use a new --run"):
        prepare(tmp_path, "teacher", other)


def test_a_clip_whose_loss_overflows_ends_the_stage_or_is_left_out_and_counted(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset", spoiled=("clip00",))
    with pytest.raises(NonFiniteError, match=r"loss of step \d is (nan|inf) \(clips .*clip00.*skip_nonfinite"):
        run(prepare(tmp_path / "a", "teacher", dataset))
    job = prepare(tmp_path / "b", "teacher", dataset, train_config(skip_nonfinite=True))
    summary = run(job)
    metrics = job.metrics_log.read()
    assert 0 < summary.num_skipped_steps == sum("skipped" in values for values in metrics.values()) < 6
    assert all(torch.isfinite(weight).all() for weight in weights(job).values())


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte is wrong in a clip of either split."""
    dataset = make_dataset(tmp_path_factory.mktemp("damaged"))
    damage(dataset, "clip01", "clip05")
    return dataset


@pytest.fixture(scope="module")
def left_out(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """A stage that has gone on without them."""
    job = prepare(tmp_path_factory.mktemp("left-out"), "teacher", damaged, train_config(skip_broken=True))
    run(job)
    return job


def test_a_damaged_sample_ends_the_stage_with_its_name(damaged: Path, tmp_path: Path) -> None:
    what = r"clip clip0[15] of .* cannot be read: .*\.latents\.safetensors in shard tiny/000 is not what was written"
    with pytest.raises(BrokenSampleError, match=what):
        run(prepare(tmp_path, "teacher", damaged))


def test_or_it_is_left_out_of_every_step_that_it_was_meant_for_and_counted(left_out: StageJob) -> None:
    metrics, summary = left_out.metrics_log.read(), finished(left_out)
    meant_for = [
        sum(clip.clip_id == "clip01" for clip in step.clips)
        for step in islice(global_steps(left_out, open_data(left_out.datasets).train), 6)
    ]
    assert [metrics[step].get("broken_samples", 0) for step in range(1, 7)] == meant_for
    assert summary is not None
    assert summary.num_broken_samples == sum(meant_for) > 0
    assert [values["val_broken_samples"] for values in metrics.values() if "val_loss" in values] == [1, 1, 1]


def test_a_stage_that_leaves_samples_out_goes_on_as_if_never_killed(
    damaged: Path, left_out: StageJob, tmp_path: Path
) -> None:
    killed = prepare(tmp_path, "teacher", damaged, train_config(skip_broken=True))
    with pytest.raises(Killed):
        run(killed, killed_after=2)
    run(killed)
    assert read_record(killed.model_folder).weights_sha256 == read_record(left_out.model_folder).weights_sha256
    for name in ("loss", "num_losses", "skipped", "broken_samples", "val_broken_samples"):
        ours, theirs = ([values.get(name) for values in job.metrics_log.read().values()] for job in (killed, left_out))
        assert ours == theirs


@pytest.mark.parametrize("stage", ["teacher", "direct"])
def test_steps_without_a_clip_that_can_be_read_change_no_weight(tmp_path: Path, stage: StageName) -> None:
    dataset = make_dataset(tmp_path / "dataset")
    damage(dataset, *(f"clip{i:02}" for i in range(7)))
    from_scratch = {**train_config().direct.model_dump(), "from_scratch": True, "trained": "all"}
    job = prepare(tmp_path / "run", stage, dataset, train_config(skip_broken=True, direct=from_scratch))
    summary = run(job)
    metrics = job.metrics_log.read()
    assert (summary.num_broken_samples, summary.num_skipped_steps) == (2 * summary.steps, summary.steps)
    assert [metrics[step]["skipped"] for step in range(1, summary.steps + 1)] == [1] * summary.steps
    assert summary.at_start == {"val_broken_samples": 2}
    begun = start_weights(MODEL, CODEC, init=None, seed=5)
    assert summary.weights_sha256 == weights_sha256(begun.state_dict())


def test_a_full_disk_leaves_the_checkpoint_before(dataset: Path, teacher: StageJob, tmp_path: Path) -> None:
    job = prepare(tmp_path, "teacher", dataset)
    with pytest.raises(Killed):
        run(job, killed_after=2)
    with (
        no_file_beyond(20_000),
        pytest.raises(OSError, match=r"File too large: .*step-00000004/rank-00000\.safetensors"),
    ):
        run(job)
    run(job)
    assert read_record(job.model_folder).weights_sha256 == read_record(teacher.model_folder).weights_sha256


def teacher_of(steps: int, decay: str) -> dict[str, object]:
    optimizer = {"learning_rate": 1e-3, "decay": decay}
    return {**train_config().teacher.model_dump(), "steps": steps, "optimizer": optimizer}


def test_more_steps_of_a_decaying_teacher_are_a_change_of_the_schedule(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "teacher", dataset, train_config(teacher=teacher_of(6, "cosine"))), killed_after=2)
    longer = teacher_of(9, "cosine")
    with pytest.raises(ValueError, match=r"train\.teacher\.steps was 6 and is 9; .*allow_changed=true"):
        prepare(tmp_path, "teacher", dataset, train_config(teacher=longer))
    told = train_config(teacher=longer, checkpoint={"every_steps": 2, "allow_changed": True})
    assert prepare(tmp_path, "teacher", dataset, told).settings.steps == 9


def test_changes_that_no_step_was_made_with_yet_have_to_be_allowed_again(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "teacher", dataset), killed_after=2)
    prepare(tmp_path, "teacher", dataset, train_config(seed=6, checkpoint={"every_steps": 2, "allow_changed": True}))
    with pytest.raises(ValueError, match=r"train\.seed was 5 and is 6; .*allow_changed=true"):
        prepare(tmp_path, "teacher", dataset, train_config(seed=6))
    prepare(tmp_path, "teacher", dataset)


def test_fewer_steps_than_are_done_are_refused_before_anything_starts(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(prepare(tmp_path, "teacher", dataset), killed_after=4)
    with pytest.raises(
        ValueError, match=r"has done 4 steps, and 2 are asked for: set train\.teacher\.steps to 4 or more"
    ):
        prepare(tmp_path, "teacher", dataset, train_config(teacher=teacher_of(2, "constant")))
    prepare(tmp_path, "teacher", dataset, train_config(teacher=teacher_of(4, "constant")))


def test_more_steps_lengthen_a_finished_teacher(dataset: Path, teacher: StageJob) -> None:
    longer = train_config(teacher={**train_config().teacher.model_dump(), "steps": 7})
    job = prepare(teacher.folder.parent, "teacher", dataset, longer)
    assert finished(job) is None


def test_a_global_batch_that_the_ranks_cannot_share_is_refused_at_once(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 3"):
        prepare(tmp_path, "teacher", dataset, train_config(num_workers=3))


def test_a_stage_keeps_the_dataset_version_it_was_begun_with(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset")
    first = prepare(tmp_path / "run", "teacher", dataset)
    make_dataset(dataset, train=(1, 1, 2))  # preprocessing went on beside the training
    again = prepare(tmp_path / "run", "teacher", dataset)
    new_run = prepare(tmp_path / "other", "teacher", dataset)
    assert again.datasets == first.datasets
    assert new_run.datasets != first.datasets


def test_a_stage_of_another_size_than_its_teacher_is_refused_before_anything_starts(
    dataset: Path, teacher: StageJob
) -> None:
    with pytest.raises(ValueError, match=r"model.memory.width was .* and is 48"):
        prepare_job(
            teacher.folder.parent, "direct", model=MODEL.model_copy(update={"memory": MemoryConfig(width=48)}),
            train=train_config(), dataset_uris=[str(dataset)], init=None,
        )  # fmt: skip
