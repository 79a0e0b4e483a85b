from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.small_dataset import CODEC, MODEL
from training.checkpoint import start_weights
from training.compatibility import flat_settings, refuse_other_run, unfamiliar_clips
from training.model.weights import save_model
from training.types import CheckpointRecord, ClipFormat

SETTINGS = {"model.preset": "tiny", "model.rope_mode": "f1", "train.teacher.optimizer.learning_rate": 1e-5}
STORED = CheckpointRecord(
    stage="teacher",
    step=2,
    num_updates=2,
    val_loss=None,
    settings=SETTINGS,
    plan_hash="p",
    base_sha256="b",
    num_ranks=2,
    clip_format=ClipFormat(codec=CODEC, fps=24.0, sizes_px=((64, 64),)),
)
HERE = Path("checkpoint")


def changed(**settings: object) -> CheckpointRecord:
    return replace(STORED, settings=SETTINGS | {name.replace("__", "."): value for name, value in settings.items()})


def test_every_changed_setting_is_named_with_its_old_and_new_value() -> None:
    now = replace(changed(train__teacher__optimizer__learning_rate=2e-5, model__rope_mode="absolute"), plan_hash="q")
    with pytest.raises(ValueError, match="allow_changed=true") as error:
        refuse_other_run(HERE, STORED, now, allow_changed=False)
    assert "train.teacher.optimizer.learning_rate was 1e-05 and is 2e-05" in str(error.value)
    assert "model.rope_mode was 'f1' and is 'absolute'" in str(error.value)
    assert "clips to train on (plan_hash) was 'p' and is 'q'" in str(error.value)


def test_who_is_told_goes_on_with_the_changes_and_whoever_told_it_says_them(caplog: pytest.LogCaptureFixture) -> None:
    now = changed(train__teacher__optimizer__learning_rate=2e-5)
    refuse_other_run(HERE, STORED, now, allow_changed=True)
    assert not caplog.records


def of_clips(**changes: object) -> CheckpointRecord:
    assert STORED.clip_format is not None
    return replace(STORED, clip_format=replace(STORED.clip_format, **changes))


def test_latents_of_another_codec_are_refused_whoever_is_told_and_both_are_named() -> None:
    now = replace(of_clips(codec=replace(CODEC, codec_id="another", options={"x": 1})), base_sha256="c")
    with pytest.raises(ValueError, match="use a new --run") as error:
        refuse_other_run(HERE, STORED, now, allow_changed=True)
    assert "codec.codec_id was 'tiny' and is 'another'; codec.options was {} and is {'x': 1}" in str(error.value)


def test_another_frame_rate_is_a_change() -> None:
    now = of_clips(fps=16.0)
    with pytest.raises(ValueError, match=r"\(fps\) was 24.0 and is 16.0"):
        refuse_other_run(HERE, STORED, now, allow_changed=False)
    refuse_other_run(HERE, STORED, now, allow_changed=True)


def test_a_run_goes_on_from_a_version_that_did_not_say_what_clips_are_like() -> None:
    refuse_other_run(HERE, replace(STORED, clip_format=None), STORED, allow_changed=False)


def test_a_run_goes_on_from_a_version_that_did_not_say_how_many_steps_the_teacher_has() -> None:
    now = changed(train__teacher__steps=100)
    refuse_other_run(HERE, STORED, now, allow_changed=False)
    with pytest.raises(ValueError, match=r"train\.teacher\.steps was 100 and is 200"):
        refuse_other_run(HERE, now, changed(train__teacher__steps=200), allow_changed=False)


def test_a_run_goes_on_from_a_version_without_history_dropout_as_long_as_it_has_none() -> None:
    refuse_other_run(HERE, STORED, changed(train__teacher__history_dropout=0.0), allow_changed=False)
    with pytest.raises(ValueError, match=r"train\.teacher\.history_dropout was 0\.0 and is 0\.2"):
        refuse_other_run(HERE, STORED, changed(train__teacher__history_dropout=0.2), allow_changed=False)


@pytest.mark.parametrize(("setting", "value"), [("history_noise", 0.5), ("memory_grad_steps", 2)])
def test_a_run_goes_on_from_a_version_that_did_not_say_what_its_teacher_steps_went_by(
    setting: str, value: object
) -> None:
    stored, named = replace(STORED, stage="direct"), f"train.teacher.{setting}"
    now = replace(stored, settings=SETTINGS | {named: value})
    refuse_other_run(HERE, stored, now, allow_changed=False)
    with pytest.raises(ValueError, match=f"{named} was {value} and is None"):
        refuse_other_run(HERE, now, replace(now, settings=SETTINGS | {named: None}), allow_changed=False)
    refuse_other_run(HERE, now, stored, allow_changed=False)  # it takes none any more, which their share says


@pytest.mark.parametrize(
    "now", [changed(model__preset="small"), replace(STORED, base_sha256="c"), replace(STORED, stage="direct")]
)
def test_other_weights_are_refused_whoever_is_told(now: CheckpointRecord) -> None:
    with pytest.raises(ValueError, match="use a new --run"):
        refuse_other_run(HERE, STORED, now, allow_changed=True)


def test_another_step_or_number_of_ranks_is_no_change() -> None:
    refuse_other_run(HERE, STORED, replace(STORED, step=9, num_updates=8, num_ranks=1), allow_changed=False)


def test_a_setting_that_another_version_did_not_have_is_a_change() -> None:
    with pytest.raises(ValueError, match=r"train.new was 'not a setting' and is 3"):
        refuse_other_run(HERE, STORED, changed(train__new=3), allow_changed=False)


def test_settings_are_named_by_their_way_through_the_recipe() -> None:
    assert flat_settings({"train": {"seed": 1, "flow": {"shift": 3.0}}}) == {"train.seed": 1, "train.flow.shift": 3.0}


CLIPS = ClipFormat(codec=CODEC, fps=24.0, sizes_px=((64, 64), (64, 96)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, tmp_path, config=MODEL, codec=CODEC, fps=CLIPS.fps, sizes_px=CLIPS.sizes_px)
    return tmp_path


def test_clips_of_another_rate_or_of_new_sizes_are_told_from_those_that_a_model_was_trained_on(model: Path) -> None:
    (rate,) = unfamiliar_clips(model, replace(CLIPS, fps=8.0))
    assert "was trained on 24 frames a second, and the clips have 8," in rate
    (size,) = unfamiliar_clips(model, replace(CLIPS, sizes_px=((64, 96), (96, 64), (96, 96))))
    assert "of 64 x 64, 64 x 96 pixels, and has never seen those of 96 x 64, 96 x 96 among" in size
    assert unfamiliar_clips(model, replace(CLIPS, fps=8.0, sizes_px=((96, 64),)))[0] == rate


def test_clips_of_some_of_the_sizes_are_no_news_and_neither_is_anything_to_a_base(model: Path) -> None:
    assert unfamiliar_clips(model, replace(CLIPS, sizes_px=((64, 96),))) == ()
    (model / "longtake.json").unlink()
    assert unfamiliar_clips(model, replace(CLIPS, fps=8.0)) == ()
