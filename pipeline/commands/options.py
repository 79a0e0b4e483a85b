"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.tracking.uris import refuse_unknown_store
from preprocessing.folders import refuse_file


def disk_path(path: Path | None) -> Path | None:
    """What an option gives that names a place on a disk; ValueError where it is a URI, which no folder is made of."""
    scheme, is_uri, rest = str(path or "").partition(":/")  # of two slashes a path keeps one
    if is_uri and scheme.isalnum():
        raise ValueError(f"{scheme}://{rest} is a URI; expected a path on a disk: datasets alone may lie elsewhere")
    return path


def folder_path(path: Path | None) -> Path | None:
    """What an option gives that names a folder, there or not; ValueError where it is a file."""
    if path is not None:
        disk_path(path)
        refuse_file(path)
    return path


def file_path(path: Path | None) -> Path | None:
    """What an option gives that names a file to write; ValueError where it cannot have a folder."""
    if path is not None:
        disk_path(path)
        refuse_file(path.parent, holds=path.name)
    return path


Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", metavar="NAME|FILE", help="Recipe, or YAML file. Default: the dataset's own, else embedded."
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override one setting; repeatable.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A running Ray. Default: RAY_ADDRESS if set, else a fresh local Ray.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do and store nothing.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        callback=refuse_unknown_store,
        help="MLflow server or database; none for no tracking. Default: sqlite beside the run.",
    ),
]
Line = Annotated[
    str | None, typer.Option("--line", help="Parent run in MLflow. Default: the name of the dataset, model or folder.")
]
Dataset = Annotated[str, typer.Option("--dataset", help="Dataset: a folder, or an s3:// or gs:// URI.")]
