"""Which sources have the content of another one: equal bytes, and the same span of them. Pure.

Only files of equal size can be equal, so few have to be read before they are scanned. Of equal ones that one is kept which the
dataset has already, else the first by uri: the outcome hangs on the order of runs, never on the order of workers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from preprocessing.input_files import ABSENT
from preprocessing.ledger import has_content
from preprocessing.reasons import Reason
from preprocessing.rows import source_from_row
from preprocessing.samples import Source

_NOT_KEPT = (Reason.DUPLICATE, Reason.MISSING, Reason.UNREACHABLE)
"""Reasons of rows whose content the dataset does not have."""


def with_known_hashes(listed: Sequence[Source], known: Mapping[str, Mapping]) -> tuple[Source, ...]:
    """The sources with the hash that their rows have, where size and time, or etag, say that nothing changed.

    Args:
        listed: What the inputs hold now.
        known: Rows of the sources table, by source id.
    """
    return tuple(
        replace(source, sha256=row["sha256"])
        if (row := known.get(source.source_id)) and row["content_id"] == source.content_id
        else source
        for source in listed
    )


def with_hashes(listed: Sequence[Source], by_location: Mapping[str, str]) -> tuple[Source, ...]:
    """The sources with the hashes that were read."""
    return tuple(replace(s, sha256=by_location.get(s.location, s.sha256)) for s in listed)


def unread_sources(listed: Sequence[Source], known: Mapping[str, Mapping]) -> tuple[Source, ...]:
    """Sources whose bytes must be read: those touched at an equal size, and those of a size that another file has or had.

    Args:
        listed: As `with_known_hashes` gives them.
        known: Rows of the sources table, by source id.
    """
    locations: dict[int, set[str]] = {}
    for source in (*listed, *map(source_from_row, known.values())):
        if source.size_bytes:
            locations.setdefault(source.size_bytes, set()).add(source.location)
    return tuple(
        source
        for source in listed
        if source.size_bytes
        and not source.sha256
        and (len(locations[source.size_bytes]) > 1 or _is_touched(source, known.get(source.source_id)))
    )


def _is_touched(source: Source, row: Mapping | None) -> bool:
    return row is not None and bool(row["sha256"]) and row["size_bytes"] == source.size_bytes


def _present(known: Mapping[str, Mapping]) -> Iterable[Source]:
    return (source_from_row(row) for row in known.values() if row["reason"] != Reason.MISSING)


def duplicates(listed: Sequence[Source], known: Mapping[str, Mapping]) -> dict[str, Source]:
    """The source that is kept instead, by the id of each listed source that has its content.

    Args:
        listed: With their hashes where those were read; empty files are not compared.
        known: Rows of the sources table, by source id.
    """
    alike: dict[object, list[Source]] = {}
    ids = {source.source_id for source in listed}
    for source in present_sources(listed, known):
        is_copy = source.source_id not in ids and known[source.source_id]["reason"] == Reason.DUPLICATE
        if source.sha256 and source.size_bytes and source.content_id != ABSENT and not is_copy:
            alike.setdefault((source.sha256, source.span), []).append(source)
    kept = {key: min(found, key=lambda source: rank(source, known)) for key, found in alike.items()}
    instead = ((source, kept.get((source.sha256, source.span))) for source in listed)
    return {s.source_id: other for s, other in instead if other is not None and other.source_id != s.source_id}


def present_sources(listed: Sequence[Source], known: Mapping[str, Mapping]) -> tuple[Source, ...]:
    """What the inputs hold now, and all other sources that were there when they were last looked for."""
    ids = {source.source_id for source in listed}
    return (*listed, *(source for source in _present(known) if source.source_id not in ids))


def rank(source: Source, known: Mapping[str, Mapping]) -> tuple[bool, str, str]:
    """Sorts sources of one content: one under which the dataset has it comes first, then the first by uri."""
    row = known.get(source.source_id)
    is_kept = row is not None and has_content(row, source) and row["reason"] not in _NOT_KEPT
    return (not is_kept, source.uri, source.source_id)
