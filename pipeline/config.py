"""A recipe is all settings of a line: strict, read from YAML, overridden by dotted keys, dumped, fingerprinted."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from evaluation.config import EvaluateConfig
from preprocessing.config import (
    CaptionsConfig,
    ClipsConfig,
    DecideConfig,
    EncodeConfig,
    MotionConfig,
    PlanConfig,
    Positive,
    ReportConfig,
    ScanConfig,
    Settings,
    SourcesConfig,
    TransitionsConfig,
)
from preprocessing.report.settings import ReportSettings
from training.config import GenerateConfig, ModelConfig, TrainConfig


class RecipeError(ValueError):
    """A recipe, or an override of it, is wrong; the command ends with exit status 2."""


class ClusterConfig(Settings):
    """How many Ray tasks run at once, and what each sets aside."""

    max_tasks: Positive = 64
    """Scan or encode tasks in flight, half of them each where both are due; Ray runs as many of them as it has CPUs."""
    cpus_per_task: Annotated[float, Field(ge=0)] = 1.0
    """CPUs that one scan or encode task sets aside."""
    gpus_per_encode: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that one encode task sets aside, and one that decodes what a model makes while it trains."""
    wave_sources: Positive = 256
    """Sources scanned before their clips are planned and encoded."""


class Recipe(Settings):
    """All settings, a section for each step of the line."""

    description: str
    """What the recipe is for, in one sentence."""
    sources: SourcesConfig = SourcesConfig()
    """Which files are videos."""
    scan: ScanConfig = ScanConfig()
    """The decoding pass."""
    transitions: TransitionsConfig = TransitionsConfig()
    """Shot boundaries."""
    motion: MotionConfig = MotionConfig()
    """Dynamism."""
    clips: ClipsConfig = ClipsConfig()
    """Shots to clips."""
    decide: DecideConfig = DecideConfig()
    """Thresholds."""
    captions: CaptionsConfig = CaptionsConfig()
    """Captions by a model."""
    plan: PlanConfig = PlanConfig()
    """Clips to shards."""
    encode: EncodeConfig = EncodeConfig()
    """Codec and geometry."""
    report: ReportConfig = ReportConfig()
    """Prices."""
    model: ModelConfig = ModelConfig()
    """Backbone and memory."""
    train: TrainConfig = TrainConfig()
    """Training."""
    generate: GenerateConfig = GenerateConfig()
    """Roll-out."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Metrics."""
    cluster: ClusterConfig = ClusterConfig()
    """Ray."""


def recipe_names() -> tuple[str, ...]:
    """Recipes that come with longtake."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _recipes().iterdir() if f.name.endswith(".yaml")))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a name or YAML file, with ``a.b=value`` overrides.

    Raises:
        RecipeError: If there is no such recipe, or a key or value is wrong.
    """
    return build_recipe(_with_base(_read(name_or_path), (name_or_path,)), overrides)


def build_recipe(data: Mapping[str, object], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of plain data, with ``a.b=value`` overrides; raises `RecipeError`."""
    merged = dict(data)
    for override in overrides:
        merged = _merge(merged, _parse_override(override))
    try:
        return Recipe.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(detail) for detail in error.errors())) from None


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML that `load_recipe` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fingerprint(*parts: BaseModel | str | int | Mapping[str, object]) -> str:
    """A hash of settings, versions and names: 16 hex digits that change if any of them does."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


class _Loader(yaml.SafeLoader):
    """YAML 1.1, in which also 1e-5 is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def report_settings(recipe: Recipe) -> ReportSettings:
    """What a report needs to know of a recipe."""
    return ReportSettings(
        clips=recipe.clips,
        decide=recipe.decide,
        prices=recipe.report,
        cpus_per_task=recipe.cluster.cpus_per_task,
        gpus_per_encode=recipe.cluster.gpus_per_encode,
    )


def _recipes() -> Any:  # noqa: ANN401 - importlib's Traversable
    return resources.files("pipeline") / "recipes"


def _read(name_or_path: str) -> dict[str, object]:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {name_or_path}")
        text = _read_text(path)
    elif name_or_path in recipe_names():
        text = (_recipes() / f"{name_or_path}.yaml").read_text()
    else:
        raise RecipeError(
            f"there is no recipe {name_or_path!r}{_nearest(name_or_path, recipe_names())}; a file ends in .yaml"
        )
    return _parse_yaml(text, name_or_path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file {path} cannot be read: {error}") from None


def _parse_yaml(text: str, where: str) -> dict[str, object]:
    try:
        data = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{where} holds {type(data).__name__}, expected keys and values")
    return data


def _with_base(data: dict[str, object], seen: tuple[str, ...]) -> dict[str, object]:
    base = data.pop("base", None)
    if base is None:
        return data
    if str(base) in seen:
        raise RecipeError(f"recipe {base} is its own base: {' -> '.join((*seen, str(base)))}")
    return _merge(_with_base(_read(str(base)), (*seen, str(base))), data)


def _merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _parse_override(override: str) -> dict[str, object]:
    key, equals, text = override.partition("=")
    if not (equals and key.strip()):
        raise RecipeError(f"--set {override}: expected key=value, for example decide.min_dynamism=0.5")
    try:
        value: object = _Loader(text).get_single_data()
    except yaml.YAMLError:
        raise RecipeError(f"--set {override}: {text!r} is not a YAML value") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _explain(detail: ErrorDetails) -> str:
    dotted = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        *parents, last = detail["loc"]
        return f"unknown key {dotted}{_nearest(str(last), _keys_at(parents))}"
    message = detail["msg"].removeprefix("Value error, ")  # pydantic's, before our own
    message = message[0].lower() + message[1:]
    if detail["type"] == "value_error" and isinstance(detail["input"], dict):
        return f"{dotted}: {message}"  # says itself which settings of the section do not go together
    return f"{dotted}: {message}, got {detail['input']!r}"


def _keys_at(parents: Sequence[int | str]) -> Iterable[str]:
    model: Any = Recipe
    for part in parents:
        annotation = model.model_fields[str(part)].annotation
        models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = models[0]
    return model.model_fields


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
    return f", did you mean {close[0]}?" if close else ""
