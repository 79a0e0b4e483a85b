from pathlib import Path

import pytest

from pipeline.config import Recipe, build_recipe, load_recipe
from pipeline.jobs.stage_preview import StagePreview, planned_material, preview_stages, stage_cost
from tests.training.small_dataset import CODEC, MODEL, make_dataset, train_config
from training.checkpoint import start_weights
from training.model.weights import save_model


@pytest.fixture
def recipe() -> Recipe:
    train = train_config(2).model_dump(mode="json")
    return build_recipe({"description": "test", "model": MODEL.model_dump(mode="json"), "train": train})


def test_a_previewed_stage_says_what_it_would_train_and_leaves_no_trace(recipe: Recipe, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d")

    (preview,) = preview_stages(
        recipe, dataset_uris=[str(dataset)], run_dir=tmp_path / "r", stages=["teacher"], init=None, gpu_memory_gb=None
    )

    assert (preview.num_clips, preview.num_held_out) == (5, 2)
    assert preview.cost.material.num_segments == 3
    assert preview.cost.parameters.total == preview.cost.parameters.trained > 0
    assert preview.init is None
    assert not (tmp_path / "r").exists()


def save_teacher(folder: Path, *, fps: float = 24.0) -> Path:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, folder, config=MODEL, codec=CODEC, fps=fps, sizes_px=((64, 64),))
    return folder


def test_a_previewed_direct_stage_trains_the_head_of_its_teacher(recipe: Recipe, tmp_path: Path) -> None:
    dataset, teacher = make_dataset(tmp_path / "d"), save_teacher(tmp_path / "teacher")

    (preview,) = preview_stages(
        recipe, dataset_uris=[str(dataset)], run_dir=tmp_path / "r", stages=["direct"], init=teacher, gpu_memory_gb=None
    )

    assert preview.init == str(teacher)
    assert preview.cost.warnings == ()
    assert 0 < preview.cost.parameters.trained < preview.cost.parameters.total / 10


def test_a_preview_says_which_clips_the_model_to_begin_from_does_not_know(recipe: Recipe, tmp_path: Path) -> None:
    dataset, teacher = make_dataset(tmp_path / "d", size_px=(64, 96)), save_teacher(tmp_path / "teacher", fps=8.0)

    (preview,) = preview_stages(
        recipe, dataset_uris=[str(dataset)], run_dir=tmp_path / "r", stages=["direct"], init=teacher, gpu_memory_gb=None
    )

    rate, size = (line for line in preview.lines() if line.startswith("warning: "))
    assert "was trained on 8 frames a second, and the clips have 24" in rate
    assert "has never seen those of 64 x 96" in size


def both_stages(recipe: Recipe, tmp_path: Path) -> list[StagePreview]:
    dataset, run = make_dataset(tmp_path / "d"), tmp_path / "r"
    return preview_stages(
        recipe, dataset_uris=[str(dataset)], run_dir=run, stages=recipe.train.stages, init=None, gpu_memory_gb=None
    )


def test_a_stage_is_previewed_before_the_teacher_that_it_begins_from_is_there(recipe: Recipe, tmp_path: Path) -> None:
    teacher, direct = both_stages(recipe, tmp_path)
    assert (teacher.cost.stage, direct.cost.stage) == ("teacher", "direct")
    assert direct.init == str(tmp_path / "r" / "teacher" / "model")
    assert direct.cost.parameters.trained < teacher.cost.parameters.trained
    assert not (tmp_path / "r").exists()


def test_what_makes_a_later_stage_impossible_is_said_before_the_first(tmp_path: Path) -> None:
    direct = {**train_config().direct.model_dump(mode="json"), "sort_by_length": True, "curriculum": [3, 9, 12]}
    train = train_config(direct=direct).model_dump(mode="json")
    recipe = build_recipe({"description": "test", "model": MODEL.model_dump(mode="json"), "train": train})
    with pytest.raises(ValueError, match="no clip of 4 to 9 segments"):
        both_stages(recipe, tmp_path)


def test_clips_that_are_longer_than_positions_can_tell_are_announced_where_they_are_trained_to_their_end() -> None:
    recipe = load_recipe("framepack_f1_480p", ["clips.max_segments=100"])
    teacher, direct = (stage_cost(recipe, stage, planned_material(recipe), None) for stage in ("teacher", "direct"))
    (warning,) = teacher.warnings
    assert "100 segments lies 900 latent frames after the start image" in warning
    assert f"warning: {warning}" in teacher.lines()
    assert not direct.warnings  # its curriculum ends at 40 segments


def test_framepack_at_480p_is_planned_without_a_dataset_or_weights() -> None:
    recipe = load_recipe("framepack_f1_480p", [])
    cost = stage_cost(recipe, "teacher", planned_material(recipe), 96.0)
    assert cost.parameters.total > 12_874_314_816  # the memory comes on top
    assert cost.as_dict()["fits"] is True
    said = "\n".join(cost.lines())
    assert f"weights: {2 * cost.parameters.total / 8 / 1e9:.2f} GB = 2 B x {cost.parameters.total:,} / 8 ranks" in said
    assert "fits into 96 GB" in said
    assert "360,000 segments" in said  # 150 h x 3600 s x 24 fps / 36 frames


def test_a_single_gpu_of_80_gb_holds_stage_2_but_not_stage_1() -> None:
    recipe = load_recipe("framepack_f1_480p", ["train.engine.num_workers=1", "train.engine.zero_stage=1"])
    material = planned_material(recipe)
    assert stage_cost(recipe, "direct", material, 80.0).as_dict()["fits"] is True
    assert stage_cost(recipe, "teacher", material, 80.0).as_dict()["fits"] is False
