"""Clips to words: their pictures come from the child, the words from a model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preprocessing.captions.policy import Work, instruction
from preprocessing.clip_frames import read_stills
from preprocessing.config import CaptionsConfig
from preprocessing.downloads import Downloads
from preprocessing.input_files import is_remote
from preprocessing.isolation import ChildFailed, IsolatedWorker
from preprocessing.plan_rows import CAPTIONS
from preprocessing.samples import PlannedClip
from preprocessing.video_io.probe import UnreadableVideo


class Captioner(Protocol):
    """A model that has words for pictures, and other words for words; the same every time."""

    def describe(self, frames: Sequence[NDArray[np.uint8]], instruction: str) -> str:
        """What is seen in a clip's pictures, (height_px, width_px, 3) each, in their order."""
        ...

    def rewrite(self, caption: str, instruction: str) -> str:
        """The caption in other words."""
        ...


def caption_clips(
    clips: Sequence[PlannedClip],
    work: Work,
    *,
    captioner: Captioner,
    worker: IsolatedWorker,
    settings: CaptionsConfig,
    fingerprint: str,
    max_attempts: int,
    downloads: Downloads,
) -> pa.Table:
    """Ask the model about each clip (schema `plan_rows.CAPTIONS`); one that cannot be read gets a row that says why.

    Args:
        clips: What to ask about.
        work: What to ask.
        captioner: Loaded for the same settings.
        worker: Its child decodes.
        settings: Instructions and the number of pictures.
        fingerprint: `caption_fingerprint`, stored in every row.
        max_attempts: Deaths of the child before a clip is given up.
        downloads: Brings videos of buckets here.
    """
    asked = instruction(work, settings)
    found = []
    for clip in clips:
        text, failure = "", ""
        try:
            if work is Work.WRITE:
                text = captioner.describe(
                    _pictures(_here(clip, downloads), worker, settings.num_frames, max_attempts), asked
                )
            else:
                text = captioner.rewrite(clip.caption, asked)
            failure = "" if text else "the model said nothing"
        except (ChildFailed, UnreadableVideo, OSError, ValueError) as error:
            failure = " ".join(str(error).split())
        found.append({**_as_read(clip), "text": text, "failure": failure, "fingerprint": fingerprint})
    return pa.Table.from_pylist(found, schema=CAPTIONS)


def _as_read(clip: PlannedClip) -> dict[str, object]:
    return {name: getattr(clip, name) for name in CAPTIONS.names if hasattr(clip, name)}


def _here(clip: PlannedClip, downloads: Downloads) -> PlannedClip:
    """The clip with its file's place on this machine."""
    if not is_remote(clip.location):
        return clip
    return replace(clip, location=downloads.local_path(clip.location, clip.content_id), content_id="")


def _pictures(clip: PlannedClip, worker: IsolatedWorker, number: int, max_attempts: int) -> Sequence[NDArray[np.uint8]]:
    for attempt in range(1, max_attempts + 1):
        try:
            return list(worker.call(read_stills, clip, number))
        except ChildFailed:
            if attempt == max_attempts:
                raise
    raise AssertionError("max_attempts is positive")
