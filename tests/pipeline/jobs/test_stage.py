"""What a stage's driver does before and around the training itself."""

import os
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from pipeline.config import Recipe, build_recipe
from pipeline.jobs.stage import stage_params, train_stage
from pipeline.tracking.tracked_run import Tracking
from preprocessing.storage import open_storage
from tests.training.small_dataset import CODEC, MODEL, make_dataset, train_config
from training.checkpoint import start_weights
from training.model.weights import save_model
from training.run_folder import check_job
from training.types import StageSummary


@pytest.fixture
def recipe() -> Recipe:
    train = train_config(2).model_dump(mode="json")
    return build_recipe({"description": "test", "model": MODEL.model_dump(mode="json"), "train": train})


def train(
    recipe: Recipe,
    dataset: Path,
    run: Path,
    *,
    init: Path | None = None,
    address: str | None = None,
    tracking_uri: str = "none",
) -> StageSummary:
    return train_stage(
        recipe, dataset_uris=[str(dataset)], run_dir=run, stage="teacher", init=init, address=address,
        tracking=Tracking(uri=tracking_uri, line=None),
    )  # fmt: skip


def test_the_warnings_of_a_stage_that_failed_are_in_its_tracked_run(
    recipe: Recipe, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(**_: object) -> None:
        raise ConnectionError("no Ray there")

    monkeypatch.setattr(ray, "init", absent)
    dataset = make_dataset(tmp_path / "data", held_out=())
    with pytest.raises(ConnectionError, match="no Ray there"):
        train(recipe, dataset, tmp_path / "run", address="absent:1", tracking_uri=uri)
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'longtake'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`longtake.kind` = 'train-teacher'")
    assert run.info.status == "FAILED"
    kept = Path(client.download_artifacts(run.info.run_id, "warnings.log", str(tmp_path)))
    assert kept.read_text() == (tmp_path / "run" / "teacher" / "warnings.log").read_text()
    assert kept.read_text().startswith("training.run_folder: no clip is held out")


def test_a_second_driver_of_a_stage_is_told_who_the_first_is_and_touches_nothing(
    recipe: Recipe, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "data")
    stage = tmp_path / "run" / "teacher"
    with open_storage(str(stage)).lease("ann on host a, process 7"):
        with pytest.raises(
            RuntimeError, match=r"run/teacher is being trained .*: ann on host a, process 7; wait for it"
        ):
            train(recipe, dataset, tmp_path / "run")
        assert [path.name for path in stage.iterdir()] == [".lease"]


def test_all_that_a_stage_is_told_is_among_its_parameters(recipe: Recipe, tmp_path: Path) -> None:
    dataset = [str(make_dataset(tmp_path / "data"))]
    train = recipe.train.model_copy(update={"ema_decay": 0.9, "model_weights": "ema", "skip_broken": True})
    job = check_job(tmp_path / "run", "teacher", model=MODEL, train=train, dataset_uris=dataset, init=None)
    logged = stage_params(recipe.model_copy(update={"train": train}), job)
    others = {"engine", "flow", "teacher", "direct", "stages", "checkpoint", "validation"}
    assert train.model_dump(exclude=others).items() <= logged.items()
    assert (logged["ema_decay"], logged["optimizer.learning_rate"]) == (0.9, 1e-3)


def test_what_teacher_steps_go_by_is_among_the_parameters_of_a_stage_that_takes_them(
    recipe: Recipe, tmp_path: Path
) -> None:
    dataset = [str(make_dataset(tmp_path / "data"))]

    def logged(share: float) -> dict[str, object]:
        direct = recipe.train.direct.model_copy(update={"from_scratch": True, "ground_truth_share": share})
        train = recipe.train.model_copy(update={"direct": direct})
        job = check_job(tmp_path / "run", "direct", model=MODEL, train=train, dataset_uris=dataset, init=None)
        return stage_params(recipe.model_copy(update={"train": train}), job)

    assert {name for name in logged(0.5) if name.startswith("teacher.")} == {
        "teacher.history_noise", "teacher.memory_grad_steps",
    }  # fmt: skip
    assert not any(name.startswith("teacher.") for name in logged(0.0))


def test_a_stage_that_is_refused_leaves_no_trace(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no dataset"):
        train(recipe, tmp_path / "none", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_to_begin_from_that_was_cut_off_is_refused_before_ray_is_asked_for(
    recipe: Recipe, tmp_path: Path
) -> None:
    init = tmp_path / "init"
    save_model(
        start_weights(MODEL, CODEC, init=None, seed=0), init, config=MODEL, codec=CODEC, fps=24.0, sizes_px=((64, 64),)
    )
    os.truncate(init / "memory.safetensors", 1000)
    with pytest.raises(ValueError, match=r"init/memory\.safetensors is damaged"):
        train(recipe, make_dataset(tmp_path / "data"), tmp_path / "run", init=init, address="absent:1")
    assert not (tmp_path / "run").exists()
