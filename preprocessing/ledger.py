"""What was seen, decided and done: append-only Parquet parts below ``ledger/``, one writer, safe to kill.

A part is ``ledger/<kind>-<number>.parquet``. Scanning a batch of sources writes four parts of one number, `sources`
last: until it is there, nobody sees the other three, and the next writer replaces them. Later parts win over earlier
ones, source by source, so that every source has exactly one current row.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing import plan_rows, rows
from preprocessing.input_files import InputPlaces
from preprocessing.parts import Parts
from preprocessing.reasons import Reason
from preprocessing.relations import ascending, last_of_each, only, texts
from preprocessing.samples import ShardRecord, Signals, Source, SourceScan, Thumbnail
from preprocessing.storage import Storage

_COVERS, _FINGERPRINT = b"longtake.covers", b"longtake.fingerprint"


class Ledger:
    """The ledger of one dataset."""

    def __init__(self, storage: Storage) -> None:
        """Read nothing yet."""
        self._parts = Parts(storage)
        self._records: dict[int, tuple[ShardRecord, ...]] = {}
        self._covers: dict[int, pa.Table] = {}
        self._by_id: tuple[int, dict[str, dict]] = (0, {})

    def _all(self, kind: str, schema: pa.Schema, source_ids: Collection[str] | None = None) -> pa.Table:
        """The rows of all parts of a kind, or those of some sources, with the number of the part in `part`."""
        table = self._parts.all(kind, schema)
        return table if source_ids is None else _only(table, source_ids)

    def _append(self, kind: str, table: pa.Table) -> None:
        self._parts.write(kind, self._parts.next(kind), table)

    # --- sources and what scanning them found ---

    def append_scans(self, scans: Sequence[SourceScan], fingerprint: str) -> None:
        """Commit what scanning found, all of it or nothing; the sources part is the commit.

        Args:
            scans: Of different sources.
            fingerprint: Of the settings and versions they were scanned with.
        """
        if not scans:
            return
        part = self._parts.next("sources")
        decoded = [scan for scan in scans if scan.ok]
        self._parts.write(
            "transitions", part, _table([r for s in scans for r in rows.transition_rows(s)], rows.TRANSITIONS)
        )
        self._parts.write("signals", part, _table([rows.signals_row(scan) for scan in decoded], rows.SIGNALS))
        self._parts.write("thumbs", part, _table([r for s in scans for r in rows.thumbnail_rows(s)], rows.THUMBS))
        found = [rows.source_row(scan, fingerprint=fingerprint, part=part) for scan in scans]
        self._parts.write("sources", part, _table(found, rows.SOURCES))

    def sources(self, source_ids: Collection[str] | None = None) -> pa.Table:
        """The current row of every source, or of some, by uri (schema `rows.SOURCES`)."""
        return self._current_sources(source_ids).select(rows.SOURCES.names)

    def _current_sources(self, source_ids: Collection[str] | None) -> pa.Table:
        """`sources`, with the number of the part that each row is from in `part`."""
        table = last_of_each(self._all("sources", rows.SOURCES, source_ids), "source_id")
        return table.sort_by(ascending("uri", "source_id"))

    def source_ids(self) -> set[str]:
        """Ids of all sources ever seen."""
        return set(texts(pc.unique(self._all("sources", rows.SOURCES)["source_id"])))

    def refuse_collisions(self, sources: Sequence[Source]) -> None:
        """Whether each source may be what its row speaks of.

        Raises:
            ValueError: If an unrelated file that still exists elsewhere has the same id.
        """
        known, places = self.rows_by_id(), InputPlaces()
        for source in sources:
            _refuse_collision(source, known.get(source.source_id), places)

    def pending_sources(self, sources: Sequence[Source], fingerprint: str) -> tuple[Source, ...]:
        """Those never scanned, changed since, counted at another rate, or scanned under other settings."""
        known = self.rows_by_id()
        return tuple(s for s in sources if _is_pending(s, known.get(s.source_id), fingerprint))

    def refresh_sources(self, sources: Sequence[Source], fingerprint: str) -> None:
        """Record new places, captions and the like of sources that need no new scan, and the return of missing ones."""
        known = self.rows_by_id()
        settled = [s for s in sources if not _is_pending(s, known.get(s.source_id), fingerprint)]
        changed = [s for s in settled if _differs(s, known[s.source_id])]
        if changed:
            scanned = self._scanned_rows({s.source_id: int(known[s.source_id]["scan_part"]) for s in changed})
            refreshed = [{**scanned[s.source_id], **rows.source_columns(s)} for s in changed]
            self._append("sources", _table(refreshed, rows.SOURCES))

    def append_missing(self, source_ids: Collection[str]) -> None:
        """Record that files which were there are no longer: `failed`, `missing`; what was measured is kept."""
        known = self.rows_by_id()
        gone = [known[i] for i in sorted(source_ids) if known[i]["reason"] != Reason.MISSING]
        failure = {"status": "failed", "reason": str(Reason.MISSING), "reasons": [str(Reason.MISSING)], "message": ""}
        if gone:
            self._append("sources", _table([{**row, **failure} for row in gone], rows.SOURCES))

    def append_groups(self, group_ids: Mapping[str, str]) -> None:
        """Record the groups of sources, by their ids; of those that have no row yet, and where nothing changed, nothing."""
        rows_now = self.rows_by_id()
        changed = [i for i in sorted(group_ids) if i in rows_now and rows_now[i]["group_id"] != group_ids[i]]
        if changed:
            self._append("sources", _table([{**rows_now[i], "group_id": group_ids[i]} for i in changed], rows.SOURCES))

    def rows_by_id(self) -> dict[str, dict]:
        """The current row of every source, by its id, with the number of its part in `part`; not to be changed."""
        state = len(self._parts.numbers("sources"))
        if self._by_id[0] != state:
            self._by_id = (state, {row["source_id"]: row for row in self._current_sources(None).to_pylist()})
        return self._by_id[1]

    def _scanned_rows(self, scan_parts: Mapping[str, int]) -> dict[str, dict]:
        table = self._all("sources", rows.SOURCES, scan_parts)
        scanned = table.filter(pc.field("part") == pc.field("scan_part")).select(rows.SOURCES.names)
        return {
            row["source_id"]: row for row in scanned.to_pylist() if scan_parts[row["source_id"]] == row["scan_part"]
        }

    def transitions(self) -> pa.Table:
        """The transitions of all sources that are `ok` (schema `rows.TRANSITIONS`), by source and frame."""
        found = _of_parts(self._all("transitions", rows.TRANSITIONS), self._scanned(None), "scan_part")
        return found.select(rows.TRANSITIONS.names).sort_by(ascending("source_id", "start_frame"))

    def signals(self, source_id: str) -> Signals:
        """What one source's scan measured over time.

        Raises:
            ValueError: If the source is not `ok`.
        """
        for scan in self.iterate_scans({source_id}):
            assert scan.signals is not None
            return scan.signals
        raise ValueError(f"source {source_id} has no signals: it failed, or was never scanned")

    def iterate_scans(self, source_ids: Collection[str] | None) -> Iterator[SourceScan]:
        """The scans of the sources that are `ok`, without thumbnails; all of them for None, one part in memory."""
        for part, scanned in self._scanned_parts(source_ids):
            yield from self._scans_of_part(part, scanned)

    def _scans_of_part(self, part: int, scanned: pa.Table) -> Iterator[SourceScan]:
        source_ids = texts(scanned["source_id"])
        by_id = {row["source_id"]: row for row in scanned.to_pylist()}
        found: dict[str, list] = {}
        for row in _only(self._parts.read("transitions", part), source_ids).to_pylist():
            found.setdefault(row["source_id"], []).append(rows.transition_from_row(row))
        signals = _only(self._parts.read("signals", part), source_ids)
        for source_id, measured in zip(texts(signals["source_id"]), rows.signals_of(signals), strict=True):
            transitions = tuple(sorted(found.get(source_id, []), key=lambda t: t.start_frame))
            yield rows.scan_from_row(by_id[source_id], transitions, measured)

    def thumbnails(self, source_id: str) -> tuple[Thumbnail, ...]:
        """The stored pictures of one source, in order; none if it is not `ok`."""
        return dict(self.iterate_thumbnails({source_id})).get(source_id, ())

    def iterate_thumbnails(self, source_ids: Collection[str]) -> Iterator[tuple[str, tuple[Thumbnail, ...]]]:
        """Id and stored pictures of those sources that are `ok`, one part in memory."""
        for part, scanned in self._scanned_parts(source_ids):
            wanted = sorted(texts(scanned["source_id"]))
            found: dict[str, list[Thumbnail]] = {source_id: [] for source_id in wanted}
            for row in _only(self._parts.read("thumbs", part), wanted).sort_by("frame").to_pylist():
                found[str(row["source_id"])].append(rows.thumbnail_from_row(row))
            yield from ((source_id, tuple(pictures)) for source_id, pictures in found.items())

    def _scanned(self, source_ids: Collection[str] | None) -> pa.Table:
        """`source_id` and `scan_part` of the sources that are `ok`."""
        columns = self._all("sources", rows.SOURCES, source_ids).select(["source_id", "status", "scan_part"])
        return last_of_each(columns, "source_id").filter(pc.field("status") == "ok").drop_columns(["status"])

    def scanned_otherwise(self, fingerprint: str) -> tuple[str, ...]:
        """Sources that are `ok`, and whose current scan was made under other settings."""
        columns = self._all("sources", rows.SOURCES).select(["source_id", "status", "fingerprint"])
        other = (pc.field("status") == "ok") & (pc.field("fingerprint") != fingerprint)
        return tuple(texts(last_of_each(columns, "source_id").filter(other)["source_id"]))

    def _scanned_parts(self, source_ids: Collection[str] | None) -> Iterator[tuple[int, pa.Table]]:
        """The parts in order, each with the rows of the sources that are `ok` and whose scan it holds."""
        scanned = self.sources(source_ids).filter(pc.field("status") == "ok").sort_by("scan_part")
        numbers = scanned["scan_part"].to_numpy()
        starts = [*(np.flatnonzero(np.diff(numbers, prepend=-1))).tolist(), len(numbers)]
        for start, end in pairwise(starts):
            yield int(numbers[start]), scanned.slice(start, end - start)

    # --- clips and what was decided about them ---

    def append_clips(self, clips: pa.Table, source_ids: Collection[str], *, fingerprint: str) -> None:
        """Replace what was decided about some sources.

        Args:
            clips: All candidates of these sources, decided (schema `rows.CLIPS`).
            source_ids: The sources; one without candidates has none from now on.
            fingerprint: Of the clip settings and thresholds.
        """
        scanned = self._scanned(source_ids)
        covers = dict(zip(texts(scanned["source_id"]), scanned["scan_part"].to_numpy().tolist(), strict=True))
        metadata = {_COVERS: json.dumps(covers, sort_keys=True).encode(), _FINGERPRINT: fingerprint.encode()}
        self._append("clips", clips.cast(rows.CLIPS).replace_schema_metadata(metadata))

    def clips(self, source_ids: Collection[str] | None = None) -> pa.Table:
        """The current row of every candidate of the sources that are `ok`, or of some (schema `rows.CLIPS`)."""
        found = _of_parts(self._all("clips", rows.CLIPS, source_ids), self._decided(source_ids), "part")
        return found.select(rows.CLIPS.names).sort_by(ascending("source_id", "shot_index", "clip_index"))

    def undecided_sources(self, fingerprint: str, source_ids: Collection[str] | None = None) -> tuple[str, ...]:
        """Sources, of all or of some, that are `ok` and whose current scan was not decided about under these settings."""
        decided = self._decided(source_ids).filter(pc.field("fingerprint") == fingerprint)
        return tuple(sorted(set(texts(self._scanned(source_ids)["source_id"])) - set(texts(decided["source_id"]))))

    def _decided(self, source_ids: Collection[str] | None) -> pa.Table:
        """`source_id`, and the `part` and `fingerprint` that hold for each source's current scan."""
        self._parts.all("clips", rows.CLIPS)
        for part, metadata in self._parts.metadata("clips").items():
            if part not in self._covers:
                self._covers[part] = _covers_table(part, metadata)
        covers = pa.concat_tables([_COVERED.empty_table(), *(self._covers[part] for part in sorted(self._covers))])
        covers = covers if source_ids is None else _only(covers, source_ids)
        return last_of_each(_of_parts(covers, self._scanned(source_ids), "scan_part"), "source_id")

    # --- the plan and what was encoded ---

    def append_plan(self, shards: pa.Table) -> None:
        """Add shards to the plan (schema `plan_rows.PLAN`), all of them or none, before the first of them is encoded."""
        if shards.num_rows:
            self._append("plan", shards)

    def plan(self, source_ids: Collection[str] | None = None) -> pa.Table:
        """All clips, or those of some sources, of all shards ever planned and not removed, in order (`plan_rows.PLAN`)."""
        planned = self._all("plan", plan_rows.PLAN, source_ids)
        removed = self._removed()
        if removed.num_rows:
            at = pc.index_in(plan_rows.shard_keys(planned), value_set=removed["key"].combine_chunks())
            first = pc.fill_null(removed["plan_parts"].take(at), pa.scalar(0))
            planned = planned.filter(pc.greater_equal(planned["part"], first))
        return planned.select(plan_rows.PLAN.names)

    def append_captions(self, captions: pa.Table) -> None:
        """Commit what a model said of clips (schema `plan_rows.CAPTIONS`)."""
        if captions.num_rows:
            self._append("captions", captions)

    def captions(self) -> pa.Table:
        """All that models ever said of clips, in the order of the commits (schema `plan_rows.CAPTIONS`)."""
        return self._all("captions", plan_rows.CAPTIONS).select(plan_rows.CAPTIONS.names)

    def append_encodes(self, records: Sequence[ShardRecord]) -> None:
        """Commit written shards."""
        if records:
            self._append("encodes", _table(list(map(rows.encode_row, records)), rows.ENCODES))

    def encodes(self) -> tuple[ShardRecord, ...]:
        """The shards that were written and not removed, one record a key, in the order of their commits."""
        forgotten = self._removed()
        removed = dict(zip(texts(forgotten["key"]), forgotten["encodes_parts"].to_numpy().tolist(), strict=True))
        found: dict[str, ShardRecord] = {}
        for part in self._parts.numbers("encodes"):
            for record in self._records_of(part):
                if part >= removed.get(record.key, 0):
                    found[record.key] = record
        return tuple(found.values())

    def _records_of(self, part: int) -> tuple[ShardRecord, ...]:
        if part not in self._records:
            self._records[part] = tuple(map(rows.record_from_row, self._parts.read("encodes", part).to_pylist()))
        return self._records[part]

    def append_removed(self, keys: Sequence[str]) -> None:
        """Forget encoded shards whose files are about to be removed; their clips may be planned again."""
        bounds = {f"{kind}_parts": self._parts.next(kind) for kind in ("plan", "encodes")}
        if keys:
            self._append("removed", _table([{"key": key, **bounds} for key in keys], rows.REMOVED))

    def _removed(self) -> pa.Table:
        """For each removed shard, the first parts that may speak of it again."""
        return last_of_each(self._all("removed", rows.REMOVED), "key")


_COVERED = pa.schema(
    [("source_id", pa.string()), ("scan_part", pa.int64()), ("part", pa.int64()), ("fingerprint", pa.string())]
)


def _covers_table(part: int, metadata: Mapping[bytes, bytes]) -> pa.Table:
    """Which scans of which sources a part of the clips decided about, and under which settings."""
    covers = json.loads(metadata[_COVERS])
    settings = metadata[_FINGERPRINT].decode()
    found = [
        {"source_id": source_id, "scan_part": scan_part, "part": part, "fingerprint": settings}
        for source_id, scan_part in covers.items()
    ]
    return _table(found, _COVERED)


def _of_parts(table: pa.Table, current: pa.Table, column: str) -> pa.Table:
    """The rows of those sources and parts that are current: of which part each row is says `column`, or else `part`."""
    at = pc.index_in(table["source_id"], value_set=current["source_id"].combine_chunks())
    own = table[column] if column in table.column_names else table["part"]
    return table.filter(pc.equal(own, current[column].take(at)))


def _table(found: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(found), schema=schema)


def _only(table: pa.Table, source_ids: Collection[str]) -> pa.Table:
    return only(table, "source_id", pa.array(source_ids, pa.string()))


def _is_pending(source: Source, row: Mapping | None, fingerprint: str) -> bool:
    if row is None or row["fingerprint"] != fingerprint or row["reason"] == Reason.UNREACHABLE:
        return True
    if row["table_fps"] != (source.span.table_fps if source.span else None):
        return True
    return not (row["content_id"] == source.content_id or has_content(row, source))


def has_content(row: Mapping, source: Source) -> bool:
    """Whether a file that was touched, moved or copied has the bytes that its row speaks of."""
    return bool(source.sha256) and row["sha256"] == source.sha256


def _differs(source: Source, row: Mapping) -> bool:
    columns = rows.source_columns(source)
    return row["reason"] == Reason.MISSING or any(row[name] != value for name, value in columns.items())


def _refuse_collision(source: Source, row: Mapping | None, places: InputPlaces) -> None:
    if row is None or row["location"] == source.location or row["content_id"] == source.content_id:
        return
    if not has_content(row, source) and places.is_there(row["location"]):
        raise ValueError(
            f"{source.location} and {row['location']} would both be {source.uri} in this dataset, but differ: "
            "give a folder above both as the input, or rename one of their folders"
        )
