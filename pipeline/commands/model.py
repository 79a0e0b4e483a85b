"""Commands from latent shards to a drift report: train, export, generate, evaluate."""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands import options
from pipeline.commands.data import dataset_recipe
from pipeline.commands.output import emit
from pipeline.config import load_recipe

if TYPE_CHECKING:
    from pipeline.config import Recipe
    from pipeline.jobs.stage_preview import StageCost, StagePreview
    from training.config import StageName
    from training.types import StageSummary


class Stage(StrEnum):
    """Stages of training."""

    TEACHER = "teacher"
    DIRECT = "direct"
    STUDENT = "student"


class Weights(StrEnum):
    """Weights in a checkpoint."""

    LIVE = "live"
    EMA = "ema"


Run = typer.Option("--run", callback=options.folder_path, help="Run folder; holds a folder for each stage.")


def register(app: typer.Typer) -> None:
    """Adds these commands, in the order of the line."""
    for command in (train, export, generate, evaluate):
        app.command()(command)


def train(
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Dataset: a folder or URI; repeatable.")
    ] = None,
    run: Annotated[Path | None, Run] = None,
    stage: Annotated[
        Stage | None, typer.Option("--stage", help="Default: all of the recipe's train.stages, one after another.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init",
            metavar="RUN[/STAGE]|FOLDER",
            help="Model to begin from, or a diffusers folder of FramePack or HunyuanVideo. Default: the run's teacher.",
        ),
    ] = None,
    recipe: options.Recipe = None,
    overrides: options.Set = None,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    line: options.Line = None,
    dry_run: options.DryRun = False,
    gpu_memory_gb: Annotated[
        float | None,
        typer.Option("--gpu-memory-gb", min=0, help="With --dry-run: say whether a rank fits into a GPU of this size."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Train on Ray Train and DeepSpeed, one stage or all; the same command again resumes.

    With --dry-run alone --dataset and --run may be left out: then the recipe says what would be trained on.
    """
    from pipeline.jobs.stage import train_stage
    from pipeline.tracking.tracked_run import Tracking

    settings = (
        dataset_recipe(dataset[0], recipe, overrides) if dataset else load_recipe(recipe or "embedded", overrides or ())
    )
    stages = settings.train.stages if stage is None else (stage.value,)
    if dry_run:
        previews = _previews(settings, dataset, run, stages, init, gpu_memory_gb)
        costs = [preview.as_dict() for preview in previews]
        lines = [text for preview in previews for text in preview.lines()]
        emit({"stages": costs} if stage is None else costs[0], as_json=as_json, lines=lines)
        return
    if not dataset or run is None:
        raise ValueError("train needs --dataset and --run; only --dry-run does without them")
    summaries = [
        train_stage(
            settings, dataset_uris=dataset, run_dir=run, stage=name, init=init if name == stages[0] else None,
            address=address, tracking=Tracking(uri=tracking_uri, line=line),
        )
        for name in stages
    ]  # fmt: skip
    results = [asdict(summary) for summary in summaries]
    lines = [text for summary in summaries for text in summary_lines(summary, run)]
    emit({"stages": results} if stage is None else results[0], as_json=as_json, lines=lines)


def _previews(
    settings: "Recipe",
    dataset: list[str] | None,
    run: Path | None,
    stages: "Sequence[StageName]",
    init: Path | None,
    gb: float | None,
) -> "Sequence[StagePreview | StageCost]":
    from pipeline.jobs.stage_preview import planned_material, preview_stages, stage_cost

    if not dataset or run is None:
        return [stage_cost(settings, stage, planned_material(settings), gb) for stage in stages]
    return preview_stages(settings, dataset_uris=dataset, run_dir=run, stages=stages, init=init, gpu_memory_gb=gb)


def summary_lines(summary: "StageSummary", run: Path) -> list[str]:
    """What a finished stage came to, for people."""
    names = sorted(summary.at_end.keys() & summary.at_start.keys())
    return [
        f"{summary.stage}: {summary.steps} steps on {summary.num_clips} clips ({summary.num_unused_clips} never used)",
        *_withheld_line(summary),
        *_left_out_lines(summary),
        *(f"{name}: {summary.at_start[name]:.4f} before, {summary.at_end[name]:.4f} after" for name in names),
        f"model: {run / summary.stage / 'model'}",
    ]


def _withheld_line(summary: "StageSummary") -> list[str]:
    if not summary.num_withheld_clips:
        return []
    return [f"{summary.num_withheld_clips} clips were left out: they or others of their group are held out"]


def _left_out_lines(summary: "StageSummary") -> list[str]:
    samples, steps = summary.num_broken_samples, summary.num_skipped_steps
    because = f"{samples} times a clip was left out because its sample could not be read: run longtake verify"
    of_steps = f"steps that were left out: {steps} of {summary.steps}; warnings.log says why"
    return [*([because] if samples else []), *([of_steps] if steps else [])]


def export(
    run: Annotated[Path, Run],
    out: Annotated[Path, typer.Option("--out", callback=options.folder_path, help="Folder to write.")],
    stage: Annotated[Stage | None, typer.Option("--stage", help="Default: direct, else student, else teacher.")] = None,
    weights: Annotated[
        Weights | None, typer.Option("--weights", help="Of a checkpoint. Default: the model that the stage ended with.")
    ] = None,
    step: Annotated[int | None, typer.Option("--step", help="Which checkpoint. Default: the newest.")] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write a finished stage, or any checkpoint of a stage, as a diffusers folder."""
    from training.model.weights import check_export_folder, export_folder
    from training.run_folder import check_export, export_stage

    stages = [stage] if stage else [Stage.DIRECT, Stage.STUDENT, Stage.TEACHER]
    if weights is None and step is None:
        source = _finished_model(run, stages)
        (check_export_folder if dry_run else export_folder)(source, out)
    else:
        begun = next((name for name in stages if (run / name).is_dir()), stages[-1])
        kept = "ema" if weights is Weights.EMA else "live"
        source = (check_export if dry_run else export_stage)(run, begun.value, out, weights=kept, step=step)
    line = f"{source} would be written to {out}" if dry_run else f"{source} -> {out}"
    emit({"model": str(out), "from": str(source)}, as_json=as_json, lines=[line])


def _finished_model(run: Path, stages: list[Stage]) -> Path:
    done = [run / name / "model" for name in stages if (run / name / "model").is_dir()]
    if not done:
        names = ", ".join(stages)
        raise ValueError(
            f"no finished stage in {run}: expected one of {names}; --weights live takes the newest checkpoint of one that"
            " has not ended"
        )
    return done[0]


def generate(
    model: Annotated[Path, typer.Option("--model", help="Model folder, from export.")],
    image: Annotated[Path | None, typer.Option("--image", help="Start image.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What happens.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE.jsonl", help="Many at once: image and prompt a line.")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Length of the video.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=options.disk_path,
            help="FILE.mp4, or a folder for --prompts. Default: generated.mp4; generated.",
        ),
    ] = None,
    recipe: options.Recipe = None,
    overrides: options.Set = None,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    line: options.Line = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Make videos of any length from a start image and a prompt."""
    from pipeline.jobs import generate as job
    from pipeline.tracking.tracked_run import Tracking

    settings = load_recipe(recipe or "embedded", overrides or ())
    if prompts is not None and (image is not None or prompt is not None):
        raise ValueError("--prompts names images and prompts itself; leave out --image and --prompt")
    if prompts is not None:
        home = out or Path("generated")
        requests = job.read_prompts(prompts, home, seconds=seconds, seed=settings.generate.seed)
    elif image is None or prompt is None or seconds is None:
        raise ValueError("generate needs --image, --prompt and --seconds, or --prompts")
    else:
        video = out or Path("generated.mp4")
        home = video.parent
        requests = (
            job.GenerateRequest(image=image, prompt=prompt, seconds=seconds, out=video, seed=settings.generate.seed),
        )
    if dry_run:
        plans = job.preview_videos(requests, settings, model=model)
        emit({"videos": [plan.as_dict() for plan in plans]}, as_json=as_json, lines=[plan.line() for plan in plans])
        return
    result = job.generate_videos(
        requests, settings, model=model, home=home, line=model.resolve().name,
        address=address, tracking=Tracking(uri=tracking_uri, line=line),
    )  # fmt: skip
    lines = [*(str(request.out) for request in requests), f"{len(result.made)} made, {len(result.skipped)} were there"]
    videos = [str(request.out) for request in requests]
    emit({"videos": videos, "made": len(result.made), "skipped": len(result.skipped)}, as_json=as_json, lines=lines)


def evaluate(
    videos: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of videos, made by longtake or not.")],
    out: Annotated[
        Path, typer.Option("--out", callback=options.folder_path, help="Folder for results.json and index.html.")
    ],
    recipe: options.Recipe = None,
    overrides: options.Set = None,
    address: options.Address = None,
    tracking_uri: options.TrackingUri = None,
    line: options.Line = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Score videos, measure their drift, write a report."""
    from evaluation.score import video_names
    from pipeline.jobs.evaluate import evaluate_videos
    from pipeline.tracking.tracked_run import Tracking

    settings = load_recipe(recipe or "embedded", overrides or ())
    if dry_run:
        names = video_names(videos)
        emit({"videos": names}, as_json=as_json, lines=[*names, f"{len(names)} videos"])
        return
    figures = evaluate_videos(
        videos,
        out,
        settings,
        line=videos.resolve().name,
        address=address,
        tracking=Tracking(uri=tracking_uri, line=line),
    )
    lines = [*(f"{name}: {value:.4f}" for name, value in figures.items()), f"report: {out / 'index.html'}"]
    emit({"figures": figures, "report": str(out / "index.html")}, as_json=as_json, lines=lines)
