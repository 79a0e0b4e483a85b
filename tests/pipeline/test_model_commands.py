from pathlib import Path

import pytest

from pipeline.commands.model import summary_lines
from training.types import StageSummary


def summary(**changes: int) -> StageSummary:
    return StageSummary(
        stage="teacher", steps=7, num_clips=3, num_unused_clips=0, num_validation_clips=1,
        at_start={}, at_end={}, base_sha256="", weights_sha256="", **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ({"num_skipped_steps": 2}, "steps that were left out: 2 of 7"),
        ({"num_broken_samples": 4}, "4 times a clip was left out"),
        ({"num_withheld_clips": 5}, "5 clips were left out: they or others of their group are held out"),
    ],
)
def test_what_a_stage_left_out_is_in_its_closing_lines(left_out: dict[str, int], said: str) -> None:
    lines = summary_lines(summary(**left_out), Path("run"))
    assert len(lines) == 1 + len(summary_lines(summary(), Path("run")))
    assert said in "\n".join(lines)
