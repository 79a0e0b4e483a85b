"""Commands around the line: Ray jobs, recipes, the demo, the doctor, the tracking page."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import options
from pipeline.commands.output import as_table, emit, say
from pipeline.config import dump_recipe, load_recipe
from pipeline.tracking.uris import refuse_unknown_store

Dashboard = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray's dashboard. Default: RAY_API_SERVER_ADDRESS if set, else http://127.0.0.1:8265."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Submission id.")]

config = typer.Typer(no_args_is_help=True, help="Recipes.")


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command(context_settings={"allow_interspersed_args": False})(submit)
    for command in (jobs, logs, stop, demo, doctor, ui):
        app.command()(command)
    config.command()(show)
    app.add_typer(config, name="config")


def _dashboard(address: str | None) -> str:
    from pipeline.jobs.access import DEFAULT_ADDRESS

    return address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS


def submit(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run on the cluster.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the log; the exit status is the command's.")] = False,
    run_key: Annotated[
        str | None,
        typer.Option("--run-key", help="For schedulers: a job that succeeded under this key is not run again."),
    ] = None,
    address: Dashboard = None,
    as_json: options.Json = False,
) -> int:
    """Run a command as a Ray job; attaches if that very command is running."""
    from pipeline.jobs import submit as job

    write = sys.stderr.write if as_json else _write_log
    found = job.submit(command, address=_dashboard(address), wait=wait, run_key=run_key, write=write)
    emit(_job(found), as_json=as_json, lines=[f"{found.submission_id} {found.status}"])
    return found.exit_status or 0


def _write_log(text: str) -> None:
    if text:
        say(text.rstrip("\n"))


def _job(found: object) -> dict[str, object]:
    from dataclasses import asdict, is_dataclass

    assert is_dataclass(found)
    assert not isinstance(found, type)
    return asdict(found)


def jobs(address: Dashboard = None, as_json: options.Json = False) -> None:
    """List the cluster's jobs."""
    from pipeline.jobs import submit as job

    rows = [_job(found) for found in job.jobs(_dashboard(address))]
    emit(
        {"jobs": rows},
        as_json=as_json,
        lines=[as_table(rows, ("submission_id", "status", "exit_status", "entrypoint"))],
    )


def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends; the exit status is the job's.")] = False,
    address: Dashboard = None,
) -> int:
    """Show a job's log."""
    from pipeline.jobs import submit as job

    found = job.logs(job_id, address=_dashboard(address), follow=follow, write=_write_log)
    return (found.exit_status or 0) if follow else 0


def stop(job_id: JobId, address: Dashboard = None, as_json: options.Json = False) -> None:
    """Stop a job."""
    from pipeline.jobs import submit as job

    found = job.stop(job_id, address=_dashboard(address))
    emit(_job(found), as_json=as_json, lines=[f"{found.submission_id} {found.status}"])


def show(recipe: options.Recipe = None, overrides: options.Set = None, as_json: options.Json = False) -> None:
    """Print a recipe with everything it builds on and every default, as YAML that --recipe takes."""
    settings = load_recipe(recipe or "embedded", overrides or ())
    emit(settings.model_dump(mode="json"), as_json=as_json, lines=[dump_recipe(settings).rstrip("\n")])


def demo(
    videos: Annotated[Path | None, typer.Option("--videos", help="Your own videos instead of rendered ones.")] = None,
    out: Annotated[
        Path, typer.Option("--out", callback=options.folder_path, help="Folder where everything goes.")
    ] = Path("runs/demo"),
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME|FILE", help="Recipe, or YAML file.")] = "demo",
    overrides: options.Set = None,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    as_json: options.Json = False,
) -> None:
    """Run the whole line, from raw videos to a drift report, on rendered videos whose truth is known."""
    from pipeline.demo import run_demo
    from pipeline.tracking.tracked_run import Tracking

    summary = run_demo(
        videos=videos, out=out, recipe=load_recipe(recipe, overrides or ()), address=address,
        tracking=Tracking(uri=tracking_uri, line=None),
    )  # fmt: skip
    emit(summary.as_dict(), as_json=as_json, lines=summary.lines())


def doctor(recipe: options.Recipe = None, overrides: options.Set = None, as_json: options.Json = False) -> int:
    """Say what this machine lacks, and how to mend it; exit 1 if something needed is missing."""
    from pipeline.doctor import run_doctor

    checks = run_doctor(load_recipe(recipe or "embedded", overrides or ()), folder=Path.cwd())
    rows = [_job(check) for check in checks]
    lines = [
        f"{'ok     ' if check.ok else 'MISSING'} {check.name}: {check.message}" + _mend(check.mend) for check in checks
    ]
    emit({"checks": rows}, as_json=as_json, lines=lines)
    return 0 if all(check.ok for check in checks) else 1


def _mend(mend: str) -> str:
    return f" -> {mend}" if mend else ""


def ui(
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", callback=refuse_unknown_store, help="Database to show. Default: the demo's."),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port on loopback; 0 takes a free one.")] = 5000,
) -> int:
    """Open MLflow's page on the runs so far; Ctrl-C ends it."""
    from pipeline.tracking.uris import UI_FOLDER, default_uri
    from pipeline.ui import serve_ui

    return serve_ui(tracking_uri or default_uri(UI_FOLDER), port, say)
