from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.lines import RunSlot, find_or_create_line, open_run
from pipeline.tracking.server import connect


def slot(home: Path, *, kind: str = "train-teacher", run_key: str = "", line: str = "street") -> RunSlot:
    return RunSlot(line=line, kind=kind, run_key=run_key, home=home, begun_ms=1_700_000_000_000)


def test_a_line_is_one_parent_run_whoever_asks(uri: str) -> None:
    name = "Lauf 'один' 100 %"
    assert find_or_create_line(connect(uri), name) == find_or_create_line(connect(uri), name)
    assert find_or_create_line(connect(uri), name) != find_or_create_line(connect(uri), "another")


def test_a_line_with_both_kinds_of_quotes_is_refused_before_any_server_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both kinds of quotes; --line takes one kind at most"):
        slot(tmp_path, line="""the "street" 'again'""")


def test_another_stage_key_or_directory_is_another_run(uri: str, tmp_path: Path) -> None:
    keys = [("train", "", "a"), ("train", "", "b"), ("train", "x", "a"), ("generate", "", "a")]
    server = connect(uri)
    runs = {open_run(server, slot(tmp_path / home, kind=kind, run_key=key)).run_id for kind, key, home in keys}
    assert len(runs) == 4


def test_a_run_begins_when_its_command_began(uri: str, tmp_path: Path) -> None:
    run = open_run(connect(uri), slot(tmp_path))
    assert MlflowClient(uri).get_run(run.run_id).info.start_time == slot(tmp_path).begun_ms


def test_a_run_that_was_deleted_begins_anew(uri: str, tmp_path: Path) -> None:
    first = open_run(connect(uri), slot(tmp_path))
    MlflowClient(uri).delete_run(first.run_id)
    assert open_run(connect(uri), slot(tmp_path)).run_id not in ("", first.run_id)
