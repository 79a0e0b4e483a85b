"""Captions that lie beside videos: ``a.mp4.txt`` or ``a.txt`` beside ``a.mp4``, in UTF-8."""

import posixpath
from collections.abc import Mapping, Sequence

from preprocessing.input_files import UNREADABLE, InputPlaces

MAX_CAPTION_BYTES = 1 << 16
"""A longer sidecar file is no caption."""


def sidecar_captions(videos: Sequence[str], places: InputPlaces, ignored: set[str]) -> Mapping[str, str]:
    """The captions that lie beside videos; what cannot be one goes into `ignored`, with the reason."""
    by_sidecar = {sidecar: video for video in videos if (sidecar := _first_sidecar(video, places, ignored))}
    captions = {}
    for sidecar, text in places.read_many(by_sidecar).items():
        if isinstance(text, bytes):
            captions[by_sidecar[sidecar]] = " ".join(text.decode("utf-8", "replace").split())
        else:
            ignored.add(f"{sidecar} (no caption: {getattr(text, 'strerror', None) or text})")
    return captions


def _first_sidecar(video: str, places: InputPlaces, ignored: set[str]) -> str | None:
    for sidecar in sidecar_names(video):
        facts = places.of(sidecar).facts(sidecar)
        if facts.content_id.startswith(UNREADABLE):
            ignored.add(f"{sidecar} (no caption: {facts.content_id.removeprefix(UNREADABLE)})")
        elif facts.size_bytes is not None and facts.size_bytes > MAX_CAPTION_BYTES:
            ignored.add(f"{sidecar} (too long for a caption: {facts.size_bytes} bytes)")
        elif facts.size_bytes is not None:
            return sidecar
    return None


def sidecar_names(video: str) -> tuple[str, ...]:
    """Where a video's caption may lie, the first one first."""
    stem = posixpath.splitext(video)[0]
    return tuple(name for name in (f"{video}.txt", f"{stem}.txt") if name != video)
