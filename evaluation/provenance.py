"""How a video was made: which of its frames were generated, and in which order, from the JSON beside it."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.types import FrameNumbers, Provenance

Range = tuple[int, int]
"""Half-open frames."""

_MAX_BYTES = 1 << 20
"""Of a JSON file beside a video; a larger one was not written here."""


class BadRecord(ValueError):
    """A JSON beside a video that does not describe it."""


def read_provenance(video: Path, num_frames: int) -> Provenance:
    """What ``VIDEO.json`` says of a video of `num_frames` decoded frames.

    The paper measures what the model made last, not where the user's video ends (4.2): conditioning frames are dropped, and
    the rest stands in order of generation. Without such a file, or with a wrong one, all frames count in order of time, and
    the note says so.
    """
    record = video.with_suffix(".json")
    if not record.is_file() or record == video:
        return _assumed(num_frames, f"assumed: there is no {record.name}")
    try:
        data = _load(record)
        generated = generated_order(data, num_frames)
    except BadRecord as error:
        return _assumed(num_frames, f"assumed: {record.name} {error}")
    details = {key: _plain(value) for key, value in _flat(data).items() if key not in ("conditioning", "generated")}
    return Provenance(generated=generated, recorded=True, note=f"recorded in {record.name}", details=details)


def generated_order(data: Mapping[str, object], num_frames: int) -> FrameNumbers:
    """Numbers of the generated frames in order of generation.

    Raises:
        BadRecord: If the ranges are none, leave the video, or meet.
    """
    if data.get("num_frames") != num_frames:
        raise BadRecord(f"speaks of {data.get('num_frames')} frames, {num_frames} decoded")
    conditioning, generated = (_ranges(data, key, num_frames) for key in ("conditioning", "generated"))
    pieces = [np.arange(start, end) for start, end in generated]
    numbers = np.concatenate([np.empty(0, np.int64), *pieces])
    if len(numbers) == 0:
        raise BadRecord("names no generated frames")
    named = np.concatenate([numbers, *(np.arange(start, end) for start, end in conditioning)])
    if len(np.unique(named)) != len(named):
        raise BadRecord("names a frame twice")
    return numbers


def _assumed(num_frames: int, note: str) -> Provenance:
    return Provenance(generated=np.arange(num_frames), recorded=False, note=note, details={})


def _load(record: Path) -> Mapping[str, object]:
    if record.stat().st_size > _MAX_BYTES:
        raise BadRecord(f"has {record.stat().st_size} bytes, more than a record of a video")
    try:
        data = json.loads(record.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"is not JSON: {error}") from None
    if not isinstance(data, dict) or "generated" not in data:
        raise BadRecord("does not say which frames were generated")
    return data


def _ranges(data: Mapping[str, object], key: str, num_frames: int) -> list[Range]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(_is_range(item, num_frames) for item in value):
        raise BadRecord(f"has {key} {value!r}; expected half-open ranges within {num_frames} frames")
    return [(item[0], item[1]) for item in value]


def _is_range(item: object, num_frames: int) -> bool:
    match item:
        case [int(start), int(end)]:
            return 0 <= start < end <= num_frames
    return False


def _flat(data: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested keys with dots."""
    flat: dict[str, object] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _plain(value: object) -> str:
    """A value as text; of a list its JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
