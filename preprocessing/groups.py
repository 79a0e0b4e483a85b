"""Which sources come from one original video: splits never separate them. Pure.

Sources of equal content, and spans of one file, have one group: that which a table names for one of them, else the one that the
dataset has this content under, or had last before its files vanished, else that of the first file by uri. So a copy that comes
later joins what is published, and moves nothing, whatever it is called, and a file that was renamed stays where it was. Each of
several groups that tables name for parts of one content stays what it is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from preprocessing.duplicates import present_sources, rank
from preprocessing.ledger import has_content
from preprocessing.reasons import Reason
from preprocessing.rows import source_from_row
from preprocessing.samples import Source
from preprocessing.sources import file_group


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A source among those of its content.

    Attributes:
        named: The group that an input names now, empty if none does.
        had: The group in its row, empty if it has none.
        of_file: Its group where nobody names one.
        is_new: The dataset has no row of it that speaks of this content.
        rank: Of what is there as `duplicates.rank`, but a known copy comes before what is new: the content was published under its
            group. What vanished comes before both, the last to do so first.
    """

    source_id: str
    named: str
    had: str
    of_file: str
    is_new: bool
    rank: tuple[bool, bool, int, str, str]


def shared_groups(listed: Sequence[Source], known: Mapping[str, Mapping]) -> dict[str, str]:
    """The group of every source that is there, and of vanished ones whose group new files of their content share, by source id.

    Args:
        listed: What the inputs hold, with the hashes that are known.
        known: Rows of the sources table as `Ledger.rows_by_id` gives them; other sources are found there.
    """
    present = present_sources(listed, known)
    of_files = {file_group(uri) for uri in (*(s.uri for s in present), *(row["uri"] for row in known.values()))}
    named = {source.source_id: source.group_id for source in listed if source.group_id not in of_files}
    contents: dict[str, list[_Member]] = {}
    for source, content in zip(present, _contents(present), strict=True):
        contents.setdefault(content, []).append(_member(source, named.get(source.source_id, ""), known))
    vanished = _vanished(listed, known)
    for content, alike in contents.items():
        if all(member.is_new for member in alike):
            alike += vanished.get(content, [])
    return {source_id: group for alike in contents.values() for source_id, group in _shared(alike, of_files).items()}


def _contents(sources: Sequence[Source]) -> list[str]:
    """What tells the content of each source: its hash, or that of another span of the file, or the place of the file."""
    hashes = {(source.location, source.content_id): source.sha256 for source in sources if source.sha256}
    return [s.sha256 or hashes.get((s.location, s.content_id), s.location) for s in sources]


def _vanished(listed: Sequence[Source], known: Mapping[str, Mapping]) -> dict[str, list[_Member]]:
    """What is known of files that are gone, by the hash of their content."""
    ids = {source.source_id for source in listed}
    found: dict[str, list[_Member]] = {}
    for source_id, row in known.items():
        if row["reason"] == Reason.MISSING and row["sha256"] and source_id not in ids:
            member = _member(source_from_row(row), "", known)
            found.setdefault(row["sha256"], []).append(
                replace(member, rank=(False, False, -row["part"], *member.rank[3:]))
            )
    return found


def _member(source: Source, named: str, known: Mapping[str, Mapping]) -> _Member:
    row = known.get(source.source_id)
    is_new = row is None or not has_content(row, source)
    return _Member(
        source_id=source.source_id,
        named=named,
        had=row["group_id"] if row else "",
        of_file=file_group(source.uri),
        is_new=is_new,
        rank=(rank(source, known)[0], is_new, 0, source.uri, source.source_id),
    )


def _shared(alike: Sequence[_Member], of_files: Collection[str]) -> dict[str, str]:
    """The groups of the sources of one content, by source id; one that took its group over from another follows it."""
    renamed = {member.had: member.named for member in alike if member.had and member.named}
    own = {m.source_id: m.named or renamed.get(m.had, m.had) or m.of_file for m in alike}
    first = min(alike, key=lambda member: (own[member.source_id] in of_files, member.rank))
    return {i: own[first.source_id] if group in of_files else group for i, group in own.items()}
