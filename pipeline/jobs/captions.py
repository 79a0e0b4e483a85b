"""Kept clips to Ray tasks to captions in the ledger, before shards are planned."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any, cast

import pyarrow as pa
import ray

from pipeline.config import Recipe, fingerprint
from pipeline.jobs.cluster import Task, decoding_child, run_bounded
from pipeline.progress import Meter
from preprocessing.captions.policy import (
    CaptionerRecord,
    Work,
    caption_fingerprint,
    caption_origin,
    clips_for,
    failed_captions,
    is_asked_for,
    unasked,
    with_captions,
)
from preprocessing.captions.step import Captioner, caption_clips
from preprocessing.config import CaptionsConfig, ScanConfig
from preprocessing.dataset import Dataset
from preprocessing.downloads import process_downloads
from preprocessing.plan_rows import planned_clips
from preprocessing.samples import PlannedClip

CLIPS_PER_TASK = 8
"""A killed run loses the words of so many clips a task."""

CAPTION_SETTINGS = "caption settings"
"""Under this name dataset.json keeps which settings its captioner record belongs to."""


class CaptionStep:
    """Captions of one run's clips; the model is loaded, by workers, only where words are missing."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, *, need_ray: Callable[[], None], meter: Callable[[int], Meter]
    ) -> None:
        """Ask for nothing yet.

        Args:
            dataset: Holds what was said before.
            recipe: Which clips need words.
            need_ray: Starts Ray, or connects to it.
            meter: Gives the progress bar for so many more clips.
        """
        self._dataset, self._recipe, self._settings = dataset, recipe, recipe.captions
        self._need_ray, self._meter = need_ray, meter
        self._record: CaptionerRecord | None = None
        self._retry_rows = self.written = 0

    def retry_failures(self) -> None:
        """Ask again about clips for which no words could be written in earlier runs."""
        self._retry_rows = self._dataset.ledger.captions().num_rows

    def write(self, kept: pa.Table) -> None:
        """Has words written for those of the clips that need some and have none."""
        if not any(clips_for(work, kept, self._settings).num_rows for work in Work):
            return
        if any(clips.num_rows for _, clips in self._todo(kept)):
            self._record = self._fetch()  # other weights may lie in the folder now
        for work, clips in self._todo(kept):
            if clips.num_rows:
                tasks = self._tasks(work, planned_clips(clips), self._meter(clips.num_rows))
                run_bounded(tasks, max_in_flight=self._recipe.cluster.max_tasks)

    def apply(self, kept: pa.Table) -> pa.Table:
        """The clips with their captions; those that still wait for theirs are left out."""
        if not any(clips_for(work, kept, self._settings).num_rows for work in Work):
            return kept
        origins = {self._fingerprint(work): caption_origin(work, self._settings, self._captioner()) for work in Work}
        return with_captions(kept, self._dataset.ledger.captions(), origins, self._settings)

    def failed(self, kept: Callable[[], pa.Table]) -> dict[str, str]:
        """Those of the clips that wait because no words could be written, with a line each."""
        if not is_asked_for(self._settings) or not self._dataset.ledger.captions().num_rows:
            return {}
        clips = kept()
        needy = pa.concat_tables([clips_for(work, clips, self._settings) for work in Work])
        return failed_captions(needy, self._dataset.ledger.captions(), [self._fingerprint(work) for work in Work])

    def _todo(self, kept: pa.Table) -> list[tuple[Work, pa.Table]]:
        captions = self._dataset.ledger.captions()
        clips = {work: clips_for(work, kept, self._settings) for work in Work}
        return [
            (work, unasked(clips[work], captions, self._fingerprint(work), retry_rows=self._retry_rows))
            for work in Work
            if clips[work].num_rows
        ]

    def _tasks(self, work: Work, clips: Sequence[PlannedClip], meter: Meter) -> Iterator[Task]:
        cluster = self._recipe.cluster
        remote = ray.remote(num_cpus=cluster.cpus_per_task, num_gpus=cluster.gpus_per_encode, max_retries=0)(_caption)

        def done(captions: pa.Table) -> None:
            self._dataset.ledger.append_captions(captions)
            self.written += captions.num_rows
            for clip_id in captions["clip_id"].to_pylist():
                meter.advance(note=str(clip_id))

        for first in range(0, len(clips), CLIPS_PER_TASK):
            part = clips[first : first + CLIPS_PER_TASK]
            arguments = (part, work, self._settings, self._recipe.scan, self._fingerprint(work))
            yield Task(
                name=f"captions of {part[0].clip_id} and {len(part) - 1} more",
                submit=lambda arguments=arguments: remote.remote(*arguments),
                done=done,
            )

    def _fingerprint(self, work: Work) -> str:
        return caption_fingerprint(work, self._settings, self._captioner())

    def _captioner(self) -> CaptionerRecord:
        """Which model it is: as stored for these settings, else asked of a worker, which hashes its weights."""
        if self._record is None:
            stored = self._dataset.record()
            is_known = stored.captioner and stored.fingerprints.get(CAPTION_SETTINGS) == fingerprint(self._settings)
            self._record = CaptionerRecord(**stored.captioner) if stored.captioner and is_known else self._fetch()
        return self._record

    def _fetch(self) -> CaptionerRecord:
        self._need_ray()
        remote: Any = ray.remote(num_cpus=self._recipe.cluster.cpus_per_task, max_retries=0)(_captioner_record)
        record: CaptionerRecord = cast("Any", ray.get(remote.remote(self._settings)))
        stored = self._dataset.record()
        fingerprints = {**stored.fingerprints, CAPTION_SETTINGS: fingerprint(self._settings)}
        self._dataset.write_record(replace(stored, captioner=asdict(record), fingerprints=fingerprints))
        return record


def _captioner_record(settings: CaptionsConfig) -> CaptionerRecord:
    from preprocessing.captions.qwen import captioner_record

    return captioner_record(settings)


def _caption(
    clips: Sequence[PlannedClip], work: Work, settings: CaptionsConfig, limits: ScanConfig, fingerprint: str
) -> pa.Table:
    return caption_clips(
        clips,
        work,
        captioner=_captioner(settings.model_dump_json()),
        worker=decoding_child(limits.progress_timeout_s, limits.memory_limit_mb),
        settings=settings,
        fingerprint=fingerprint,
        max_attempts=limits.max_attempts,
        downloads=process_downloads(),
    )


@cache
def _captioner(settings_json: str) -> Captioner:
    """The model of this Ray worker, loaded once."""
    from preprocessing.captions.qwen import load_captioner

    return load_captioner(CaptionsConfig.model_validate_json(settings_json))
