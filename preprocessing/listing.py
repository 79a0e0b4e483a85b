"""What inputs hold, and which known sources they miss: gone, or an input without any of what was there.

A source is gone where no file is at its last location, nor at any other place that a table's row could mean.
"""

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from preprocessing.input_files import InputPlaces
from preprocessing.samples import Source


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """How much there is to do.

    Attributes:
        num_sources: Videos, and spans of them.
        size_bytes: Of their files together, as far as these tell.
    """

    num_sources: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class GivenInput:
    """One of the inputs.

    Attributes:
        given: As it was given.
        folder: Where it looks for videos; empty for a file or a table.
        row_folders: In which folders videos of a table's rows are there; empty for any other input.
        source_ids: Of those sources of the listing that it gives.
    """

    given: str
    folder: str
    row_folders: frozenset[str]
    source_ids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class SourceListing:
    """What the inputs hold.

    Attributes:
        inputs: In the order in which they were given.
        sources: Sorted by uri, then by span.
        ignored: Paths, and rows of tables, that got no row, with the reason in brackets where it is not the extension; sorted.
        whole: All sources that the inputs hold, also those beyond a limit.
        present_ids: Of all sources whose files are there, also beyond a limit.
        elsewhere: For a source that a table's row could mean at other places too: which sources it would be there, by their ids,
            and where that is; also of sources beyond a limit.
    """

    inputs: tuple[GivenInput, ...]
    sources: tuple[Source, ...]
    ignored: tuple[str, ...]
    whole: InputSize
    present_ids: frozenset[str]
    elsewhere: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def vanished_sources(listing: SourceListing, known: Sequence[Source]) -> tuple[Source, ...]:
    """Known sources that lay in these inputs' folders, or beside or where rows of their tables could be, and no longer do.

    What lies elsewhere is left alone, and so is what a row meant before and no longer does, as long as its file is there.
    """
    there = listing.present_ids
    by_place, elsewhere = _ByPlace(listing.inputs, known), _elsewhere(listing, listing.elsewhere)
    of_inputs = (s for s in known if s.source_id in elsewhere or by_place.is_of_any_input(s))
    return gone_sources(listing, (s for s in of_inputs if s.source_id not in there))


def gone_sources(listing: SourceListing, known: Iterable[Source]) -> tuple[Source, ...]:
    """Those of known sources that are neither where they were last found nor where rows of the listing could be.

    One that may be in a place which cannot be asked, a bucket that does not answer, is not among them.
    """
    places, elsewhere = InputPlaces(), _elsewhere(listing, listing.elsewhere)
    return tuple(source for source in known if _is_gone(source, elsewhere, places))


def emptied_inputs(listing: SourceListing, known: Sequence[Source]) -> dict[str, int]:
    """Inputs of whose known sources not one is there any more, with the number of those.

    Args:
        listing: What the inputs hold now.
        known: Sources that were there when they were last looked for.
    """
    places, there, by_place = InputPlaces(), listing.present_ids, _ByPlace(listing.inputs, known)
    emptied = {}
    for given in listing.inputs:
        elsewhere = _elsewhere(listing, given.source_ids)
        of_input = by_place.of_input(given, {*given.source_ids, *elsewhere})
        unlisted = there.isdisjoint(source.source_id for source in of_input)
        if of_input and unlisted and all(_is_gone(source, elsewhere, places) for source in of_input):
            emptied[given.given] = len(of_input)
    return emptied


class _ByPlace:
    """Known sources by id, by the inputs' folders that they lie below, however deep, and by those of tables' rows that they lie in.

    A file that lies beside a video of a table's would be there if that one is: so it is gone if it is not.
    """

    def __init__(self, inputs: Sequence[GivenInput], known: Iterable[Source]) -> None:
        folders = {_bare(given.folder) for given in inputs if given.folder}
        row_folders = frozenset[str]().union(*(given.row_folders for given in inputs))
        self._by_id: dict[str, Source] = {}
        self._below: defaultdict[str, list[Source]] = defaultdict(list)
        self._beside: defaultdict[str, list[Source]] = defaultdict(list)
        for source in known:
            self._by_id[source.source_id] = source
            for folder in folders.intersection(_folders_above(source.location)):
                self._below[folder].append(source)
            if posixpath.dirname(source.location) in row_folders:
                self._beside[posixpath.dirname(source.location)].append(source)

    def is_of_any_input(self, source: Source) -> bool:
        """Whether it lies below an input's folder, or beside a video of a table's."""
        above = _folders_above(source.location)
        return posixpath.dirname(source.location) in self._beside or not self._below.keys().isdisjoint(above)

    def of_input(self, given: GivenInput, ids: Iterable[str]) -> list[Source]:
        """Those with some ids and those below the input's folder; where there are none, those beside its rows' videos."""
        by_id = {source_id: self._by_id[source_id] for source_id in ids if source_id in self._by_id}
        below = self._below.get(_bare(given.folder), ()) if given.folder else ()
        found = by_id | {source.source_id: source for source in below}
        beside = (source for folder in given.row_folders for source in self._beside.get(folder, ()))
        return list(found.values()) or list(beside)


def _bare(folder: str) -> str:
    return folder.rstrip("/")


def _folders_above(location: str) -> set[str]:
    parts = location.split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts))}


def _elsewhere(listing: SourceListing, source_ids: Iterable[str]) -> dict[str, str]:
    """Where the rows of some sources could be besides, by the ids of the sources that they would be there."""
    return {
        other: location for source_id in source_ids for other, location in listing.elsewhere.get(source_id, {}).items()
    }


def _is_gone(source: Source, elsewhere: Mapping[str, str], places: InputPlaces) -> bool:
    could_be = {elsewhere.get(source.source_id, source.location), source.location}
    return all(places.is_gone(location) for location in could_be)
