"""What was seen, decided and done: append-only Parquet parts below ``ledger/``, one writer, safe to kill.

A part is ``ledger/<kind>-<number>.parquet``. Scanning a batch of sources writes four parts of one number, `sources`
last: until it is there, nobody sees the other three, and the next writer replaces them. Later parts win over earlier
ones, source by source, so that every source has exactly one current row.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from preprocessing import plan_rows, rows
from preprocessing.input_files import ABSENT, input_files
from preprocessing.reasons import Reason
from preprocessing.relations import ascending, last_of_each, only
from preprocessing.samples import ShardRecord, Signals, Source, SourceScan, Thumbnail
from preprocessing.storage import Storage, read_parquet, write_parquet

_COVERS, _FINGERPRINT = b"longtake.covers", b"longtake.fingerprint"


class Ledger:
    """The ledger of one dataset."""

    def __init__(self, storage: Storage) -> None:
        """Read nothing yet."""
        self._storage = storage
        self._tables: dict[str, pa.Table] = {}
        self._records: dict[int, tuple[ShardRecord, ...]] = {}

    # --- parts ---

    def _parts(self, kind: str) -> tuple[int, ...]:
        names = (key.removeprefix("ledger/") for key in self._storage.list("ledger"))
        return tuple(int(name.split("-")[1].split(".")[0]) for name in names if name.startswith(f"{kind}-"))

    def _next(self, kind: str) -> int:
        return max(self._parts(kind), default=-1) + 1

    def _write(self, kind: str, part: int, table: pa.Table) -> None:
        write_parquet(self._storage, part_key(kind, part), table)

    def _read(self, kind: str, part: int) -> pa.Table:
        """A committed part; those never change, and the small ones are read once."""
        key = part_key(kind, part)
        if kind in ("signals", "thumbs"):
            return read_parquet(self._storage, key)
        if key not in self._tables:
            self._tables[key] = read_parquet(self._storage, key)
        return self._tables[key]

    def _read_all(self, kind: str, schema: pa.Schema) -> pa.Table:
        return pa.concat_tables([schema.empty_table(), *(self._read(kind, part) for part in self._parts(kind))])

    # --- sources and what scanning them found ---

    def append_scans(self, scans: Sequence[SourceScan], fingerprint: str) -> None:
        """Commit what scanning found, all of it or nothing; the sources part is the commit.

        Args:
            scans: Of different sources.
            fingerprint: Of the settings and versions they were scanned with.
        """
        if not scans:
            return
        part = self._next("sources")
        decoded = [scan for scan in scans if scan.ok]
        self._write("transitions", part, _table([r for s in scans for r in rows.transition_rows(s)], rows.TRANSITIONS))
        self._write("signals", part, _table([rows.signals_row(scan) for scan in decoded], rows.SIGNALS))
        self._write("thumbs", part, _table([r for s in scans for r in rows.thumbnail_rows(s)], rows.THUMBS))
        found = [rows.source_row(scan, fingerprint=fingerprint, part=part) for scan in scans]
        self._write("sources", part, _table(found, rows.SOURCES))

    def sources(self) -> pa.Table:
        """The current row of every source, by uri (schema `rows.SOURCES`)."""
        return last_of_each(self._read_all("sources", rows.SOURCES), "source_id").sort_by(ascending("uri", "source_id"))

    def pending_sources(self, sources: Sequence[Source], fingerprint: str) -> tuple[Source, ...]:
        """Those never scanned, changed since, or scanned under other settings.

        Raises:
            ValueError: If an unrelated file that still exists elsewhere has the same id.
        """
        known = self.rows_by_id()
        for source in sources:
            _refuse_collision(source, known.get(source.source_id))
        return tuple(s for s in sources if _is_pending(s, known.get(s.source_id), fingerprint))

    def refresh_sources(self, sources: Sequence[Source], fingerprint: str) -> None:
        """Record new places, captions and the like of sources that need no new scan, and the return of missing ones."""
        known, part = self.rows_by_id(), self._next("sources")
        settled = [s for s in sources if not _is_pending(s, known.get(s.source_id), fingerprint)]
        changed = [s for s in settled if _differs(s, known[s.source_id])]
        if changed:
            scanned = self._scanned_rows({s.source_id: int(known[s.source_id]["scan_part"]) for s in changed})
            refreshed = [{**scanned[s.source_id], **rows.source_columns(s)} for s in changed]
            self._write("sources", part, _table(refreshed, rows.SOURCES))

    def append_missing(self, source_ids: Collection[str]) -> None:
        """Record that files which were there are no longer: `failed`, `missing`; what was measured is kept."""
        known = self.rows_by_id()
        gone = [known[i] for i in sorted(source_ids) if known[i]["reason"] != Reason.MISSING]
        failure = {"status": "failed", "reason": str(Reason.MISSING), "reasons": [str(Reason.MISSING)], "message": ""}
        if gone:
            self._write("sources", self._next("sources"), _table([{**row, **failure} for row in gone], rows.SOURCES))

    def rows_by_id(self) -> dict[str, dict]:
        """The current row of every source, by its id."""
        return {row["source_id"]: row for row in self.sources().to_pylist()}

    def _scanned_rows(self, scan_parts: Mapping[str, int]) -> dict[str, dict]:
        found: dict[str, dict] = {}
        for part in sorted(set(scan_parts.values())):
            for row in self._read("sources", part).to_pylist():
                source_id = str(row["source_id"])
                if scan_parts.get(source_id) == part:
                    found[source_id] = row
        return found

    def transitions(self) -> pa.Table:
        """The transitions of all sources that are `ok` (schema `rows.TRANSITIONS`), by source and frame."""
        parts = [
            _only(self._read("transitions", part), source_ids) for part, source_ids in self._current_parts().items()
        ]
        table = pa.concat_tables([rows.TRANSITIONS.empty_table(), *parts])
        return table.sort_by(ascending("source_id", "start_frame"))

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
        by_id = self.rows_by_id()
        for part, current in self._current_parts().items():
            wanted = current if source_ids is None else current & set(source_ids)
            if wanted:
                yield from self._scans_of_part(part, wanted, by_id)

    def _scans_of_part(self, part: int, wanted: set[str], by_id: Mapping[str, dict]) -> Iterator[SourceScan]:
        found: dict[str, list] = {}
        for row in _only(self._read("transitions", part), wanted).to_pylist():
            found.setdefault(row["source_id"], []).append(rows.transition_from_row(row))
        signals = _only(self._read("signals", part), wanted)
        for i, source_id in enumerate(map(str, signals["source_id"].to_pylist())):
            transitions = tuple(sorted(found.get(source_id, []), key=lambda t: t.start_frame))
            yield rows.scan_from_row(by_id[source_id], transitions, rows.signals_at(signals, i))

    def thumbnails(self, source_id: str) -> tuple[Thumbnail, ...]:
        """The stored pictures of one source, in order; none if it is not `ok`."""
        return dict(self.iterate_thumbnails({source_id})).get(source_id, ())

    def iterate_thumbnails(self, source_ids: Collection[str]) -> Iterator[tuple[str, tuple[Thumbnail, ...]]]:
        """Id and stored pictures of those sources that are `ok`, one part in memory."""
        for part, current in self._current_parts().items():
            wanted = current & set(source_ids)
            found: dict[str, list[Thumbnail]] = {source_id: [] for source_id in sorted(wanted)}
            table = _only(self._read("thumbs", part), wanted) if wanted else rows.THUMBS.empty_table()
            for row in table.sort_by("frame").to_pylist():
                found[str(row["source_id"])].append(rows.thumbnail_from_row(row))
            yield from ((source_id, tuple(pictures)) for source_id, pictures in found.items())

    def _current_parts(self) -> dict[int, set[str]]:
        """Which sources' scans each part holds, of those that are current and `ok`."""
        table = self.sources()
        parts: dict[int, set[str]] = {}
        columns = (table[name].to_pylist() for name in ("source_id", "status", "scan_part"))
        for source_id, status, part in zip(*columns, strict=True):
            if status == "ok":
                parts.setdefault(part, set()).add(source_id)
        return dict(sorted(parts.items()))

    # --- clips and what was decided about them ---

    def append_clips(self, clips: pa.Table, source_ids: Collection[str], *, fingerprint: str) -> None:
        """Replace what was decided about some sources.

        Args:
            clips: All candidates of these sources, decided (schema `rows.CLIPS`).
            source_ids: The sources; one without candidates has none from now on.
            fingerprint: Of the clip settings and thresholds.
        """
        current = self._scan_parts()
        covers = {source_id: current[source_id] for source_id in sorted(source_ids)}
        metadata = {_COVERS: json.dumps(covers).encode(), _FINGERPRINT: fingerprint.encode()}
        self._write("clips", self._next("clips"), clips.cast(rows.CLIPS).replace_schema_metadata(metadata))

    def clips(self) -> pa.Table:
        """The current row of every candidate of the sources that are `ok` (schema `rows.CLIPS`)."""
        deciding: dict[int, set[str]] = {}
        for source_id, (part, _) in self._decided().items():
            deciding.setdefault(part, set()).add(source_id)
        parts = [
            _only(self._read("clips", part), source_ids).replace_schema_metadata()
            for part, source_ids in sorted(deciding.items())
        ]
        table = pa.concat_tables([rows.CLIPS.empty_table(), *parts])
        return table.sort_by(ascending("source_id", "shot_index", "clip_index"))

    def undecided_sources(self, fingerprint: str) -> tuple[str, ...]:
        """Sources that are `ok` and whose current scan was not decided about under these settings."""
        decided = {source_id for source_id, (_, settings) in self._decided().items() if settings == fingerprint}
        return tuple(sorted(set(self._scan_parts()) - decided))

    def _decided(self) -> dict[str, tuple[int, str]]:
        """The part and the fingerprint that hold for each source's current scan."""
        current, decided = self._scan_parts(), {}
        for part in self._parts("clips"):
            metadata = self._read("clips", part).schema.metadata
            for source_id, scan_part in json.loads(metadata[_COVERS]).items():
                if current.get(source_id) == scan_part:
                    decided[source_id] = (part, metadata[_FINGERPRINT].decode())
        return decided

    def _scan_parts(self) -> dict[str, int]:
        return {source_id: part for part, source_ids in self._current_parts().items() for source_id in source_ids}

    # --- the plan and what was encoded ---

    def append_plan(self, shards: pa.Table) -> None:
        """Add shards to the plan (schema `plan_rows.PLAN`), all of them or none, before the first of them is encoded."""
        if shards.num_rows:
            self._write("plan", self._next("plan"), shards)

    def plan(self) -> pa.Table:
        """All clips of all shards ever planned and not removed, in order (schema `plan_rows.PLAN`)."""
        removed = self._removed("plan_parts")
        parts = [self._planned(part, removed) for part in self._parts("plan")]
        return pa.concat_tables([plan_rows.PLAN.empty_table(), *parts])

    def _planned(self, part: int, removed: Mapping[str, int]) -> pa.Table:
        """A part of the plan without the shards that were removed after it was written."""
        planned = self._read("plan", part)
        forgotten = pa.array([key for key, first in removed.items() if part < first], pa.string())
        if not len(forgotten):
            return planned
        return planned.filter(pc.invert(pc.is_in(plan_rows.shard_keys(planned), value_set=forgotten)))

    def append_captions(self, captions: pa.Table) -> None:
        """Commit what a model said of clips (schema `plan_rows.CAPTIONS`)."""
        if captions.num_rows:
            self._write("captions", self._next("captions"), captions)

    def captions(self) -> pa.Table:
        """All that models ever said of clips, in the order of the commits (schema `plan_rows.CAPTIONS`)."""
        return self._read_all("captions", plan_rows.CAPTIONS)

    def append_encodes(self, records: Sequence[ShardRecord]) -> None:
        """Commit written shards."""
        if records:
            self._write("encodes", self._next("encodes"), _table(list(map(rows.encode_row, records)), rows.ENCODES))

    def encodes(self) -> tuple[ShardRecord, ...]:
        """The shards that were written and not removed, one record a key, in the order of their commits."""
        removed = self._removed("encodes_parts")
        found: dict[str, ShardRecord] = {}
        for part in self._parts("encodes"):
            for record in self._records_of(part):
                if part >= removed.get(record.key, 0):
                    found[record.key] = record
        return tuple(found.values())

    def _records_of(self, part: int) -> tuple[ShardRecord, ...]:
        if part not in self._records:
            self._records[part] = tuple(map(rows.record_from_row, self._read("encodes", part).to_pylist()))
        return self._records[part]

    def append_removed(self, keys: Sequence[str]) -> None:
        """Forget encoded shards whose files are about to be removed; their clips may be planned again."""
        bounds = {"plan_parts": self._next("plan"), "encodes_parts": self._next("encodes")}
        if keys:
            self._write("removed", self._next("removed"), _table([{"key": k, **bounds} for k in keys], rows.REMOVED))

    def _removed(self, column: str) -> dict[str, int]:
        """The first part that may speak of each removed shard."""
        table = self._read_all("removed", rows.REMOVED)
        return {str(row["key"]): int(row[column]) for row in table.to_pylist()}


def part_key(kind: str, part: int) -> str:
    """Where a part lies in the dataset."""
    return f"ledger/{kind}-{part:08d}.parquet"


def _table(found: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(found), schema=schema)


def _only(table: pa.Table, source_ids: Collection[str]) -> pa.Table:
    return only(table, "source_id", pa.array(source_ids, pa.string()))


def _is_pending(source: Source, row: Mapping | None, fingerprint: str) -> bool:
    if row is None or row["fingerprint"] != fingerprint or row["reason"] == Reason.UNREACHABLE:
        return True
    return not (row["content_id"] == source.content_id or has_content(row, source))


def has_content(row: Mapping, source: Source) -> bool:
    """Whether a file that was touched, moved or copied has the bytes that its row speaks of."""
    return bool(source.sha256) and row["sha256"] == source.sha256


def _differs(source: Source, row: Mapping) -> bool:
    columns = rows.source_columns(source)
    return row["reason"] == Reason.MISSING or any(row[name] != value for name, value in columns.items())


def _refuse_collision(source: Source, row: Mapping | None) -> None:
    if row is None or row["location"] == source.location or row["content_id"] == source.content_id:
        return
    if not has_content(row, source) and input_files(row["location"]).facts(row["location"]).content_id != ABSENT:
        raise ValueError(
            f"{source.location} and {row['location']} would both be {source.uri} in this dataset, but differ: "
            "give a folder above both as the input, or rename one of their folders"
        )
