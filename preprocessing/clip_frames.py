"""The pictures of planned clips, as the child gives them: decoded ahead of whoever takes them, and only from the file that was scanned."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocessing.downloads import file_sha256
from preprocessing.input_files import LocalFiles
from preprocessing.isolation import ran_out_of_memory
from preprocessing.reasons import gone_line
from preprocessing.samples import PictureArea, PlannedClip
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import read_clip

T = TypeVar("T")

Chunk = NDArray[np.uint8]
"""A few frames, (n, height_px, width_px, 3)."""

FRAMES_PER_CHUNK = 8
"""Frames that cross from the child at once: 10 MB at 480p."""

AHEAD_BYTES = 64 << 20
"""Pixels that may wait decoded: 50 frames at 480p, two of the VAE's temporal tiles and more."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A clip that cannot be read, however often one tries; takes the place of its remaining chunks."""

    message: str


def read_clips(clips: Sequence[PlannedClip]) -> Iterator[Chunk | Unreadable]:
    """The chunks of one clip after the other, decoded ahead also into the next clip; runs in the child."""
    largest = max(clip.height_px * clip.width_px for clip in clips) * 3 * FRAMES_PER_CHUNK
    return ahead((part for clip in clips for part in _read(clip)), depth=max(1, AHEAD_BYTES // largest))


def ahead(items: Iterator[T], *, depth: int) -> Iterator[T]:
    """The same items; up to `depth` of them are made in a thread before they are asked for."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = deque(thread.submit(_next, items) for _ in range(depth))
        while found := coming.popleft().result():
            coming.append(thread.submit(_next, items))
            yield from found


def _next(items: Iterator[T]) -> list[T]:
    """The next item, or nothing at the end."""
    return list(islice(items, 1))


def _read(clip: PlannedClip) -> Iterator[Chunk | Unreadable]:
    try:
        yield from read_clip_chunks(clip)
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        yield Unreadable(message=" ".join(str(error).split()) or type(error).__name__)


def read_clip_chunks(clip: PlannedClip) -> Iterator[Chunk]:
    """The chunks of one clip; runs in the child.

    Raises:
        ValueError: If the file is not the one that was scanned.
        UnreadableVideo: If the video ends before the clip does.
    """
    check_unchanged(clip)
    frames = read_clip(
        clip.location,
        probe(clip.location),
        start_frame=clip.start_frame,
        fps=clip.fps,
        num_frames=clip.num_frames,
        height_px=clip.height_px,
        width_px=clip.width_px,
        picture=PictureArea.of_crop(clip.crop),
    )
    while batch := list(islice(frames, FRAMES_PER_CHUNK)):
        check_unchanged(clip)  # also if it is written while we read
        yield np.stack(batch)


def read_stills(clip: PlannedClip, number: int) -> Iterator[Chunk]:
    """Pictures spread evenly over a clip, the first and the last among them, in one chunk; runs in the child.

    Raises:
        ValueError: If the file is not the one that was scanned.
        UnreadableVideo: If the video ends before the clip does.
    """
    check_unchanged(clip)
    fps = clip.fps * max(1, number - 1) / (clip.num_frames - 1)
    stills = read_clip(
        clip.location,
        probe(clip.location),
        start_frame=clip.start_frame,
        fps=fps,
        num_frames=number,
        height_px=clip.height_px,
        width_px=clip.width_px,
        picture=PictureArea.of_crop(clip.crop),
    )
    yield np.stack(list(stills))


def check_unchanged(clip: PlannedClip) -> None:
    """Refuse a file that is not the one whose scan led to this clip.

    Raises:
        ValueError: If it is gone, or its size or time differs and its bytes too.
    """
    if not Path(clip.location).exists():
        raise ValueError(gone_line(clip.uri, clip.location))
    now = LocalFiles().facts(clip.location).content_id
    if clip.content_id and now != clip.content_id and not (clip.sha256 and _sha256(clip.location, now) == clip.sha256):
        raise ValueError(
            f"{clip.uri} has changed since it was scanned (size-time was {clip.content_id}, is {now}); scan it again"
        )


@lru_cache(maxsize=4)
def _sha256(path: str, content_id: str) -> str:
    return file_sha256(path)
