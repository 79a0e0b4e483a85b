"""Scores to files: results.json, features a video, and one HTML page."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from evaluation.config import EvaluateConfig
from evaluation.metrics.catalogue import WEIGHTED
from evaluation.page import origin, render
from evaluation.statistics import summarise
from evaluation.types import DriftScores, Estimate, MetricScore, MetricSummary, Skipped, VideoScores

SCHEMA_VERSION = 1
"""Of results.json; a key that changes its meaning raises it."""


def write_report(videos: Sequence[VideoScores], out: Path, settings: EvaluateConfig) -> None:
    """Writes ``results.json``, ``index.html``, and ``features/NUMBER.npz`` with the rows of every frame.

    From the features any window of any metric is computed again without decoding.
    """
    summary = summarise(videos, settings)
    (out / "features").mkdir(parents=True, exist_ok=True)
    for number, video in enumerate(videos):
        if video.measured is not None:
            np.savez_compressed(out / _features_name(number), allow_pickle=False, **video.measured.rows)
    (out / "results.json").write_text(results_json(videos, summary, settings), encoding="utf-8")
    (out / "index.html").write_text(render(videos, summary, settings), encoding="utf-8")


def results_json(videos: Sequence[VideoScores], summary: Sequence[MetricSummary], settings: EvaluateConfig) -> str:
    """All numbers; what there is not says ``{"skipped": why}``."""
    results = {
        "schema_version": SCHEMA_VERSION,
        "settings": settings.model_dump(mode="json"),
        "summary": {row.name: _summary(row) for row in summary},
        "not_computed": dict(WEIGHTED),
        "videos": [_video(video, _features_name(number)) for number, video in enumerate(videos)],
    }
    return json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def headline(summary: Sequence[MetricSummary]) -> dict[str, float]:
    """The numbers of a summary by name, for curves and short reports: ``eval/ref/sharpness``, ``.../drift`` ..."""
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
