"""The recipes of the paper's tables: each differs from the whole method in what its row says, and in nothing else."""

from collections.abc import Mapping
from itertools import product

import pytest

from pipeline.config import load_recipe, recipe_names

TEACHER = {"train.stages": ("teacher",)}
ROWS = {
    "table2_f1_ct": {"model.memory.enabled": False, **TEACHER},
    "table2_memorypack": TEACHER,
    "table2_zero_memorypack": {"model.memory.init": "zero", **TEACHER},
    "table2_student_forcing": {"train.stages": ("teacher", "student")},
    "table2_all": {},
    "table3_c": {"model.memory.structure": "C", **TEACHER},
    "table3_b": {"model.memory.structure": "B", **TEACHER},
    "table3_a": TEACHER,
}
SIZES = {"": "framepack_f1_480p", "_small": "study"}


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Settings by their dotted names."""
    items: dict[str, object] = {}
    for name, value in values.items():
        items |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return items


@pytest.mark.parametrize(("row", "size"), list(product(ROWS, SIZES)))
def test_a_recipe_of_the_paper_s_tables_changes_what_its_row_says(row: str, size: str) -> None:
    ours, whole = (flat(load_recipe(name).model_dump()) for name in (row + size, SIZES[size]))
    changed = {name: value for name, value in ours.items() if value != whole[name] and name != "description"}
    assert changed == ROWS[row]


def test_every_row_of_the_paper_s_tables_has_a_recipe_of_either_size() -> None:
    assert {name for name in recipe_names() if name.startswith("table")} == {
        row + size for row, size in product(ROWS, SIZES)
    }


def test_the_whole_method_is_structure_a_with_guidance_and_two_stages() -> None:
    for base in SIZES.values():
        recipe = load_recipe(base)
        assert recipe.model.memory.enabled
        assert (recipe.model.memory.structure, recipe.model.memory.init) == ("A", "guidance")  # Tables 2 and 3
        assert recipe.train.stages == ("teacher", "direct")  # 4.1
        assert recipe.train.direct.update == "clip"  # 3.2
        assert recipe.train.direct.trained == "head"  # A.2
        assert recipe.train.direct.student.num_inference_steps == 5  # 4.3


@pytest.mark.parametrize("name", ["framepack_f1_480p", *ROWS])
def test_a_fresh_memory_on_trained_weights_learns_alone_first(name: str) -> None:
    teacher = load_recipe(name).train.teacher
    assert 0 < teacher.memory_warmup_steps < teacher.steps / 10  # ours; without a memory it counts for nothing


def test_one_stage_goes_from_teacher_to_direct_over_as_many_steps_as_the_teacher_has() -> None:
    recipe = load_recipe("single_stage_small").train
    assert recipe.stages == ("direct",)
    assert (recipe.direct.ground_truth_share, recipe.direct.final_ground_truth_share) == (1.0, 0.0)
    assert (recipe.direct.trained, recipe.direct.from_scratch) == ("all", True)
    assert recipe.direct.steps == recipe.teacher.steps


def test_in_production_no_picture_with_a_shorter_side_below_480_px_is_kept() -> None:
    recipe = load_recipe("framepack_f1_480p")
    assert recipe.decide.min_height_px == min(min(size) for size in recipe.encode.sizes_px) == 480  # 4.3
    assert load_recipe("embedded").decide.min_height_px == 64
