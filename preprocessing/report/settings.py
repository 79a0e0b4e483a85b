"""The settings that a report draws in and reckons with."""

from dataclasses import dataclass

from preprocessing.config import ClipsConfig, DecideConfig, ReportConfig


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Parts of a recipe.

    Attributes:
        clips: How the shots were cut into clips.
        decide: The thresholds.
        prices: What time and space cost.
        cpus_per_task: CPUs that one scan or encode sets aside.
        gpus_per_encode: GPUs that one encode sets aside.
    """

    clips: ClipsConfig
    decide: DecideConfig
    prices: ReportConfig
    cpus_per_task: float
    gpus_per_encode: float
