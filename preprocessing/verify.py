"""Whether a dataset is what its tables say, and what of it nobody needs any more."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from preprocessing import plan_rows, rows
from preprocessing.dataset import MANIFEST, Dataset, manifest_key
from preprocessing.parts import ADDED, with_added
from preprocessing.pins import pins
from preprocessing.relations import texts
from preprocessing.rows import LIBRARIES, source_from_row
from preprocessing.samples import IndexRow, ShardRecord
from preprocessing.shards import INDEX_SCHEMA, SCRATCH, file_key, index_key, read_index, tar_key
from preprocessing.storage import Storage, iterate_chunks, read_parquet

CHUNK_BYTES = 8 << 20


def verify(dataset: Dataset) -> tuple[str, ...]:
    """Everything that is off, one line each; nothing if the dataset is sound.

    Checks the schema of every table, every byte of every shard against the ledger and its index, that sources, plan and encodes
    add up, that all samples of all versions are where they should be, and that the current version has no group in two splits.
    """
    broken = tuple(_check_ledger_schemas(dataset.storage))
    if broken:
        return (*broken, "the ledger cannot be trusted, so shards and versions were not checked")
    checks = (_check_sources, _check_plan, _check_shards, _check_manifests)
    return tuple(problem for check in checks for problem in check(dataset))


def remarks(dataset: Dataset) -> tuple[str, ...]:
    """What is worth knowing of a dataset, sound or not, one line each: no command has to mend it.

    So far: whether different versions of a library measured the sources that are `ok`, and which older versions have groups
    in two splits. What cannot be read is left to `verify`.
    """
    return (*_mixed_libraries(dataset), *_older_groups(dataset))


def _mixed_libraries(dataset: Dataset) -> Iterator[str]:
    parts = [key for key in dataset.storage.list("ledger") if _kind(key) == "sources"]
    if any(problem for key in parts for problem in _check_part(dataset.storage, key)):
        return
    measured = dataset.ledger.sources().filter(pc.field("status") == "ok")
    versions = [json.loads(text) for text in texts(measured["versions"])]
    for name in LIBRARIES:
        found = Counter(of_source.get(name) or "none" for of_source in versions)
        if len(found) > 1:
            said = ", ".join(f"{number} with {version}" for version, number in sorted(found.items()))
            yield f"sources were measured with different versions of {name}: {said}"


def _older_groups(dataset: Dataset) -> Iterator[str]:
    current = dataset.record().manifest
    for name in dataset.manifests():
        table = None if name == current else _version(dataset, name)
        split = [] if table is None else [*_groups_in_several_splits(table)]
        if split:
            yield (
                f"{manifest_key(name)}: {len(split)} groups of this older version stand in more than one split "
                f"({split[0]}{', ...' if len(split) > 1 else ''}); longtake gc removes it once it is neither kept nor pinned"
            )


def _version(dataset: Dataset, name: str) -> pa.Table | None:
    """The rows of a version that is sound in itself."""
    try:
        table = dataset.load_manifest(name).table
    except (OSError, ValueError):
        return None
    return table if table.schema.equals(MANIFEST) else None


_SCHEMAS: Mapping[str, pa.Schema] = {
    "sources": rows.SOURCES,
    "transitions": rows.TRANSITIONS,
    "signals": rows.SIGNALS,
    "thumbs": rows.THUMBS,
    "clips": rows.CLIPS,
    "captions": plan_rows.CAPTIONS,
    "plan": plan_rows.PLAN,
    "encodes": rows.ENCODES,
    "removed": rows.REMOVED,
}


def _check_ledger_schemas(storage: Storage) -> Iterator[str]:
    for key in storage.list("ledger"):
        if _kind(key) not in _SCHEMAS:
            yield f"{key}: no table of this name belongs into a ledger"
        else:
            yield from _check_part(storage, key)


def _check_part(storage: Storage, key: str) -> Iterator[str]:
    kind = _kind(key)
    return _check_table(storage, key, _SCHEMAS[kind], added=ADDED.get(kind, ()))


def _kind(key: str) -> str:
    return key.removeprefix("ledger/").partition("-")[0]


def _check_table(storage: Storage, key: str, schema: pa.Schema, added: Collection[str] = ()) -> Iterator[str]:
    try:
        found = _with_all_scores(with_added(read_parquet(storage, key), schema, added).schema)
    except (OSError, ValueError) as error:
        yield f"{key}: cannot be read: {error}"
        return
    if not found.equals(schema, check_metadata=False):
        yield f"{key}: has other columns than this version writes"


def _with_all_scores(found: pa.Schema) -> pa.Schema:
    """A schema as the ledger reads it: a score that an earlier version did not know is null."""
    at = found.get_field_index("scores")
    scores = found.field(at).type if at >= 0 else None
    if isinstance(scores, pa.StructType) and set(scores) <= set(rows.SCORE_COLUMNS):
        return found.set(at, pa.field("scores", rows.SCORE_COLUMNS))
    return found


def _check_sources(dataset: Dataset) -> Iterator[str]:
    sources = dataset.ledger.sources().to_pylist()
    names = Counter(source_from_row(row).name for row in sources)
    yield from (f"source {name} has {number} rows; expected one" for name, number in names.items() if number > 1)
    for row in sources:
        if row["status"] not in ("ok", "failed") or (row["status"] == "failed" and not row["reasons"]):
            yield f"source {row['uri']} is {row['status']} with reasons {row['reasons']}"
    clips = dataset.ledger.clips().to_pylist()
    for row in clips:
        if row["decision"] not in ("keep", "drop") or (row["decision"] == "drop") != bool(row["reasons"]):
            yield f"clip {row['clip_id']} is {row['decision']} with reasons {row['reasons']}"
    ids = Counter(row["clip_id"] for row in clips)
    yield from (f"clip {clip_id} has {number} rows; expected one" for clip_id, number in ids.items() if number > 1)
    yield from filter(None, [dataset.about_other_scans()])


def _check_plan(dataset: Dataset) -> Iterator[str]:
    written = {record.key: record for record in dataset.ledger.encodes()}
    plan = dataset.ledger.plan()
    keys, clip_ids = texts(plan_rows.shard_keys(plan)), texts(plan["clip_id"])
    planned = {keys[start]: clip_ids[start:end] for start, end in plan_rows.shard_ranges(plan)}
    yield from (f"shard {key} was encoded but never planned" for key in written if key not in planned)
    for key, clips in planned.items():
        if key in written:
            yield from _check_totals(key, set(clips), written[key])


def _check_totals(key: str, planned: set[str], record: ShardRecord) -> Iterator[str]:
    done = Counter([*record.clip_ids, *record.failed])
    yield from (f"shard {key}: clip {c} is neither encoded nor failed" for c in sorted(planned - set(done)))
    yield from (f"shard {key}: clip {c} was not planned" for c in sorted(set(done) - planned))
    yield from (f"shard {key}: clip {c} is encoded and failed, or twice" for c, n in done.items() if n > 1)


def _check_shards(dataset: Dataset) -> Iterator[str]:
    for record in dataset.ledger.encodes():
        if record.clip_ids:
            yield from _check_shard(dataset.storage, record)


def _check_shard(storage: Storage, record: ShardRecord) -> Iterator[str]:
    key = file_key(record.key, record.failed)
    missing = [name for name in (tar_key(key), index_key(key)) if not storage.exists(name)]
    if missing:
        yield from (f"{name} is missing" for name in missing)
        return
    problems = [*_check_table(storage, index_key(key), INDEX_SCHEMA)]
    yield from problems
    if not problems:
        yield from _check_bytes(storage, record, read_index(storage, key))


def _check_bytes(storage: Storage, record: ShardRecord, index: Collection[IndexRow]) -> Iterator[str]:
    key = tar_key(file_key(record.key, record.failed))
    if storage.size(key) != record.size:
        yield f"{key} has {storage.size(key)} bytes; {record.size} were written"
        return
    sha256 = hashlib.sha256()
    for chunk in iterate_chunks(storage, key, CHUNK_BYTES):
        sha256.update(chunk)
    if sha256.hexdigest() != record.sha256:
        yield f"{key}: its bytes are not those that were written"
    if {row.key for row in index} != set(record.clip_ids):
        yield f"{key}: its index names other samples than the ledger"
    yield from _check_members(storage, key, index)


def _check_members(storage: Storage, key: str, index: Collection[IndexRow]) -> Iterator[str]:
    for row in index:
        try:
            data = storage.read_range(key, row.offset, row.size)
        except ValueError as error:
            yield str(error)
            continue
        if (hashlib.sha256(data).hexdigest(), xxhash.xxh3_128_hexdigest(data)) != (row.sha256, row.xxh3):
            yield f"{key}: {row.member} is not what its index says"


def _check_manifests(dataset: Dataset) -> Iterator[str]:
    current = dataset.record().manifest
    if current is not None and current not in dataset.manifests():
        yield f"the current manifest {current} is missing"
    samples = _samples(dataset)
    for name in dataset.manifests():
        try:
            table = dataset.load_manifest(name).table
        except ValueError as error:
            yield str(error)
            continue
        if not table.schema.equals(MANIFEST):
            yield f"{manifest_key(name)}: has other columns than this version writes"
        else:
            yield from _check_places(name, samples, table["shard"].to_pylist(), table["clip_id"].to_pylist())
            if name == current:
                yield from _check_groups(name, table)


def _samples(dataset: Dataset) -> set[tuple[str, str]]:
    records = dataset.ledger.encodes()
    return {(file_key(record.key, record.failed), clip_id) for record in records for clip_id in record.clip_ids}


def _check_places(manifest: str, samples: set[tuple[str, str]], shards: list, clip_ids: list) -> Iterator[str]:
    for shard, clip_id in zip(shards, clip_ids, strict=True):
        if (shard, clip_id) not in samples:
            yield f"{manifest_key(manifest)}: sample {clip_id} should be in shard {shard}, which does not have it"


def _check_groups(manifest: str, table: pa.Table) -> Iterator[str]:
    for group_id, number in _groups_in_several_splits(table).items():
        yield (
            f"{manifest_key(manifest)}: group {group_id} stands in {number} splits; longtake plan, then encode, "
            "publish a version that has it in one"
        )


def _groups_in_several_splits(table: pa.Table) -> dict[str, int]:
    """The number of splits of each such group, by id."""
    places = table.group_by(["group_id", "split"]).aggregate([])
    splits = Counter(texts(places["group_id"]))
    return {group_id: splits[group_id] for group_id in sorted(splits) if splits[group_id] > 1}


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What nobody needs any more.

    Attributes:
        manifests: Keys of versions that are neither kept nor pinned.
        shards: Shards that only they name, as the ledger calls them.
        files: Keys of the files of those shards, and of what dead processes left.
    """

    manifests: tuple[str, ...]
    shards: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all files, in the order in which they go."""
        return (*self.manifests, *self.files)


def find_garbage(dataset: Dataset, keep_manifests: Collection[str], *, unpinned: Collection[str] = ()) -> Garbage:
    """What `gc` would remove; nothing is changed. Without the lease, a living driver's half-written files are among it.

    Args:
        dataset: Where to look.
        keep_manifests: Versions to keep besides the current one and those that are pinned.
        unpinned: Ids of pins that do not count.

    Raises:
        ValueError: If a version to keep does not exist.
    """
    current = dataset.record().manifest
    pinned = {pin.manifest for pin in pins(dataset) if pin.pin_id not in unpinned} & set(dataset.manifests())
    kept = {*keep_manifests, *pinned, *([current] if current else [])}
    needed = {key for name in sorted(kept) for key in dataset.load_manifest(name).table["shard"].to_pylist()}
    files = [key for key in dataset.storage.list("shards") if _shard_of(key) not in needed]
    return Garbage(
        manifests=tuple(manifest_key(name) for name in dataset.manifests() if name not in kept),
        shards=tuple(r.key for r in dataset.ledger.encodes() if r.clip_ids and file_key(r.key, r.failed) not in needed),
        files=(*files, *dataset.storage.list(SCRATCH), *dataset.storage.temporary()),
    )


def gc(dataset: Dataset, keep_manifests: Collection[str]) -> tuple[str, ...]:
    """Remove the versions that are neither kept nor pinned, the shards that only they name, and what dead processes left.

    Versions go first and files last, so that a kill leaves nothing that points nowhere. The ledger forgets the removed
    shards, so that a clip of theirs that is kept again is planned and encoded again. Shards that are planned and not yet
    encoded are left alone. Hold the lease.

    Args:
        dataset: Where to clean up.
        keep_manifests: Versions to keep besides the current one and those that are pinned.

    Returns:
        The keys of all files removed.

    Raises:
        ValueError: If a version to keep does not exist.
    """
    garbage = find_garbage(dataset, keep_manifests)
    _delete(dataset.storage, garbage.manifests)
    dataset.ledger.append_removed(garbage.shards)
    _delete(dataset.storage, garbage.files)
    return garbage.keys


def _shard_of(key: str) -> str:
    return key.removeprefix("shards/").removesuffix(".tar").removesuffix(".index.parquet")


def _delete(storage: Storage, keys: Collection[str]) -> None:
    for key in keys:
        storage.delete(key)
