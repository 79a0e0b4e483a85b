"""Prompts and start images to Ray tasks to videos."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import Task, ray_cluster, refuse_impossible, run_bounded
from pipeline.progress import progress
from pipeline.tracking.tracked_run import Tracking
from preprocessing.codecs.catalog import load_codec, planned_record
from preprocessing.folders import refuse_file
from preprocessing.shards import file_sha256
from preprocessing.storage import open_storage
from training.generation import generate, num_segments_for
from training.model.weights import load_for_generate, read_record, refuse_damaged_model
from training.types import GeneratedVideo

_PROMPT_KEYS = ("image", "prompt", "seconds", "seed", "name")


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One video to make.

    Attributes:
        image: Start image.
        prompt: What happens.
        seconds: Length.
        out: The mp4 file.
        seed: Of the noise.
    """

    image: Path
    prompt: str
    seconds: float
    out: Path
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if not self.image.is_file():
            raise ValueError(f"there is no start image {self.image}")
        try:
            with Image.open(self.image) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{self.image} is no whole image: {error}") from None
        if self.out.suffix != ".mp4":
            raise ValueError(f"{self.out} does not end in .mp4")
        if self.out.is_dir():
            raise ValueError(f"{self.out} is a folder; expected a file, or a name that is free")
        refuse_file(self.out.parent, holds=self.out.name)
        if not 0 < self.seconds < inf:
            raise ValueError(f"{self.seconds} seconds of video; expected more than 0, and an end")


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """What was made, and what was there already; in the order of the requests."""

    made: tuple[GeneratedVideo, ...]
    skipped: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """One video that would be made, or is there already."""

    out: Path
    num_frames: int
    num_segments: int
    is_made: bool

    def as_dict(self) -> dict[str, object]:
        """JSON values."""
        return {**asdict(self), "out": str(self.out)}

    def line(self) -> str:
        """For people."""
        state = "is there" if self.is_made else "would be made"
        return f"{self.out}: {self.num_frames} frames, {self.num_segments} segments; {state}"


def preview_videos(requests: Sequence[GenerateRequest], recipe: Recipe, *, model: Path) -> tuple[VideoPlan, ...]:
    """What `generate_videos` would make; loads no weights.

    Raises:
        ValueError: If there is no model folder, a file of it is missing or cut off, or one of these videos cannot come of it.
    """
    fps = _fps(requests, recipe, model)
    counts = {request: round(request.seconds * fps) for request in requests}
    plans = tuple(
        VideoPlan(
            out=request.out,
            num_frames=num_frames,
            num_segments=num_segments_for(num_frames),
            is_made=_is_made(request, request_fingerprint(request, recipe, model)),
        )
        for request, num_frames in counts.items()
    )
    if not all(plan.is_made for plan in plans):
        refuse_damaged_model(model)
    return plans


def _fps(requests: Sequence[GenerateRequest], recipe: Recipe, model: Path) -> float:
    """Frames a second of the model.

    Raises:
        ValueError: If it was trained on another codec's latents, or a video would have no frame.
    """
    record, codec_id = read_record(model), planned_record(recipe.encode).codec_id
    if record.codec.codec_id != codec_id:
        raise ValueError(
            f"{model} was trained on latents of the codec {record.codec.codec_id}, the recipe names {codec_id}; set"
            f" encode.codec={record.codec.codec_id}"
        )
    for request in requests:
        if round(request.seconds * record.fps) == 0:
            raise ValueError(
                f"{request.out}: {request.seconds:g} s at {record.fps:g} frames a second is no frame; ask for"
                f" {1 / record.fps:.3f} s at least"
            )
    return record.fps


def read_prompts(path: Path, out: Path, *, seconds: float | None, seed: int) -> tuple[GenerateRequest, ...]:
    """Requests of a JSONL file: ``image`` and ``prompt``; ``seconds``, ``seed`` and ``name`` if they differ.

    Raises:
        ValueError: If the file is missing, a line is not such an object, or two lines have one name.
    """
    if not path.is_file():
        raise ValueError(f"there is no prompt file {path}")
    try:
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    requests = tuple(_request(line, number, path, out, seconds, seed) for number, line in lines if line.strip())
    if len({request.out for request in requests}) < len(requests):
        raise ValueError(f"{path}: two lines have the same name")
    return requests


def _request(line: str, number: int, path: Path, out: Path, seconds: float | None, seed: int) -> GenerateRequest:
    try:
        row = json.loads(line)
        if unknown := row.keys() - _PROMPT_KEYS:
            raise ValueError(f"unknown key {sorted(unknown)[0]!r}; expected {', '.join(_PROMPT_KEYS)}")
        name = str(row.get("name", f"{number:05d}"))
        if not re.fullmatch(r"[^/.\0][^/\0]*", name):
            raise ValueError(
                f"the name {name!r} is no file name; expected one without / that does not begin with a dot"
            )
        return GenerateRequest(
            image=path.parent / row["image"],
            prompt=_text(row["prompt"]),
            seconds=float(row.get("seconds", seconds)),
            out=out / f"{name}.mp4",
            seed=_seed(row.get("seed", seed)),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        expected = 'expected {"image": ..., "prompt": ..., "seconds": ...}'
        raise ValueError(f"{path}, line {number}: {error!r}; {expected}") from None
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None


def _seed(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"the seed is {value!r}; expected a whole number from 0 on")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the prompt is {value!r}")
    return value


def generate_videos(
    requests: Sequence[GenerateRequest],
    recipe: Recipe,
    *,
    model: Path,
    home: Path,
    line: str,
    address: str | None,
    tracking: Tracking,
) -> GenerateResult:
    """Makes every video that is not there already, one Ray task each.

    Args:
        requests: What to make.
        recipe: Sampling settings, codec and cluster.
        model: A model folder.
        home: Where the tracked run's id is kept.
        line: Name of the line.
        address: Of a running Ray.
        tracking: Where to track.

    Raises:
        ValueError: If the model folder does not fit, or a file of it is missing or cut off.
        RuntimeError: If a task failed.
    """
    _fps(requests, recipe, model)
    asked = {request: request_fingerprint(request, recipe, model) for request in requests}
    todo = [request for request in requests if not _is_made(request, asked[request])]
    made: dict[GenerateRequest, GeneratedVideo] = {}
    if todo:
        refuse_damaged_model(model)
        with ray_cluster(address), progress() as meters:
            meter = meters.meter("generate", len(todo))

            def done(request: GenerateRequest, video: GeneratedVideo) -> None:
                made[request] = video
                meter.advance(note=request.out.name)

            refuse_impossible(cpus=recipe.cluster.cpus_per_task, gpus=_gpus(recipe))
            run_bounded(_tasks(todo, asked, recipe, model, done), max_in_flight=recipe.cluster.max_tasks)
    _track(preview_videos(requests, recipe, model=model), asked, recipe, model, home, line, tracking)
    skipped = tuple(request.out for request in requests if request not in made)
    return GenerateResult(made=tuple(made[request] for request in todo), skipped=skipped)


def request_fingerprint(request: GenerateRequest, recipe: Recipe, model: Path) -> str:
    """Names everything that a video depends on; kept in the record beside it."""
    parts = (request.prompt, str(request.seconds), request.seed, file_sha256(request.image))
    return fingerprint(*parts, read_record(model).weights_sha256, recipe.generate, recipe.encode)


def _is_made(request: GenerateRequest, asked: str) -> bool:
    """Whether the record beside the video says so; a video whose record cannot be read is made again."""
    try:
        record = json.loads(request.out.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return False
    return request.out.is_file() and isinstance(record, dict) and record.get("request") == asked


def _tasks(
    todo: Sequence[GenerateRequest],
    asked: Mapping[GenerateRequest, str],
    recipe: Recipe,
    model: Path,
    done: Callable[[GenerateRequest, GeneratedVideo], None],
) -> Iterator[Task]:
    remote = ray.remote(num_cpus=recipe.cluster.cpus_per_task, num_gpus=_gpus(recipe), max_retries=0)(_generate)
    for request in todo:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        # workers have another working directory
        there = replace(request, image=request.image.absolute(), out=request.out.absolute())
        arguments = (there, asked[request], recipe, model.resolve())
        yield Task(
            name=request.out.name,
            submit=lambda arguments=arguments: remote.remote(*arguments),
            done=lambda video, request=request: done(request, video),
        )


def _gpus(recipe: Recipe) -> float:
    return 1.0 if recipe.generate.device.startswith("cuda") else 0.0


def _generate(request: GenerateRequest, asked: str, recipe: Recipe, model_folder: Path) -> GeneratedVideo:
    codec = load_codec(recipe.encode)
    dtype = torch.bfloat16 if recipe.train.engine.dtype == "bf16" else torch.float32
    model, record = load_for_generate(model_folder, codec.record, dtype=dtype)
    return generate(
        model,
        record,
        codec,
        image_HWC=read_upright(request.image),
        prompt=request.prompt,
        seconds=request.seconds,
        settings=recipe.generate.model_copy(update={"seed": request.seed}),
        out=request.out,
        request=asked,
    )


def read_upright(path: Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3), turned as its camera says: phones store portraits lying on their side."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _track(
    videos: Sequence[VideoPlan],
    asked: Mapping[GenerateRequest, str],
    recipe: Recipe,
    model: Path,
    home: Path,
    line: str,
    tracking: Tracking,
) -> None:
    """All videos of a call, whichever call made them; other videos, or another model, are another run."""
    run = tracking.open_result(
        beside=open_storage(str(home)), kind="generate", run_key=_run_key(asked), home=home, line=line,
        kept_in=f"the .json file of each video in {home}",
    )  # fmt: skip
    if run is None:
        return
    run.log_params({"model": read_record(model).weights_sha256[:16], **recipe.generate.model_dump()})
    run.set_tags({"longtake.weights_sha256": read_record(model).weights_sha256})
    run.log_metrics_batch(
        {number: {"frames": video.num_frames, "segments": video.num_segments} for number, video in enumerate(videos)}
    )
    for video in videos:
        run.log_artifact(video.out, folder="videos")
        run.log_artifact(video.out.with_suffix(".json"), folder="videos")
    run.finish("FINISHED")


def _run_key(asked: Mapping[GenerateRequest, str]) -> str:
    """Names every video of a call, and all that it depends on, the model too."""
    return fingerprint({request.out.name: what for request, what in asked.items()})
