"""What of a listing has to be scanned; the rest gets its row at once: what is absent, what vanished, and what is there twice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from preprocessing.config import SourcesConfig
from preprocessing.dataset import RECORD_KEY, Dataset
from preprocessing.duplicates import duplicates, unread_sources, with_hashes, with_known_hashes
from preprocessing.groups import shared_groups
from preprocessing.input_files import ABSENT
from preprocessing.ledger import Ledger
from preprocessing.listing import SourceListing, emptied_inputs, gone_sources, vanished_sources
from preprocessing.reasons import Reason
from preprocessing.rows import source_from_row
from preprocessing.samples import Source
from preprocessing.scan import failed_scan
from preprocessing.sources import find_sources
from preprocessing.storage import open_storage

ReadHashes = Callable[[Sequence[Source]], Mapping[str, str]]
"""SHA-256 by location, of files that nobody read yet; those that cannot be read are left out."""


def inputs_of(
    dataset_uri: str, inputs: Sequence[str], config: SourcesConfig, *, limit: int | None, accept_missing: bool
) -> SourceListing:
    """What the inputs of a dataset, which may not be there yet, hold; nothing is written.

    Raises:
        ValueError: As `find_sources`; or if not one of the sources that the dataset knows of an input is there any more, and
            this is not said to be meant.
    """
    listing = find_sources(inputs, config, limit=limit)
    if not accept_missing and open_storage(dataset_uri).exists(RECORD_KEY):
        _refuse_emptied_inputs(Dataset.open(dataset_uri).ledger, listing)
    return listing


def _refuse_emptied_inputs(ledger: Ledger, listing: SourceListing) -> None:
    """A disk that is not mounted looks like an input whose videos are all gone: nothing is taken from such a one."""
    known = [source_from_row(row) for row in ledger.rows_by_id().values() if row["reason"] != Reason.MISSING]
    emptied = emptied_inputs(listing, known)
    if emptied:
        said = [
            f"{given} has none of the {number} sources that the dataset knows of it"
            for given, number in emptied.items()
        ]
        raise ValueError(
            f"{'; '.join(said)}: is a disk not mounted? Bring them back, or give --accept-missing: "
            "they become missing, and the next version is without them"
        )


class Intake:
    """Takes listings into a ledger, under one set of scan settings."""

    def __init__(self, ledger: Ledger, settings_fingerprint: str, read_hashes: ReadHashes) -> None:
        """Nothing taken yet."""
        self._ledger, self._settings, self._read_hashes = ledger, settings_fingerprint, read_hashes

    def take(self, listing: SourceListing, *, complete: bool, retry_failed: bool) -> dict[str, Source]:
        """The sources that have to be scanned, by id; of a listing that is refused, nothing is written.

        Args:
            listing: What the inputs hold.
            complete: No limit cut it: what was in the inputs and is not in the listing has vanished.
            retry_failed: Scan sources that failed once more.

        Raises:
            ValueError: If an unrelated file that still exists elsewhere has the same id.
        """
        present = self._with_hashes([source for source in listing.sources if source.content_id != ABSENT])
        self._ledger.refuse_collisions(present)
        if complete:
            self._record_vanished(listing)
        self._record_absent(listing)
        present = self._with_groups(self._with_words_of_tables(present))
        pending = {source.source_id for source in self._ledger.pending_sources(present, self._settings)}
        double = self._record_duplicates(present)
        self._ledger.refresh_sources(present, self._settings)
        for source_id, row in self._ledger.rows_by_id().items():
            if row["reason"] == Reason.DUPLICATE or (retry_failed and row["status"] == "failed"):
                pending.add(source_id)
        return {source.source_id: source for source in present if source.source_id in pending - double}

    def _with_hashes(self, present: Sequence[Source]) -> tuple[Source, ...]:
        """Gives them with the hashes that are known or, where these are needed, read now."""
        known = self._ledger.rows_by_id()
        found = with_known_hashes(present, known)
        unread = unread_sources(found, known)
        return with_hashes(found, self._read_hashes(unread)) if unread else found

    def _record_vanished(self, listing: SourceListing) -> None:
        """Sources that lay in these inputs' folders, or where rows of their tables could be, and no longer do, are `missing`."""
        known = [source_from_row(row) for row in self._ledger.rows_by_id().values()]
        self._ledger.append_missing([source.source_id for source in vanished_sources(listing, known)])

    def _record_absent(self, listing: SourceListing) -> None:
        """A row of a table whose file is nowhere is missing where it was; one whose file is still there, in other inputs, is not."""
        known = self._ledger.rows_by_id()
        absent = [source for source in listing.sources if source.content_id == ABSENT]
        could_be = [(source.source_id, *listing.elsewhere.get(source.source_id, ())) for source in absent]
        before = [source_from_row(known[source_id]) for ids in could_be for source_id in ids if source_id in known]
        self._ledger.append_missing({source.source_id for source in gone_sources(listing, before)})
        unknown = [source for source, ids in zip(absent, could_be, strict=True) if known.keys().isdisjoint(ids)]
        scans = [failed_scan(source, Reason.MISSING, "there is no such file") for source in unknown]
        self._ledger.append_scans(scans, self._settings)

    def _with_words_of_tables(self, present: Sequence[Source]) -> tuple[Source, ...]:
        """Gives them with what a table once said of those that none names now: a folder says nothing, and unsays nothing."""
        known = self._ledger.rows_by_id()
        said = {s.source_id: source_from_row(known[s.source_id]) for s in present if s.source_id in known}
        return tuple(_as_said(source, said.get(source.source_id)) for source in present)

    def _with_groups(self, listed: Sequence[Source]) -> tuple[Source, ...]:
        """Gives them in the groups that they share with others, and records these."""
        groups = shared_groups(listed, self._ledger.rows_by_id())
        self._ledger.append_groups(groups)
        return tuple(replace(source, group_id=groups[source.source_id]) for source in listed)

    def _record_duplicates(self, listed: Sequence[Source]) -> set[str]:
        """Gives the ids of those that have the content of another one; their rows name it."""
        known = self._ledger.rows_by_id()
        found = duplicates(listed, known)
        told = {
            (source_id, row["message"])
            for source_id, row in known.items()
            if row["reason"] == Reason.DUPLICATE and row["fingerprint"] == self._settings
        }
        scans = [
            failed_scan(source, Reason.DUPLICATE, f"the same content as {found[source.source_id].name}")
            for source in listed
            if source.source_id in found
        ]
        self._ledger.append_scans([s for s in scans if (s.source.source_id, s.message) not in told], self._settings)
        return set(found)


def _has_words_of_a_table(before: Source, now: Source) -> bool:
    """Earlier versions did not record it: words that no file beside the video accounts for are then taken for a table's."""
    caption_of_table = before.caption and not (before.caption_beside or now.caption_beside)
    return before.from_table or bool(before.licence or before.extra or caption_of_table)


def _as_said(source: Source, before: Source | None) -> Source:
    if before is None or source.from_table or not _has_words_of_a_table(before, source):
        return source
    caption = source.caption if source.caption_beside or before.caption_beside else before.caption
    return replace(source, caption=caption, licence=before.licence, extra=before.extra, from_table=True)
