"""Scores to files: results.json, features a video, and one HTML page."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from evaluation.config import EvaluateConfig
from evaluation.metrics.catalogue import WEIGHTED
from evaluation.page import WEIGHTS, origin, render
from evaluation.statistics import summarise
from evaluation.types import DriftScores, Estimate, MetricScore, MetricSummary, Skipped, VideoScores

SCHEMA_VERSION = 1
"""Of results.json; a key that changes its meaning raises it."""


def write_report(videos: Sequence[VideoScores], out: Path, settings: EvaluateConfig, *, fingerprint: str) -> None:
    """Writes ``results.json``, ``index.html``, and the features that are not in files yet.

    Args:
        videos: In the order of the report.
        out: Folder, made if there is none.
        settings: As they were when the videos were scored.
        fingerprint: Of all that went in; who evaluates again compares it.
    """
    slim = [store_features(video, out, number) for number, video in enumerate(videos)]
    summary = summarise(slim, settings)
    _replace(out / "index.html", render(slim, summary, settings))
    _replace(out / "results.json", results_json(slim, summary, settings, fingerprint=fingerprint))


def store_features(video: VideoScores, out: Path, number: int) -> VideoScores:
    """Writes the rows of every frame to ``features/NUMBER.npz``, and gives back the video without them.

    From that file any window of any metric is computed again without decoding.
    """
    if video.measured is None or not video.measured.rows:
        return video
    (out / "features").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / _features_name(number), allow_pickle=False, **video.measured.rows)
    return replace(video, measured=replace(video.measured, rows={}))


def results_json(
    videos: Sequence[VideoScores], summary: Sequence[MetricSummary], settings: EvaluateConfig, *, fingerprint: str
) -> str:
    """All numbers; what there is not says ``{"skipped": why}``."""
    results = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "settings": settings.model_dump(mode="json"),
        "figures": headline(summary),
        "summary": {row.name: _summary(row) for row in summary},
        "not_computed": dict(WEIGHTED),
        "videos": [_video(video, _features_name(number)) for number, video in enumerate(videos)],
    }
    return json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def stored_figures(out: Path, fingerprint: str) -> dict[str, float] | None:
    """The figures of the report in `out` if it was made of the same, else None."""
    try:
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    is_same = isinstance(results, dict) and results.get("fingerprint") == fingerprint
    return results["figures"] if is_same and (out / "index.html").is_file() else None


def stored_weights(out: Path) -> tuple[str, ...]:
    """Hashes of all weights that made videos of the report in `out`, as far as their records say; sorted."""
    videos = json.loads((out / "results.json").read_text(encoding="utf-8"))["videos"]
    return tuple(sorted({video["made"][WEIGHTS] for video in videos if WEIGHTS in video.get("made", {})}))


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def headline(summary: Sequence[MetricSummary]) -> dict[str, float]:
    """The numbers of a summary by name, for tracking and for short reports: ``eval/ref/sharpness``, ``.../drift`` ..."""
    numbers: dict[str, float] = {}
    for row in summary:
        named = {"": row.value, "/drift": row.absolute, "/drift_signed": row.signed, "/drift_floor": row.floor}
        for suffix, estimate in named.items():
            if isinstance(estimate, Estimate):
                numbers[f"eval/{row.name}{suffix}"] = estimate.mean
    return numbers


def _features_name(number: int) -> str:
    return f"features/{number:05d}.npz"


def _summary(row: MetricSummary) -> dict[str, object]:
    parts = {"value": row.value, "drift": row.absolute, "drift_signed": row.signed, "drift_floor": row.floor}
    return {key: _number(part) for key, part in parts.items()}


def _video(video: VideoScores, features: str) -> dict[str, object]:
    if video.measured is None or video.provenance is None:
        return {"name": video.name, "status": "failed", "reason": video.failure}
    return {
        "name": video.name,
        "status": "ok",
        "num_frames": video.measured.num_frames,
        "truncated": video.measured.truncated,
        "facts": asdict(video.measured.facts),
        "decoder": video.measured.decoder,
        "order": "recorded" if video.provenance.recorded else "assumed",
        "order_note": video.provenance.note,
        "origin": origin(video.provenance),
        "made": dict(video.provenance.details),
        "features": features,
        "metrics": {name: _score(score) for name, score in video.scores.items()},
    }


def _score(score: MetricScore) -> dict[str, object]:
    return {"value": _number(score.value), "drift": _number(score.drift)}


def _number(value: float | Estimate | DriftScores | Skipped) -> object:
    if isinstance(value, Skipped):
        return {"skipped": value.why}
    return value if isinstance(value, int | float) else asdict(value)
