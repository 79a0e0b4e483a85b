"""The whole line in one process on one Ray: raw videos, decisions, shards, two stages, a video, its drift, a summary."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import Recipe, fingerprint
from pipeline.demo_summary import DemoSummary, Frames, Step, outcomes, picture_figures
from pipeline.jobs.cluster import ray_cluster
from pipeline.jobs.evaluate import evaluate_videos
from pipeline.jobs.generate import GenerateRequest, generate_videos
from pipeline.jobs.preprocess import preprocess
from pipeline.jobs.stage import train_stage
from pipeline.tracking.tracked_run import Tracking
from pipeline.tracking.uris import default_uri, ui_command
from preprocessing.clip_frames import read_clip_chunks
from preprocessing.dataset import Dataset
from preprocessing.isolation import IsolatedWorker
from preprocessing.plan import kept_clips
from preprocessing.plan_rows import planned_clips
from preprocessing.rendering.demo_set import TRUTH_FILE, render_demo
from preprocessing.rendering.truth import Truth, differences, totals
from preprocessing.samples import PlannedClip, Split, clip_num_frames
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import read_frames_without_decord
from training.config import StageName
from training.run_folder import SUMMARY_FILE
from training.types import StageSummary

logger = logging.getLogger(__name__)

T = TypeVar("T")

NUM_SEGMENTS = 10
"""Segments of the generated video: more than any clip of the demo has."""

RENDER_SEED = 0


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where everything of a demo lies."""

    out: Path

    @property
    def raw(self) -> Path:
        return self.out / "raw"

    @property
    def dataset(self) -> Path:
        return self.out / "dataset"

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def start_image(self) -> Path:
        return self.out / "start.png"

    @property
    def video(self) -> Path:
        return self.out / "videos" / "generated.mp4"

    @property
    def evaluation(self) -> Path:
        return self.out / "evaluation"


@dataclass(frozen=True, kw_only=True)
class _Clock:
    """Times steps, and sees whether a step left the file that it leaves as it was."""

    steps: list[Step] = field(default_factory=list)

    def run(self, name: str, evidence: Path, action: Callable[[], T]) -> T:
        """Runs a step.

        Args:
            name: For people.
            evidence: File that the step writes if it does anything.
            action: The step.
        """
        logger.info("demo: %s", name)
        before, start_s = _modified(evidence), time.monotonic()
        result = action()
        reused = before is not None and before == _modified(evidence)
        self.steps.append(Step(name=name, seconds=time.monotonic() - start_s, reused=reused))
        return result


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def run_demo(*, videos: Path | None, out: Path, recipe: Recipe, address: str | None, tracking: Tracking) -> DemoSummary:
    """Runs every step that is not done, and says what came out.

    Args:
        videos: Raw videos; None renders some whose truth is known.
        out: Folder of everything.
        recipe: Settings of every step.
        address: Of a running Ray; None starts one for all steps.
        tracking: Where to track; the default database lies beside `out`.

    Raises:
        ValueError: If the videos give no clip to train on.
        RuntimeError: If a step failed.
    """
    places = _Places(out=out if videos is None else out / _own_folder(videos))
    uri = tracking.uri or default_uri(out.parent)
    tracking = Tracking(uri=uri, line=tracking.line or (out if videos is None else videos.resolve()).name)
    clock = _Clock()
    truths = None if videos is not None else clock.run("render", places.raw / TRUTH_FILE, lambda: _render(places))
    line = _Line(places=places, recipe=recipe, address=address, tracking=tracking)
    with _one_ray(places, address):
        clock.run("preprocess", places.dataset / "dataset.json", lambda: line.preprocess(videos or places.raw))
        teacher = clock.run("teacher", places.run / "teacher" / SUMMARY_FILE, lambda: line.train("teacher"))
        direct = clock.run("direct", places.run / "direct" / SUMMARY_FILE, lambda: line.train("direct"))
        clip = line.start_clip()
        clock.run("generate", places.video, lambda: line.generate(clip))
        figures = clock.run("evaluate", places.evaluation / "results.json", line.evaluate)
    decided = outcomes(Dataset.open(str(places.dataset)))
    return DemoSummary(
        out=places.out,
        steps=tuple(clock.steps),
        totals=totals(decided),
        differences=None if truths is None else differences(truths, decided),
        teacher=teacher,
        direct=direct,
        prompt=clip.caption,
        held_out=clip.split is Split.EVAL,
        pictures=picture_figures(np.asarray(Image.open(places.start_image)), _read(places.video)),
        figures=figures,
        files=_files(places),
        curves=ui_command(uri),
    )


def _own_folder(videos: Path) -> str:
    """A folder for somebody's videos: never one of the demo's own, nor that of other videos of the same name."""
    return f"own-{videos.resolve().name}-{fingerprint(str(videos.resolve()))[:6]}"


def _render(places: _Places) -> tuple[Truth, ...]:
    return render_demo(places.raw, seed=RENDER_SEED)


@contextmanager
def _one_ray(places: _Places, address: str | None) -> Iterator[None]:
    """One Ray for all steps; where everything has been done before, a step that needs one after all starts its own."""
    if (places.evaluation / "results.json").exists():
        yield
        return
    with ray_cluster(address):
        yield


@dataclass(frozen=True, kw_only=True)
class _Line:
    """The commands of the line, on the demo's folders."""

    places: _Places
    recipe: Recipe
    address: str | None
    tracking: Tracking

    def preprocess(self, videos: Path) -> None:
        preprocess(
            [str(videos)],
            str(self.places.dataset),
            self.recipe,
            limit=None,
            retry_failed=False,
            accept_missing=False,
            address=self.address,
            tracking=self.tracking,
        )

    def train(self, stage: StageName) -> StageSummary:
        return train_stage(
            self.recipe,
            dataset_uris=[str(self.places.dataset)],
            run_dir=self.places.run,
            stage=stage,
            init=None,
            address=self.address,
            tracking=self.tracking,
        )

    def start_clip(self) -> PlannedClip:
        """The longest held-out sample, or the longest of all if none is held out."""
        dataset = Dataset.open(str(self.places.dataset))
        kept = kept_clips(
            dataset.ledger.sources(), dataset.ledger.clips(), self.recipe.encode.sizes_px,
            eval_percent=self.recipe.sources.eval_percent,
        )  # fmt: skip
        encoded = set(dataset.load_manifest(None).table["clip_id"].to_pylist())
        return longest_held_out([clip for clip in planned_clips(kept) if clip.clip_id in encoded])

    def generate(self, clip: PlannedClip) -> None:
        Image.fromarray(self._first_frame(clip)).save(self.places.start_image)
        request = GenerateRequest(
            image=self.places.start_image,
            prompt=clip.caption,
            seconds=clip_num_frames(NUM_SEGMENTS) / clip.fps,
            out=self.places.video,
            seed=self.recipe.generate.seed,
        )
        generate_videos(
            [request],
            self.recipe,
            model=self.places.run / "direct" / "model",
            home=self.places.out / "videos",
            line=self.places.out.name,
            address=self.address,
            tracking=self.tracking,
        )

    def _first_frame(self, clip: PlannedClip) -> NDArray[np.uint8]:
        """Decoded in a child process: the user's videos are not to be trusted."""
        limits = self.recipe.scan
        with IsolatedWorker(
            progress_timeout_s=limits.progress_timeout_s, memory_limit_mb=limits.memory_limit_mb
        ) as worker:
            return next(worker.stream(read_clip_chunks, clip))[0]

    def evaluate(self) -> dict[str, float]:
        return evaluate_videos(
            self.places.video.parent,
            self.places.evaluation,
            self.recipe,
            line=self.places.out.name,
            address=self.address,
            tracking=self.tracking,
        )


def longest_held_out(clips: Sequence[PlannedClip]) -> PlannedClip:
    """The held-out clip with the most segments, or, if none is held out, the training clip; the first of equals.

    Raises:
        ValueError: If there are no clips.
    """
    if not clips:
        raise ValueError("none of the videos gave a clip: see the dataset's report for the reasons")
    return min(clips, key=lambda clip: (clip.split is not Split.EVAL, -clip.num_segments, clip.uri, clip.clip_id))


def _read(video: Path) -> Frames:
    """All frames of a video that we made."""
    probed = probe(str(video))
    stream = read_frames_without_decord(str(video), probed, height_px=probed.height_px, width_px=probed.width_px)
    return np.stack([frame.rgb_HWC for frame in stream])


def _files(places: _Places) -> dict[str, Path]:
    return {
        "decisions": places.dataset / "report" / "index.html",
        "video": places.video,
        "drift": places.evaluation / "index.html",
    }
