"""The rows of the study: what is trained, with how much of it, and what was measured; and the file that holds them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Recipe, load_recipe
from training.config import StageName

DATA = "held-out clips"
"""The row that nothing is trained for: the real clips through the codec, which no model can beat."""

TEACHER = "MemoryPack"
"""Whose weights the rows of stage 2 begin from."""

DIRECT = "Direct Forcing"

FULL_MINUTES = 90.0
"""Budget of a seed at which the recipes' own numbers of steps are trained."""

FULL_CLIPS, FULL_SEGMENTS = 23, 20
"""Held-out clips and generated segments of each at that budget."""

SEGMENTS_PER_MINUTE = 2
"""Segments are generated in full from 10 minutes on: below, rows would be all generation and no training."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model of the study: a recipe that comes with longtake, and what is different from it.

    Attributes:
        name: In the tables.
        stage: What is trained.
        recipe: Its name.
        overrides: As `--set` takes them.
        follows: Whether drift is measured on the way too.
    """

    name: str
    stage: StageName
    recipe: str
    overrides: tuple[str, ...] = ()
    follows: bool = False

    @property
    def from_teacher(self) -> bool:
        """Whether it begins from the weights of `TEACHER`."""
        return self.stage != "teacher" and "train.direct.from_scratch=true" not in self.overrides


VARIANTS: tuple[Variant, ...] = (
    Variant(name="F1 w/CT", stage="teacher", recipe="table2_f1_ct_small"),
    Variant(name=TEACHER, stage="teacher", recipe="table2_memorypack_small"),
    Variant(name="zero-MemoryPack", stage="teacher", recipe="table2_zero_memorypack_small"),
    Variant(name="B", stage="teacher", recipe="table3_b_small"),
    Variant(name="C", stage="teacher", recipe="table3_c_small"),
    Variant(name="Student forcing", stage="student", recipe="table2_student_forcing_small", follows=True),
    Variant(name=DIRECT, stage="direct", recipe="table2_all_small", follows=True),
    Variant(
        name="a step per segment", stage="direct", recipe="table2_all_small", overrides=("train.direct.update=segment",)
    ),
    Variant(name="all parameters", stage="direct", recipe="table2_all_small", overrides=("train.direct.trained=all",)),
    Variant(
        name="no curriculum", stage="direct", recipe="table2_all_small", overrides=("train.direct.curriculum=[4]",)
    ),
    Variant(
        name="from scratch",
        stage="direct",
        recipe="table2_all_small",
        # fresh weights learn at the teacher's rates
        overrides=(
            "train.direct.from_scratch=true",
            "train.direct.trained=all",
            "train.direct.optimizer={learning_rate: 2.0e-3, warmup_steps: 30, decay: cosine}",
        ),
    ),
    Variant(name="rope f1", stage="teacher", recipe="table2_memorypack_small", overrides=("model.rope_mode=f1",)),
    Variant(
        name="rope absolute", stage="teacher", recipe="table2_memorypack_small", overrides=("model.rope_mode=absolute",)
    ),
)
"""Those of the paper's Tables 2 and 3 (`MemoryPack` is its A, `Direct Forcing` its All), then what it left open.

`MemoryPack` comes before all that begin from it.
"""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the minutes of a seed pay for.

    Attributes:
        minutes: Of one core, for all rows of a seed together, about.
        share: Of the recipes' steps.
        num_clips: Held-out clips that each model continues.
        num_segments: Generated segments of each.
    """

    minutes: float
    share: float
    num_clips: int
    num_segments: int


def budget_of(minutes: float) -> Budget:
    """What is trained and generated in this time: the same for every row that is compared.

    Raises:
        ValueError: If there is no time.
    """
    if not minutes > 0:
        raise ValueError(f"--minutes {minutes:g}: a seed needs time; {FULL_MINUTES:g} is the whole study")
    share = minutes / FULL_MINUTES
    return Budget(
        minutes=minutes,
        share=share,
        num_clips=max(4, round(FULL_CLIPS * share)),
        num_segments=min(FULL_SEGMENTS, max(2, round(SEGMENTS_PER_MINUTE * minutes))),
    )


def recipe_of(variant: Variant, budget: Budget, seed: int) -> Recipe:
    """The variant's recipe with the steps that the budget allows.

    A teacher has no stage before it, and a model that Direct Forcing trains from scratch has neither: it gets the
    teacher's segments too. A step of it trains all segments of its clips, two and a third in the mean.
    """
    recipe = load_recipe(variant.recipe, (*variant.overrides, f"train.seed={seed}"))
    teacher, direct = recipe.train.teacher.steps, recipe.train.direct.steps
    if variant.stage == "direct" and not variant.from_teacher:
        caps = recipe.train.direct.curriculum
        direct += round(teacher * len(caps) / sum(caps))
    steps = {"teacher": _scaled(teacher, budget), "direct": _scaled(direct, budget)}
    settings = [f"train.{stage}.steps={count}" for stage, count in steps.items()]
    return load_recipe(variant.recipe, (*variant.overrides, *settings, f"train.seed={seed}"))


def _scaled(steps: int, budget: Budget) -> int:
    return max(1, round(steps * budget.share))


@dataclass(frozen=True, kw_only=True)
class Point:
    """Drift in the middle of a stage.

    Attributes:
        steps: Optimizer steps done.
        seconds: Of training so far.
        drifts: By metric, of each clip.
    """

    steps: int
    seconds: float
    drifts: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a model cost and learned.

    Attributes:
        steps: Optimizer steps of its own stage.
        seconds: Of one core, of its own stage.
        val_loss: Held-out loss after the true past.
        val_loss_direct: The same after a past of one-step approximations.
        points: Drift on the way, where it was followed.
    """

    steps: int
    seconds: float
    val_loss: float
    val_loss_direct: float
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Scores of the videos of a row: lists hold one number a clip, None where there is none.

    Attributes:
        values: By metric, of whole videos.
        drifts: By metric, |first 15 % - last 15 %| (paper, eq. 8).
        floors: By metric, |first 15 % - next 15 %|.
        curves: By metric, (share of the generated frames, mean over clips).
        seams: Change where a segment begins over change where any other latent frame begins.
    """

    values: Mapping[str, Sequence[float | None]]
    drifts: Mapping[str, Sequence[float | None]]
    floors: Mapping[str, Sequence[float | None]]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    seams: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model of one seed and what its videos are like.

    Attributes:
        minutes: Budget of the seed.
        num_segments: Generated segments of each video.
        training: None of the real clips.
    """

    variant: str
    seed: int
    minutes: float
    num_segments: int
    training: Training | None
    figures: Figures


def read_rows(path: Path) -> list[Row]:
    """The rows that are already there."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [_row(json.loads(line)) for line in lines]


def _row(values: dict[str, Any]) -> Row:
    training, figures = values["training"], values["figures"]
    if training is not None:
        training = Training(**training | {"points": [Point(**point) for point in training["points"]]})
    return Row(**values | {"training": training, "figures": Figures(**figures)})


def refuse_other_budget(path: Path, rows: Sequence[Row], budget: Budget) -> None:
    """Rows of two budgets don't compare.

    Raises:
        ValueError: If the file has rows of another one.
    """
    for row in rows:
        if row.minutes != budget.minutes:
            raise ValueError(
                f"{path} holds rows of {row.minutes:g} minutes, not of {budget.minutes:g}: give another --out"
            )


def append_row(path: Path, row: Row) -> None:
    """The file whole with one row more, or as it was."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    part = path.with_name(path.name + ".part")
    part.write_text(before + json.dumps(asdict(row)) + "\n", encoding="utf-8")
    part.replace(path)
