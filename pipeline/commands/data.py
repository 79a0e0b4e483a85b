"""Commands from raw videos to latent shards: scan, plan, encode, preprocess, and looking at what they left."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands import options
from pipeline.commands.output import as_csv, as_table, counts, emit, say
from pipeline.config import Recipe, build_recipe, load_recipe, report_settings

if TYPE_CHECKING:
    from preprocessing.dataset import Dataset

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Folders, globs, video files, metadata tables.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N sources.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try again the sources and clips that failed.")]
AcceptMissing = Annotated[
    bool,
    typer.Option("--accept-missing", help="Go on where all known videos of an input are gone: they become missing."),
]
Sheet = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="FILE.html",
        dir_okay=False,
        callback=options.file_path,
        help="With --dry-run: write a page with stored pictures of the clips that change sides. The dataset stays as it is.",
    ),
]
DatasetArgument = Annotated[str, typer.Argument(metavar="DIR", help="Dataset: a folder, or an s3:// or gs:// URI.")]


class Table(StrEnum):
    """What `inspect` shows."""

    SOURCES = "sources"
    TRANSITIONS = "transitions"
    CLIPS = "clips"
    SAMPLES = "samples"
    SHARDS = "shards"


class Format(StrEnum):
    """How `inspect` shows it."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Adds these commands, in the order of the line."""
    for command in (preprocess, scan, plan, encode, inspect, report, verify, gc):
        app.command()(command)


def dataset_recipe(dataset: str, recipe: str | None, overrides: list[str] | None) -> Recipe:
    """The recipe of a command on a dataset: the one asked for, else the stored one, else `embedded`.

    Raises:
        ValueError: If the recipe or an override is wrong.
    """
    from preprocessing.dataset import RECORD_KEY, Dataset
    from preprocessing.storage import open_storage

    if recipe is None and open_storage(dataset).exists(RECORD_KEY):
        stored = Dataset.open(dataset).record().recipe
        if stored:
            return build_recipe(stored, overrides or ())
    return load_recipe(recipe or "embedded", overrides or ())


def preprocess(
    inputs: Inputs,
    dataset: options.Dataset,
    recipe: options.Recipe = None,
    overrides: options.Set = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
    accept_missing: AcceptMissing = False,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    line: options.Line = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Scan, plan and encode videos; what is done is not done again."""
    settings = dataset_recipe(dataset, recipe, overrides)
    if dry_run:
        _say_inputs(inputs, dataset, settings, limit, accept_missing=accept_missing, as_json=as_json)
        return
    from pipeline.jobs import preprocess as job
    from pipeline.tracking.tracked_run import Tracking

    result = job.preprocess(
        inputs, dataset, settings, limit=limit, retry_failed=retry_failed, accept_missing=accept_missing,
        address=address, tracking=Tracking(uri=tracking_uri, line=line),
    )  # fmt: skip
    emit(result.as_dict(), as_json=as_json, lines=result.lines())


def scan(
    inputs: Inputs,
    dataset: options.Dataset,
    recipe: options.Recipe = None,
    overrides: options.Set = None,
    limit: Limit = None,
    retry_failed: RetryFailed = False,
    accept_missing: AcceptMissing = False,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    line: options.Line = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Decode videos once: transitions, signals over time, thumbnails."""
    settings = dataset_recipe(dataset, recipe, overrides)
    if dry_run:
        _say_inputs(inputs, dataset, settings, limit, accept_missing=accept_missing, as_json=as_json)
        return
    from pipeline.jobs import preprocess as job
    from pipeline.tracking.tracked_run import Tracking

    result = job.scan_dataset(
        inputs, dataset, settings, limit=limit, retry_failed=retry_failed, accept_missing=accept_missing,
        address=address, tracking=Tracking(uri=tracking_uri, line=line),
    )  # fmt: skip
    emit(result.as_dict(), as_json=as_json, lines=result.lines())


def _say_inputs(
    inputs: list[str], dataset: str, settings: Recipe, limit: int | None, *, accept_missing: bool, as_json: bool
) -> None:
    from preprocessing.intake import inputs_of

    listing = inputs_of(dataset, inputs, settings.sources, limit=limit, accept_missing=accept_missing)
    names = [source.name for source in listing.sources]
    lines = [*names, f"{len(names)} sources, {len(listing.ignored)} files or rows ignored"]
    emit({"sources": names, "ignored": listing.ignored}, as_json=as_json, lines=lines)


def plan(
    dataset: options.Dataset,
    recipe: options.Recipe = None,
    overrides: options.Set = None,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    line: options.Line = None,
    dry_run: options.DryRun = False,
    sheet: Sheet = None,
    as_json: options.Json = False,
) -> None:
    """Cut shots into clips, decide about each, and plan the shards; with --dry-run, say what other settings would keep."""
    settings = dataset_recipe(dataset, recipe, overrides)
    if dry_run:
        from pipeline.decisions import preview_plan

        preview = preview_plan(dataset, settings, overrides=overrides or (), sheet=sheet)
        emit(preview.as_dict(), as_json=as_json, lines=[*preview.lines(), _about_sheet(sheet)])
        return
    if sheet is not None:
        raise ValueError("--sheet shows what other settings would change: add --dry-run")
    from pipeline.jobs import preprocess as job
    from pipeline.tracking.tracked_run import Tracking

    result = job.plan_dataset(dataset, settings, address=address, tracking=Tracking(uri=tracking_uri, line=line))
    emit(result.as_dict(), as_json=as_json, lines=result.lines())


def _about_sheet(sheet: Path | None) -> str:
    return f"pictures: {sheet}" if sheet else "pictures of the clips that change sides: --sheet FILE.html"


def encode(
    dataset: options.Dataset,
    recipe: options.Recipe = None,
    overrides: options.Set = None,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    line: options.Line = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Encode the planned shards, and name the new version of the dataset; what --set changes is not stored."""
    from pipeline.jobs import preprocess as job
    from pipeline.tracking.tracked_run import Tracking

    settings = dataset_recipe(dataset, recipe, overrides)
    if dry_run:
        preview = job.preview_encode(dataset, settings)
        emit(preview.as_dict(), as_json=as_json, lines=preview.lines())
        return
    result = job.encode_dataset(dataset, settings, address=address, tracking=Tracking(uri=tracking_uri, line=line))
    emit(result.as_dict(), as_json=as_json, lines=result.lines())


def inspect(
    dataset: DatasetArgument,
    table: Annotated[Table, typer.Argument(metavar="TABLE", help="sources, transitions, clips, samples or shards.")],
    form: Annotated[Format, typer.Option("--format", help="How to show it.")] = Format.TABLE,
) -> None:
    """Show one of a dataset's tables."""
    from preprocessing.dataset import Dataset, inspect_table

    found = inspect_table(Dataset.open(dataset), table)
    rows = found.to_pylist(maps_as_pydicts="strict")
    match form:
        case Format.JSON:
            say(json.dumps(rows, ensure_ascii=False))
        case Format.CSV:
            say(as_csv(rows, found.column_names))
        case Format.TABLE:
            say(as_table(rows, found.column_names))


def report(
    dataset: DatasetArgument,
    overrides: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Write a dataset's report again, from what is stored; --set gives prices, and is not stored."""
    from preprocessing.dataset import Dataset
    from preprocessing.report.write import write_report

    opened = Dataset.open(dataset)
    write_report(opened, report_settings(dataset_recipe(dataset, None, overrides)))
    place = f"{opened.storage.uri}/report/index.html"
    emit({"report": place}, as_json=as_json, lines=[place])


def verify(dataset: DatasetArgument, as_json: options.Json = False) -> int:
    """Check every byte and every total of a dataset; exit 1 where something is off."""
    from preprocessing import verify as checks
    from preprocessing.dataset import Dataset

    opened = Dataset.open(dataset)
    problems, remarks = checks.verify(opened), checks.remarks(opened)
    lines = [*(problems or ["nothing is off"]), *(f"remark: {remark}" for remark in remarks)]
    emit({"problems": problems, "remarks": remarks}, as_json=as_json, lines=lines)
    return 1 if problems else 0


def gc(
    dataset: DatasetArgument,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="SHA256", help="A version to keep; repeatable.")
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option("--unpin", metavar="ID", help="A pin whose training is gone; repeatable.")
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Remove versions that are not kept, and the shards that only they name; current and pinned versions always stay."""
    from preprocessing import verify as checks
    from preprocessing.dataset import Dataset
    from preprocessing.lease import lease_owner
    from preprocessing.pins import pins, unpin

    opened = Dataset.open(dataset)
    if dry_run:
        _say_garbage(opened, keep or (), forget or (), as_json)
        return
    with opened.storage.lease(lease_owner()):
        for pin_id in forget or ():
            unpin(opened, pin_id)
        removed, held = checks.gc(opened, keep or ()), pins(opened)
    lines = [*removed, *(f"pinned: {pin.manifest[:12]} by {pin.holder} (--unpin {pin.pin_id})" for pin in held)]
    emit(
        {"removed": removed, "pins": [asdict(pin) for pin in held]}, as_json=as_json,
        lines=[*lines, counts("removed", {"files": len(removed)})],
    )  # fmt: skip


def _say_garbage(dataset: "Dataset", keep: Sequence[str], forget: Sequence[str], as_json: bool) -> None:
    from preprocessing.verify import find_garbage

    sizes = {key: dataset.storage.size(key) for key in find_garbage(dataset, keep, unpinned=forget).keys}
    total = sum(sizes.values())
    emit(
        {"would_remove": sizes, "bytes": total}, as_json=as_json,
        lines=[*(f"{key}: {size} bytes" for key, size in sizes.items()), counts("would remove", {"files": len(sizes), "bytes": total})],
    )  # fmt: skip
