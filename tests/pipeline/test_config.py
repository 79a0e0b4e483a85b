"""Recipes: strict, layered, overridden by dotted keys, and true to the paper."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import RecipeError, build_recipe, dump_recipe, fingerprint, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_its_dump_reads_back_equal(name: str) -> None:
    recipe = load_recipe(name)
    assert build_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("decide.min_dynamsm=1", "unknown key decide.min_dynamsm, did you mean min_dynamism?"),
        ("encode.hunyuan.vea=x", "unknown key encode.hunyuan.vea, did you mean vae?"),
        ("tran.seed=1", "unknown key tran, did you mean train?"),
        ("decide.min_dynamism=fast", "decide.min_dynamism: input should be a valid number, got 'fast'"),
        ("train.engine.zero_stage=7", "train.engine.zero_stage: input should be 0, 1, 2 or 3, got 7"),
        ("model.preset=huge", "model.preset: input should be 'tiny', 'demo', 'small' or 'framepack_f1', got 'huge'"),
        ("encode.sizes_px=[[65, 64]]", "encode.sizes_px.0.0: input should be a multiple of 16, got 65"),
        ("train.direct.curriculum=[0]", "train.direct.curriculum.0: input should be greater than 0, got 0"),
        ("train.stages=[teacher, teacher]", "train.stages: a stage runs once: name each one time, got ["),
        (
            "train.stages=[direct, teacher]",
            "train.stages: the other stages begin from the teacher: name it",
        ),
        ("train.stages=[]", "train.stages: tuple should have at least 1 item"),
        (
            "generate.device=gpu",
            "generate.device: a device is cpu, mps, cuda, or cuda:N for one GPU, got 'gpu'",
        ),
        ("encode.device=cuda:x", "encode.device: a device is cpu, mps, cuda"),
        ("captions.device=CPU", "captions.device: a device is cpu, mps, cuda, or cuda:N for one GPU, got 'CPU'"),
        ("clips.fps=2020-01-01", "clips.fps: input should be a valid number, got '2020-01-01'"),
        ("train.teacher=1", "train.teacher: input should be an object, got 1"),
        ("train.seed", "--set train.seed: expected key=value, for example decide.min_dynamism=0.5"),
    ],
)
def test_a_wrong_override_says_what_was_meant(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("embedded", [override])
    assert str(error.value).startswith(message)


def test_settings_that_do_not_go_together_are_named_and_no_others() -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("embedded", ["model.memory.structure=B", "model.memory.init=zero"])
    assert str(error.value) == (
        "model.memory: queries of zeros all find the same: structure B needs init guidance, init zero needs A or C"
    )


def test_a_wrong_name_names_the_nearest_recipe() -> None:
    with pytest.raises(RecipeError, match="did you mean embedded"):
        load_recipe("embeded")


def test_a_recipe_that_is_its_own_base_says_so(tmp_path: Path) -> None:
    ring = tmp_path / "ring.yaml"
    ring.write_text(f"base: {ring}\n")
    with pytest.raises(RecipeError, match="is its own base"):
        load_recipe(str(ring))


def test_a_file_that_is_missing_or_not_yaml_is_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\n")
    for path, words in [(tmp_path / "none.yaml", "there is no recipe file"), (broken, "is not YAML")]:
        with pytest.raises(RecipeError, match=words) as error:
            load_recipe(str(path))
        assert "\n" not in str(error.value)


def test_an_override_changes_one_value_and_the_fingerprint() -> None:
    plain, changed = load_recipe("embedded"), load_recipe("embedded", ["decide.min_dynamism=0.75"])
    assert changed.decide.min_dynamism == 0.75
    assert changed.clips == plain.clips
    assert fingerprint(changed) != fingerprint(plain)
    assert fingerprint(changed.clips) == fingerprint(plain.clips)


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "+1.e-5", ".00001", "0.1e-4"])
def test_a_number_may_be_written_as_everybody_types_it(text: str) -> None:
    changed = load_recipe("embedded", [f"train.teacher.optimizer.learning_rate={text}"])
    assert changed.train.teacher.optimizer.learning_rate == 1e-5


def test_no_clip_can_be_longer_than_the_longest() -> None:
    with pytest.raises(RecipeError, match="min_segments is 50, more than max_segments, 40"):
        load_recipe("embedded", ["clips.min_segments=50"])


def test_a_recipe_builds_on_its_base() -> None:
    assert load_recipe("demo").encode.codec == load_recipe("embedded").encode.codec
    assert load_recipe("demo").encode.sizes_px != load_recipe("embedded").encode.sizes_px


def test_the_paper_s_numbers_stand_in_its_recipe() -> None:
    recipe = load_recipe("framepack_f1_480p")
    train = recipe.train
    assert recipe.clips.fps == 24.0  # 4.3
    assert recipe.clips.max_segments * 36 / recipe.clips.fps == 60.0  # 4.1: up to one minute
    assert all(min(size) in (480, 640) for size in recipe.encode.sizes_px)  # 4.3: 480p
    assert train.teacher.optimizer.learning_rate == train.direct.optimizer.learning_rate == 1e-5  # 4.1
    assert train.teacher.global_batch == train.direct.global_batch == train.engine.num_workers  # 4.1: one a GPU
    assert train.teacher.steps * train.teacher.global_batch == 8 * 16_000  # 4.1: clips; the passes are ours
    assert train.direct.steps * train.direct.global_batch == 16_000
    assert train.direct.curriculum[0] == 1  # A.2: "videos containing a single clip"
    assert list(train.direct.curriculum) == sorted(train.direct.curriculum)  # A.2: "progressively increase"
    assert recipe.model.preset == "framepack_f1"  # 4.1
    assert recipe.model.memory.structure == "A"  # Table 3
    assert recipe.model.memory.init == "guidance"  # 3.1
    assert recipe.evaluate.window_share == 0.15  # 4.2, eq. 8
