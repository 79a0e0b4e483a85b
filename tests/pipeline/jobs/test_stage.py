from pathlib import Path

import pytest

from pipeline.config import Recipe, build_recipe
from pipeline.jobs.stage import preview_stage
from tests.training.small_dataset import CODEC, MODEL, make_dataset, train_config
from training.checkpoint import start_weights
from training.model.weights import save_model


@pytest.fixture
def recipe() -> Recipe:
    train = train_config(2).model_dump(mode="json")
    return build_recipe({"description": "test", "model": MODEL.model_dump(mode="json"), "train": train})


def test_a_previewed_stage_says_what_it_would_train_and_leaves_no_trace(recipe: Recipe, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d")

    preview = preview_stage(recipe, dataset_uris=[str(dataset)], run_dir=tmp_path / "r", stage="teacher", init=None)

    assert (preview.num_clips, preview.num_held_out) == (5, 2)
    assert preview.num_parameters == preview.num_trained > 0
    assert preview.init is None
    assert not (tmp_path / "r").exists()


def test_a_previewed_direct_stage_trains_the_head_of_its_teacher(recipe: Recipe, tmp_path: Path) -> None:
    dataset, teacher = make_dataset(tmp_path / "d"), tmp_path / "teacher"
    save_model(
        start_weights(MODEL, CODEC, init=None, seed=0), teacher, config=MODEL, codec=CODEC, fps=24.0,
        sizes_px=((64, 64),),
    )  # fmt: skip

    preview = preview_stage(recipe, dataset_uris=[str(dataset)], run_dir=tmp_path / "r", stage="direct", init=teacher)

    assert preview.init == str(teacher)
    assert 0 < preview.num_trained < preview.num_parameters / 10
