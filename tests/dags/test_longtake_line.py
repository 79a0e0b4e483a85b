import ast
import copy
import itertools
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="Airflow has an environment of its own: make test-dags")

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import ParamValidationError
from longtake_line import PARAMS

from tests.dags.conftest import FakeRay

TASKS = ["preprocess", "train_teacher", "train_direct", "export", "generate", "evaluate"]


@cache
def line() -> Any:
    bag = DagBag("dags")
    assert bag.import_errors == {}
    (dag,) = bag.dags.values()
    return dag


def test_the_line_is_one_task_after_another() -> None:
    dag = line()
    assert dag.dag_id == "longtake_line"
    assert [task.task_id for task in dag.topological_sort()] == TASKS
    for earlier, later in itertools.pairwise(TASKS):
        assert dag.get_task(earlier).downstream_task_ids == {later}


def test_the_line_imports_airflow_httpx_and_the_standard_library_alone() -> None:
    own = {path.stem for path in Path("dags").glob("*.py")}
    for path in Path("dags").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None)]
            tops = {name.split(".")[0] for name in names if name and isinstance(node, ast.Import | ast.ImportFrom)}
            assert tops <= {"airflow", "httpx"} | own | sys.stdlib_module_names, path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("videos", "../etc"), ("videos", "--dataset=/x"), ("dataset", "/data/a\nb"), ("run", "s3://bucket/run"),
        ("seconds", 0), ("seconds", "long"), ("recipe", "a b"), ("line", "-x"),
        ("tracking_uri", "https://me:secret@mlflow"), ("prompts", ""),
    ],
)  # fmt: skip
def test_a_parameter_that_is_no_place_name_or_length_is_refused(name: str, value: object) -> None:
    params = ParamsDict(copy.deepcopy(PARAMS))
    with pytest.raises(ParamValidationError, match=name):
        params[name] = value


def test_the_parameters_are_right_as_they_come() -> None:
    assert set(ParamsDict(copy.deepcopy(PARAMS)).validate()) == set(PARAMS)


def test_a_whole_run_submits_every_command_with_its_parameters_filled_in(fake_ray: FakeRay) -> None:
    conf = {"videos": "/data/my videos", "seconds": 12.5, "run": "/runs/r1", "line": "nightly"}
    for task in line().tasks:
        task.poll_s = 0.05
    run = line().test(run_conf=conf)
    assert run.state == "success"
    sent = [shlex.split(body["entrypoint"]) for body in fake_ray.submitted]
    assert [words[1] for words in sent] == ["preprocess", "train", "train", "export", "generate", "evaluate"]
    assert sent[0][2:4] == ["/data/my videos", "--dataset=/data/dataset"]
    assert [words[-4] for words in sent[1:3]] == ["--stage=teacher", "--stage=direct"]
    assert "--seconds=12.5" in sent[4]
    assert sent[5][2] == "/runs/r1/videos"
    assert all("--line=nightly" in words for words in sent if words[1] != "export")
    assert not any("{{" in word for words in sent for word in words)


def test_a_failing_step_ends_the_run(fake_ray: FakeRay) -> None:
    fake_ray.scripts, fake_ray.exit_status = [["RUNNING", "SUCCEEDED"], ["RUNNING", "FAILED"]], 2
    for task in line().tasks:
        task.poll_s = 0.05
    run = line().test()
    assert run.state == "failed"
    assert len(fake_ray.submitted) == 2
