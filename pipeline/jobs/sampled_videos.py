"""The videos that a model makes while it trains: from the latents that rank 0 leaves on disk to mp4 files with scores.

Beside ``step-<step>.safetensors`` come the mp4, the JSON that says which of its frames the model made, and
``step-<step>.scores.json``, with which a video is done. What goes wrong is a warning: training goes on.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from evaluation import score
from evaluation.score import score_video
from evaluation.types import DriftScores, Skipped, VideoScores
from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import decoding_child, is_shared_cluster, refuse_impossible
from pipeline.jobs.encode import worker_codec
from preprocessing.shards import file_sha256
from training.sampled_video import decode_video, load_video, saved_videos

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScoredVideo:
    """A video that the model made after some steps; beside it as ``.scores.json``.

    Attributes:
        step: Optimizer steps that the model had done.
        figures: By name: ``sample/ref/sharpness``, ``sample/ref/sharpness/drift`` ...
        failure: Why there are none, "" if there are.
        made_of: Fingerprint of the latents and of all settings that count.
    """

    step: int
    figures: Mapping[str, float]
    failure: str
    made_of: str


OnVideo = Callable[[Path, ScoredVideo], None]
"""Takes an mp4 file and its scores; one that an earlier attempt at the stage made comes again."""


class SampledVideos:
    """Follows the videos of a stage. One at a time is made, so that they come in the order of their steps."""

    def __init__(self, folder: Path, recipe: Recipe, on_video: OnVideo) -> None:
        """Has seen none yet.

        Args:
            folder: Of the videos, on a disk that all nodes share; may be missing.
            recipe: Codec, metrics, and what a task sets aside.
            on_video: Gets each video when it is done.
        """
        self._folder, self._recipe, self._on_video = folder, recipe, on_video
        self._seen: set[tuple[Path, int]] = set()
        self._running: tuple[Path, ray.ObjectRef[ScoredVideo]] | None = None

    def look(self) -> None:
        """Hand over what is done, and begin the next; does not wait."""
        self._advance(timeout_s=0.0)

    def finish(self) -> None:
        """Wait until all are made and handed over."""
        while self._advance(timeout_s=None):
            pass

    def _advance(self, *, timeout_s: float | None) -> bool:
        """False if there is nothing to wait for."""
        if self._running is not None:
            latents, ref = self._running
            if not ray.wait([ref], timeout=timeout_s)[0]:
                return True
            self._running = None
            self._take(latents, ref)
        latents = self._next()
        if latents is not None:
            self._running = (latents, _remote(self._recipe).remote(latents, self._recipe))
        return self._running is not None

    def _next(self) -> Path | None:
        """Latents whose video has to be made; those on the way that have one are handed over."""
        for latents in saved_videos(self._folder):
            version = (latents, latents.stat().st_mtime_ns)
            if version in self._seen:
                continue
            self._seen.add(version)
            scored = stored_scores(latents, self._recipe)
            if scored is None:
                return latents
            self._hand_over(latents, scored)
        return None

    def _take(self, latents: Path, ref: "ray.ObjectRef[ScoredVideo]") -> None:
        try:
            self._hand_over(latents, ray.get(ref))
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            logger.warning("no video of %s: %s", latents, cause)

    def _hand_over(self, latents: Path, scored: ScoredVideo) -> None:
        if scored.failure:
            logger.warning("no scores of %s: %s", _mp4(latents), scored.failure)
        self._on_video(_mp4(latents), scored)


def refuse_impossible_videos(recipe: Recipe) -> None:
    """Refuse videos that no node can decode; see `refuse_impossible`."""
    refuse_impossible(cpus=_num_cpus(recipe), gpus=recipe.cluster.gpus_per_encode)


def _num_cpus(recipe: Recipe) -> float:
    """On a local Ray none: the ranks have them all, and a video is worth seeing before they have ended."""
    return recipe.cluster.cpus_per_task if is_shared_cluster() else 0.0


def _remote(recipe: Recipe) -> Any:  # noqa: ANN401 - Ray has no public type for it
    return ray.remote(num_cpus=_num_cpus(recipe), num_gpus=recipe.cluster.gpus_per_encode, max_retries=0)(make_video)


def make_video(latents: Path, recipe: Recipe) -> ScoredVideo:
    """Decode a video and score it; whatever is wrong with the scores is their `failure`.

    Raises:
        ValueError: If the recipe's codec is not that of the latents.
    """
    made_of = _made_of(latents, recipe)
    video, mp4, limits = load_video(latents), _mp4(latents), recipe.evaluate
    decode_video(video, worker_codec(recipe.encode), mp4)
    scores = score_video(
        mp4.parent, mp4.name, limits, decoding_child(limits.progress_timeout_s, limits.memory_limit_mb)
    )
    scored = ScoredVideo(step=video.step, figures=figures(scores), failure=scores.failure, made_of=made_of)
    part = latents.with_suffix(".scores.part")
    part.write_text(json.dumps(asdict(scored), indent=2) + "\n")
    part.replace(_scores_file(latents))
    return scored


def stored_scores(latents: Path, recipe: Recipe) -> ScoredVideo | None:
    """What `make_video` found, None if it has not been done with these latents and settings."""
    try:
        scored = ScoredVideo(**json.loads(_scores_file(latents).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return scored if scored.made_of == _made_of(latents, recipe) and _mp4(latents).is_file() else None


def figures(video: VideoScores) -> dict[str, float]:
    """All numbers of a video by name; what it has not is left out."""
    numbers: dict[str, float] = {}
    for name, metric in video.scores.items():
        if not isinstance(metric.value, Skipped):
            numbers[f"sample/{name}"] = metric.value
        if isinstance(metric.drift, DriftScores):
            numbers[f"sample/{name}/drift"] = metric.drift.absolute
    return numbers


def _made_of(latents: Path, recipe: Recipe) -> str:
    return fingerprint(score.VERSION, recipe.encode, recipe.evaluate, file_sha256(latents))


def _mp4(latents: Path) -> Path:
    return latents.with_suffix(".mp4")


def _scores_file(latents: Path) -> Path:
    return latents.with_suffix(".scores.json")
