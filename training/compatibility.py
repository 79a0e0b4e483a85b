"""Whether a run can go on from a checkpoint, or begin from a model folder; and if not, what is different."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from preprocessing.samples import CodecRecord
from training.config import ModelConfig
from training.model.base_weights import base_differences
from training.model.weight_files import backbone_files, refuse_damaged_files
from training.model.weights import RECORD_FILE, codec_differences, read_record, refuse_damaged_model
from training.types import CheckpointRecord, ClipFormat

UNKNOWN = "not a setting"
"""The value of a setting that another version of longtake does not have."""


_NOT_ALWAYS_RECORDED = frozenset(
    {"train.teacher.steps", "train.teacher.history_noise", "train.teacher.memory_grad_steps"}
)
"""Settings that some stages don't go by, which another setting says, and of which older versions say nothing even where
a stage does: what they were there is not known, and taking them for changed would refuse all that those versions began."""


_BEFORE = {"train.teacher.history_dropout": 0.0}
"""Settings that older versions do not have, and what they did."""


class OtherRunError(ValueError):
    """A checkpoint is of a run that this one cannot go on with."""


def refuse_other_run(
    folder: Path, stored: CheckpointRecord, expected: CheckpointRecord, *, allow_changed: bool
) -> None:
    """Refuse to go on from what another run left. What is allowed is said elsewhere, once: `run_folder.warn_before_start`.

    Args:
        folder: Where it lies.
        stored: What it says of itself.
        expected: What this run would say now.
        allow_changed: Go on with other settings or clips, as long as the weights are the same ones.

    Raises:
        OtherRunError: Naming every difference.
    """
    others, changes = weight_differences(stored, expected), setting_differences(stored, expected)
    if others:
        raise OtherRunError(f"{folder} belongs to another run: {'; '.join([*others, *changes])}; use a new --run")
    if changes and not allow_changed:
        raise OtherRunError(
            f"{folder} belongs to another run: {'; '.join(changes)}; use a new --run, or the settings it began with, or"
            " go on with the new ones by --set train.checkpoint.allow_changed=true"
        )


def weight_differences(stored: CheckpointRecord, expected: CheckpointRecord) -> list[str]:
    """Why the weights of a checkpoint are not those of a run, one line each.

    Those of another codec have learnt other numbers, whether or not their shapes are the same.
    """
    pairs = [
        ("stage", stored.stage, expected.stage),
        ("weights it began from (base_sha256)", stored.base_sha256, expected.base_sha256),
    ]
    return [
        *_codec_changes(stored.clip_format, expected.clip_format),
        *_changed(pairs),
        *_changed(pair for pair in _setting_pairs(stored, expected) if _shapes(pair[0])),
    ]


def _codec_changes(stored: ClipFormat | None, expected: ClipFormat | None) -> list[str]:
    """Nothing where one of the two does not say."""
    if stored is None or expected is None:
        return []
    return [f"codec.{line}" for line in codec_differences(stored.codec, expected.codec)]


def setting_differences(stored: CheckpointRecord, expected: CheckpointRecord) -> list[str]:
    """What else a run would do in another way than the one that wrote a checkpoint, one line each.

    A different step, and another number of ranks or ZeRO stage, is no difference.
    """
    clips: list[_Pair] = [("clips to train on (plan_hash)", stored.plan_hash, expected.plan_hash)]
    if stored.clip_format is not None and expected.clip_format is not None:
        clips.append(("their frames a second (fps)", stored.clip_format.fps, expected.clip_format.fps))
    return [*_changed(pair for pair in _setting_pairs(stored, expected) if not _shapes(pair[0])), *_changed(clips)]


_Pair = tuple[str, object, object]
"""What it is, as it was and as it is."""


def _setting_pairs(stored: CheckpointRecord, expected: CheckpointRecord) -> list[_Pair]:
    either, both = stored.settings.keys() | expected.settings.keys(), stored.settings.keys() & expected.settings.keys()
    names = sorted(either - (_NOT_ALWAYS_RECORDED - both))
    old = {**_BEFORE, **stored.settings}
    return [(name, old.get(name, UNKNOWN), expected.settings.get(name, UNKNOWN)) for name in names]


def _shapes(setting: str) -> bool:
    """Whether other weights belong to another value of the setting."""
    return setting.startswith("model.") and setting != "model.rope_mode"


def _changed(pairs: Iterable[_Pair]) -> list[str]:
    return [f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new]


def refuse_other_model(init: Path, config: ModelConfig, codec: CodecRecord) -> None:
    """Refuse to begin from a folder of another size or codec; positions may differ.

    Raises:
        ValueError: Naming every difference.
    """
    if is_base(init):
        differences = base_differences(init, config, codec)
    else:
        record = read_record(init)
        differences = [*codec_differences(record.codec, codec), *_model_differences(record.model, config)]
    if differences:
        raise ValueError(f"cannot begin from {init}: {'; '.join(differences)}")


def unfamiliar_clips(init: Path, clips: ClipFormat) -> tuple[str, ...]:
    """What clips are that a model to begin from was not trained on, one line each; a reason to warn, since it may be meant.

    A base does not say what it was trained on.
    """
    if is_base(init):
        return ()
    trained = read_record(init)
    return (*_other_rate(init, trained.fps, clips.fps), *_new_sizes(init, trained.sizes_px, clips.sizes_px))


def _other_rate(init: Path, trained: float, given: float) -> list[str]:
    if trained == given:
        return []
    return [
        f"{init} was trained on {trained:g} frames a second, and the clips have {given:g}, which it takes for another speed;"
        f" if that is not meant, preprocess with --set clips.fps={trained:g}"
    ]


def _new_sizes(init: Path, trained: Iterable[tuple[int, int]], given: Iterable[tuple[int, int]]) -> list[str]:
    """Sizes are (height, width)."""
    known, new = (
        ", ".join(f"{height} x {width}" for height, width in sizes)
        for sizes in (trained, sorted({*given} - {*trained}))
    )
    if not new:
        return []
    return [
        f"{init} was trained on pictures of {known} pixels, and has never seen those of {new} among the clips; if that is"
        " not meant, preprocess to its sizes by encode.sizes_px"
    ]


def refuse_missing(init: Path | None) -> None:
    """Refuse to look for a folder to begin from anywhere but on this machine.

    Raises:
        ValueError: If it is not there.
    """
    if init is not None and not init.is_dir():
        raise ValueError(
            f"{init}, where the stage began, is not there: bring it back to this path, for all ranks to read"
        )


def refuse_damaged(init: Path) -> None:
    """Refuse to begin from a folder with a file of weights that is missing or ends too early; no weights are read.

    Raises:
        DamagedError: Naming the file.
    """
    if is_base(init):
        refuse_damaged_files(backbone_files(init))
    else:
        refuse_damaged_model(init)


def is_base(init: Path) -> bool:
    """Whether a folder to begin from was trained by others; a model folder is a diffusers folder too."""
    return not (init / RECORD_FILE).is_file()


def _model_differences(trained: ModelConfig, given: ModelConfig) -> list[str]:
    ours, theirs = (flat_settings(config.model_dump(exclude={"rope_mode"})) for config in (trained, given))
    return [f"model.{name} was {ours[name]!r} and is {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Settings by their dotted names."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
