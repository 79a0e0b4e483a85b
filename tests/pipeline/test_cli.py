"""The command line: what a wrong command says, and what goes to which stream."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from PIL import Image
from typer.exceptions import Exit

from pipeline.cli import FAILED, INTERRUPTED, WRONG, exit_status
from pipeline.config import build_recipe, load_recipe
from preprocessing.dataset import MANIFEST, Dataset, manifest_key
from tests.pipeline.commands import longtake
from tests.training.small_dataset import CODEC, MODEL
from training.checkpoint import start_weights
from training.model.weights import save_model


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("config", "show", "--recipe", "embeded"), "did you mean embedded"),
        (("config", "show", "--set", "decide.min_dynamsm=1"), "did you mean min_dynamism"),
        (("preprocess", "nowhere", "--dataset", "{tmp}/d"), "nowhere"),
        (("inspect", "{tmp}/none", "clips"), "there is no dataset"),
        (("plan", "--dataset", "{tmp}/none"), "there is no dataset"),
        (("plan", "--dataset", "{tmp}/none", "--sheet", "{tmp}/s.html"), "add --dry-run"),
        (("verify", "{tmp}/none"), "there is no dataset"),
        (("train", "--dataset", "{tmp}/none", "--run", "{tmp}/r", "--stage", "teacher"), "there is no dataset"),
        (("export", "--run", "{tmp}/r", "--out", "{tmp}/m"), "no finished stage"),
        (("generate", "--model", "{tmp}/m", "--prompt", "a"), "needs --image"),
        (("generate", "--model", "{tmp}/m", "--prompts", "{tmp}/p.jsonl"), "there is no prompt file"),
        (("evaluate", "{tmp}/none", "--out", "{tmp}/o"), "{tmp}/none"),
        (("submit", "--address", "nonsense", "--", "true"), "is not the address"),
        (("train", "--stage", "third"), "third"),
        (("nonsense",), "nonsense"),
    ],
)
def test_a_wrong_command_ends_with_2_and_says_why(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = longtake(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.status == WRONG
    assert words.format(tmp=tmp_path) in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("preprocess", "{tmp}", "--dataset", "{tmp}/d"),
        ("scan", "{tmp}", "--dataset", "{tmp}/d"),
        ("plan", "--dataset", "{tmp}/d"),
        ("encode", "--dataset", "{tmp}/d"),
        ("train", "--dataset", "{tmp}/d", "--run", "{tmp}/r"),
        ("generate", "--model", "{tmp}/m", "--image", "i", "--prompt", "p", "--seconds", "1"),
        ("evaluate", "{tmp}", "--out", "{tmp}/o"),
        ("demo", "--out", "{tmp}/o"),
        ("ui",),
    ],
)
def test_a_tracking_uri_that_nothing_can_track_to_is_refused_before_any_work(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    done = longtake(*(word.format(tmp=tmp_path) for word in words), "--tracking-uri", "bogus://x")
    assert done.status == WRONG
    assert done.stderr.startswith("longtake: --tracking-uri bogus://x: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("the recipe"), WRONG),
        (RuntimeError("the run"), FAILED),
        (KeyboardInterrupt(), INTERRUPTED),
        (Exit(INTERRUPTED), INTERRUPTED),
    ],
)
def test_what_ends_a_command_decides_its_exit_status(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(standalone_mode: bool) -> None:
        raise error

    command: Callable[..., None] = fail
    assert exit_status(command) == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("longtake: ")


@pytest.mark.parametrize("name", ["-edge.mp4", "--edge.mp4"])
def test_a_name_that_begins_with_a_dash_stands_behind_two(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"not a video")
    options = ("--dataset", str(tmp_path / "d"), "--dry-run", "--json")
    refused = longtake("preprocess", name, *options)
    assert refused.status == WRONG
    assert refused.stderr.endswith("; names that begin with a dash stand at the end, behind --\n")
    assert len(longtake("preprocess", *options, "--", name).result()["sources"]) == 1


@pytest.mark.parametrize("words", [("preprocess", "a.mp4", "--datset", "d"), ("train", "-x")])
def test_a_wrong_option_is_not_taken_for_a_name(words: tuple[str, ...]) -> None:
    done = longtake(*words)
    assert done.status == WRONG
    assert "No such option" in done.stderr
    assert "behind --" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--dataset", "{tmp}/d", "--run", "s3://bucket/here"),
        ("train", "--dataset", "{tmp}/d", "--run", "s3://bucket/here", "--dry-run"),
        ("export", "--run", "{tmp}/r", "--out", "s3://bucket/here"),
        ("generate", "--model", "{tmp}/m", "--prompts", "{tmp}/p.jsonl", "--out", "s3://bucket/here"),
        ("plan", "--dataset", "{tmp}/d", "--dry-run", "--sheet", "s3://bucket/here"),
    ],
)
def test_no_folder_is_made_of_a_uri(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = longtake(*(word.format(tmp=tmp_path) for word in words))
    assert done.status == WRONG
    assert done.stderr.startswith("longtake: s3://bucket/here is a URI; expected a path on a disk")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["{tmp}/a_file", "{tmp}/a_file/below"])
@pytest.mark.parametrize(
    "words",
    [
        ("preprocess", "{tmp}", "--dataset", "{given}"),
        ("report", "{given}"),
        ("plan", "--dataset", "{tmp}/d", "--dry-run", "--sheet", "{given}/s.html"),
        ("train", "--dataset", "{tmp}/d", "--run", "{given}"),
        ("export", "--run", "{given}", "--out", "{tmp}/m"),
        ("export", "--run", "{tmp}/r", "--out", "{given}"),
        ("generate", "--model", "{tmp}/m", "--image", "{tmp}/a.png", "--prompt", "p", "--seconds", "1", "--out", "{given}/v.mp4"),
        ("generate", "--model", "{tmp}/m", "--prompts", "{tmp}/p.jsonl", "--seconds", "1", "--out", "{given}"),
        ("evaluate", "{tmp}", "--out", "{given}"),
        ("demo", "--out", "{given}"),
    ],
)  # fmt: skip
def test_a_file_where_a_folder_is_wanted_is_refused_before_any_work(
    words: tuple[str, ...], given: str, tmp_path: Path
) -> None:
    (tmp_path / "a_file").write_bytes(b"")
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    (tmp_path / "p.jsonl").write_text('{"image": "a.png", "prompt": "p"}')
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    before = set(tmp_path.rglob("*"))
    given = given.format(tmp=tmp_path)
    done = longtake(*(word.format(tmp=tmp_path, given=given) for word in words))
    assert done.status == WRONG
    assert f"{tmp_path / 'a_file'} is a file; expected a folder" in done.stderr
    assert set(tmp_path.rglob("*")) == before


def test_config_show_prints_yaml_that_is_the_recipe() -> None:
    done = in_a_process("config", "show", "--recipe", "demo", "--set", "train.seed=7")
    assert done.returncode == 0
    assert build_recipe(yaml.safe_load(done.stdout)) == load_recipe("demo", ["train.seed=7"])


def test_json_is_one_object_and_alone_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    (tmp_path / "notes.md").write_text("ignored")
    done = in_a_process("preprocess", str(tmp_path), "--dataset", str(tmp_path / "d"), "--dry-run", "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert [Path(uri).name for uri in said["sources"]] == ["a.mp4"]
    assert [Path(path).name for path in said["ignored"]] == ["notes.md"]
    assert not (tmp_path / "d").exists()


def test_what_others_print_never_reaches_stdout() -> None:
    program = (
        "import os; from pipeline.commands.output import claim_stdout, say; claim_stdout();"
        "print('noise'); os.system('echo child noise'); say('result')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "result\n"
    assert "noise" in done.stderr
    assert "child noise" in done.stderr


def test_verify_shows_remarks_beside_problems(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "d"))
    rows = [{"clip_id": split, "shard": "none", "group_id": "g", "split": split} for split in ("eval", "train")]
    older = dataset.write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST))
    dataset.write_manifest(MANIFEST.empty_table())
    done = longtake("verify", str(tmp_path / "d"))
    assert done.status == 1
    *problems, remark = done.stdout.splitlines()
    assert all("which does not have it" in problem for problem in problems)
    assert remark.startswith(f"remark: {manifest_key(older)}: 1 groups of this older version")


def test_evaluate_dry_run_names_the_videos_and_decodes_none(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    done = in_a_process("evaluate", str(tmp_path), "--out", str(tmp_path / "o"), "--dry-run")
    assert done.stdout.splitlines() == ["a.mp4", "1 videos"]
    assert not (tmp_path / "o").exists()


def test_gc_dry_run_says_keys_and_bytes_and_removes_nothing(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path / "d"))
    dataset.storage.write_atomic("shards/64x64-1/01234567-uncommitted.tar", b"12345")
    said = longtake("gc", str(tmp_path / "d"), "--dry-run")
    assert said.stdout.splitlines() == [
        "shards/64x64-1/01234567-uncommitted.tar: 5 bytes", "would remove: 1 files, 5 bytes",
    ]  # fmt: skip
    assert dataset.storage.exists("shards/64x64-1/01234567-uncommitted.tar")
    assert longtake("gc", str(tmp_path / "d"), "--json").result()["removed"] == [
        "shards/64x64-1/01234567-uncommitted.tar"
    ]


def test_export_dry_run_says_what_would_be_written_where_and_refuses_what_export_would(tmp_path: Path) -> None:
    model = save_teacher(tmp_path / "run")
    words = ("export", "--run", str(tmp_path / "run"), "--dry-run", "--out")
    assert longtake(*words, str(tmp_path / "new")).stdout == f"{model} would be written to {tmp_path / 'new'}\n"
    assert not (tmp_path / "new").exists()
    (tmp_path / "holidays").mkdir()
    refused = longtake(*words, str(tmp_path / "holidays"))
    assert refused.status == WRONG
    assert "not a model folder; nothing was overwritten" in refused.stderr


def save_teacher(run: Path) -> Path:
    folder = run / "teacher" / "model"
    model = start_weights(MODEL, CODEC, init=None, seed=0)
    save_model(model, folder, config=MODEL, codec=CODEC, fps=24.0, sizes_px=((32, 32),))
    return folder


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_model_with_a_file_that_was_cut_off_is_wrong_and_the_file_is_named(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    model = save_teacher(tmp_path / "run")
    os.truncate(model / "memory.safetensors", 1000)
    done = longtake("export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), *more)
    assert done.status == WRONG
    assert f"{model / 'memory.safetensors'} is damaged" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_is_a_result_and_goes_to_stdout() -> None:
    done = in_a_process("train", "--help")
    assert done.returncode == 0
    assert "--dataset" in done.stdout


def test_what_a_command_imports_is_seldom_looked_through_for_garbage() -> None:
    code = """
import gc, sys
from pipeline.cli import main
sys.argv = ["longtake", "--help"]
try:
    main()
except SystemExit:
    rounds = []
    gc.callbacks.append(lambda phase, _: rounds.append(phase))
    import pipeline.jobs.preprocess
    print(f"rounds: {rounds.count('start')}")
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(said.rpartition("rounds:")[2]) < 20
