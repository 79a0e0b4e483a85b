"""Pins: which versions of a dataset somebody still reads, so that `gc` leaves them and their shards alone.

A pin is ``pins/<id>.json`` in the dataset. It needs no lease: it is one small file of its own. It has no date after which it
does not count, because a training must never lose its data to a clock; `longtake gc --unpin ID` removes one whose holder is
gone for good.
"""

import json
import re
from dataclasses import asdict, dataclass

from preprocessing.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Somebody who reads a version.

    Attributes:
        pin_id: Names the file; `[a-z0-9-]+`.
        manifest: SHA-256 of the version.
        holder: Who, for people.
    """

    pin_id: str
    manifest: str
    holder: str


def pin(dataset: Dataset, held: Pin) -> None:
    """Write a pin, or replace it."""
    values = asdict(held)
    dataset.storage.write_atomic(_key(values.pop("pin_id")), json.dumps(values, sort_keys=True).encode())


def unpin(dataset: Dataset, pin_id: str) -> None:
    """Remove a pin; nothing happens if there is none."""
    dataset.storage.delete(_key(pin_id))


def pins(dataset: Dataset) -> tuple[Pin, ...]:
    """All pins, by id."""
    keys = [key for key in dataset.storage.list("pins") if key.endswith(".json")]
    return tuple(Pin(pin_id=_id(key), **json.loads(dataset.storage.read_bytes(key))) for key in keys)


def _key(pin_id: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", pin_id):
        raise ValueError(f"{pin_id!r} is no pin's id; longtake gc says which there are")
    return f"pins/{pin_id}.json"


def _id(key: str) -> str:
    return key.removeprefix("pins/").removesuffix(".json")
