import logging
from pathlib import Path

import pytest

from pipeline.jobs.warning_log import RankWarnings, forget, kept_warnings, rank_file


def warn(path: Path, logger: str, *messages: str) -> None:
    with kept_warnings(path):
        for message in messages:
            logging.getLogger(logger).warning("%s", message)


def said(caplog: pytest.LogCaptureFixture, stage: RankWarnings) -> list[tuple[str, str]]:
    caplog.clear()
    stage.say_new()
    return [(record.name, record.getMessage()) for record in caplog.records]


def test_our_warnings_are_kept_once_each_a_line_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "run" / "warnings.log"
    with kept_warnings(path):
        assert not path.exists()
        logging.getLogger("training.loop").warning("step %d is\nleft out", 3)
        logging.getLogger("training.loop").info("a step")
        logging.getLogger("ray.train").warning("a worker")
    warn(path, "training.loop", "step 3 is left out", "step 4 is left out")
    logging.getLogger("training.loop").warning("after the stage")
    assert path.read_text().splitlines() == ["training.loop: step 3 is left out", "training.loop: step 4 is left out"]


def test_what_ranks_warn_of_is_logged_once_as_it_comes_under_its_own_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = RankWarnings(tmp_path)
    assert said(caplog, stage) == []
    for rank in (0, 1):
        warn(rank_file(tmp_path, rank), "training.loop", "clip a: left out")
    assert said(caplog, stage) == [("training.loop", "clip a: left out")]
    warn(rank_file(tmp_path, 1), "training.stage", "no video")
    assert said(caplog, stage) == [("training.stage", "no video")]
    assert said(caplog, stage) == []


def test_a_line_that_is_still_being_written_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = rank_file(tmp_path, 0)
    path.parent.mkdir()
    path.write_text("training.loop: whole\ntraining.loop: ha")
    stage = RankWarnings(tmp_path)
    assert said(caplog, stage) == [("training.loop", "whole")]
    with path.open("a") as file:
        file.write("lf\n")
    assert said(caplog, stage) == [("training.loop", "half")]


def test_the_next_command_says_what_is_still_so_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        forget(tmp_path)
        warn(rank_file(tmp_path, 0), "training.loop", "clip a is left out")
        assert said(caplog, RankWarnings(tmp_path)) == [("training.loop", "clip a is left out")]


def test_names_that_are_not_utf8_are_said_and_end_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rank_file(tmp_path, 0)
    with monkeypatch.context() as quiet:  # pytest-xdist cannot carry such a name in a report
        quiet.setattr(logging.getLogger("training"), "propagate", False)
        for _ in range(2):
            warn(path, "training.loop", "clip \udcff is left out")
    with path.open("ab") as file:
        file.write("training.loop: caf\u00e9\n".encode("latin-1"))
    stage = RankWarnings(tmp_path)
    assert said(caplog, stage) == [
        ("training.loop", "clip \\udcff is left out"),
        ("training.loop", "caf\ufffd"),
    ]
    warn(path, "training.loop", "one more")
    assert said(caplog, stage) == [("training.loop", "one more")]
