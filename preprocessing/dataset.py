"""A dataset on disk: ``dataset.json``, manifest versions and the pointer to the current one.

A manifest is a version of the dataset: one row a sample, immutable, named by the SHA-256 of its bytes. It holds no times,
hosts or attempts. The pointer in ``dataset.json`` moves last, so that a reader always finds a manifest whose shards exist.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing import plan_rows
from preprocessing.ledger import Ledger
from preprocessing.relations import ascending, matching_rows, texts
from preprocessing.rows import transfers
from preprocessing.samples import CodecRecord, ShardRecord, Verdict
from preprocessing.shards import file_key
from preprocessing.storage import Storage, open_storage, parquet_bytes, parquet_table

SCHEMA_VERSION = 2
RECORD_KEY = "dataset.json"

MANIFEST = pa.schema(
    [
        ("clip_id", pa.string()), ("shard", pa.string()), ("num_segments", pa.int32()), ("split", pa.string()),
        ("source_id", pa.string()), ("group_id", pa.string()), ("uri", pa.string()), ("shot_index", pa.int32()),
        ("clip_index", pa.int32()), ("start_frame", pa.int64()), ("end_frame", pa.int64()), ("start_s", pa.float64()),
        ("end_s", pa.float64()), ("fps", pa.float64()), ("height_px", pa.int32()), ("width_px", pa.int32()),
        ("caption", pa.string()), ("licence", pa.string()), ("latents_bytes", pa.int64()),
    ]
)  # fmt: skip
"""One row a sample, by uri, shot and clip; `shard` is the key that `shards.ShardReader` takes."""

SHARDS = pa.schema(
    [
        ("shard", pa.string()), ("bucket", pa.string()), ("status", pa.string()), ("num_clips", pa.int32()),
        ("num_samples", pa.int32()), ("num_failed", pa.int32()), ("failed", pa.map_(pa.string(), pa.string())),
        ("size", pa.int64()), ("sha256", pa.string()),
    ]
)  # fmt: skip
"""One row a planned shard; `shard` is the key of its files."""

SCAN_SETTINGS = "scan"
"""Under this name dataset.json keeps the fingerprint of the settings that its sources are scanned with."""

TABLES = ("sources", "transitions", "clips", "samples", "shards")


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """What ``dataset.json`` says.

    Attributes:
        recipe: The stored recipe, as JSON values.
        fingerprints: Of each step, by its name.
        codec: Which codec wrote the latents, None before the first encode.
        captioner: Which model wrote captions (`captions.policy.CaptionerRecord`), None if none ever did.
        manifest: SHA-256 of the current manifest, None before the first one.
    """

    schema_version: int = SCHEMA_VERSION
    recipe: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    codec: CodecRecord | None = None
    captioner: Mapping[str, Any] | None = None
    manifest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A version of a dataset: its name, and one row a sample (schema `MANIFEST`)."""

    sha256: str
    table: pa.Table

    def __repr__(self) -> str:
        """Name and size instead of rows."""
        return f"Manifest({self.sha256[:12]}, {self.table.num_rows} samples)"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset's place, with its ledger."""

    storage: Storage
    ledger: Ledger

    @classmethod
    def open(cls, uri: str) -> "Dataset":
        """A dataset that exists.

        Raises:
            ValueError: If there is none, or a newer longtake wrote it.
        """
        dataset = cls._at(open_storage(uri))
        dataset.record()
        return dataset

    @classmethod
    def create(cls, uri: str) -> "Dataset":
        """A dataset that exists, or a new and empty one."""
        dataset = cls._at(open_storage(uri))
        if not dataset.storage.exists(RECORD_KEY):
            dataset.write_record(DatasetRecord())
        dataset.record()
        return dataset

    @classmethod
    def _at(cls, storage: Storage) -> "Dataset":
        return cls(storage=storage, ledger=Ledger(storage))

    def record(self) -> DatasetRecord:
        """What ``dataset.json`` says now.

        Raises:
            ValueError: If there is no dataset, another longtake wrote it, or its record is damaged.
        """
        if not self.storage.exists(RECORD_KEY):
            raise ValueError(f"there is no dataset at {self.storage.uri}; longtake preprocess makes one")
        try:
            stored = json.loads(self.storage.read_bytes(RECORD_KEY))
            version = stored["schema_version"]
            if version == SCHEMA_VERSION:
                return DatasetRecord(**{**stored, "codec": CodecRecord(**stored["codec"]) if stored["codec"] else None})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{RECORD_KEY} of {self.storage.uri} is damaged ({error!r}); bring it back from a copy, or begin a new dataset"
            ) from None
        raise ValueError(
            f"{self.storage.uri} has schema version {version}, this longtake knows {SCHEMA_VERSION}; "
            "use the version that wrote it"
        )

    def write_record(self, record: DatasetRecord) -> None:
        """Replace ``dataset.json``; nothing is written if it says so already."""
        data = json.dumps(asdict(record), sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"
        if not self.storage.exists(RECORD_KEY) or self.storage.read_bytes(RECORD_KEY) != data:
            self.storage.write_atomic(RECORD_KEY, data)

    def write_manifest(self, table: pa.Table) -> str:
        """Write a version of the dataset and point at it.

        Args:
            table: As `manifest_table` makes it.

        Returns:
            The manifest's SHA-256, its name.
        """
        data = parquet_bytes(table)
        name = hashlib.sha256(data).hexdigest()
        if not self.storage.exists(manifest_key(name)):
            self.storage.write_atomic(manifest_key(name), data)
        self.write_record(replace(self.record(), manifest=name))
        return name

    def load_manifest(self, sha256: str | None) -> Manifest:
        """One version of the dataset, the current one for None.

        Raises:
            ValueError: If there is no such version, or its bytes are not those that were written.
        """
        name = sha256 or self.record().manifest
        if name is None:
            raise ValueError(self._why_no_samples())
        if not self.storage.exists(manifest_key(name)):
            raise ValueError(f"{self.storage.uri} has no version {name}; its versions are named in manifests/")
        data = self.storage.read_bytes(manifest_key(name))
        if hashlib.sha256(data).hexdigest() != name:
            raise ValueError(f"{manifest_key(name)}: its bytes are not those that were written")
        return Manifest(sha256=name, table=parquet_table(data))

    def _why_no_samples(self) -> str:
        place, clips, sources = self.storage.uri, self.ledger.clips(), self.ledger.sources()
        if clips.num_rows and str(Verdict.KEEP) not in texts(clips["decision"]):
            why, table = f"none of its {clips.num_rows} clips was kept", "clips"
        elif sources.num_rows and "ok" not in texts(sources["status"]):
            why, table = f"all of its {sources.num_rows} sources failed", "sources"
        else:
            return f"{place} has no samples yet; longtake encode makes them"
        return f"{place} has no samples: {why}; the reasons: longtake inspect {place} {table}, or {place}/report/index.html"

    def scanned_otherwise(self) -> tuple[str, ...]:
        """Sources whose scans hold what other settings measured than those that the dataset has now."""
        return self.ledger.scanned_otherwise(self.record().fingerprints.get(SCAN_SETTINGS, ""))

    def about_other_scans(self) -> str:
        """What to say of the sources that are `scanned_otherwise`; empty where there are none."""
        number = len(self.scanned_otherwise())
        if not number:
            return ""
        if SCAN_SETTINGS not in self.record().fingerprints:  # older versions kept it at the end of a run
            return (
                f"{RECORD_KEY} does not say under which settings its {number} sources were scanned: the first run was ended "
                "early; longtake scan (or preprocess) with their inputs keeps it, and scans anew what was measured otherwise"
            )
        return (
            f"{number} sources were scanned under other settings than the dataset has now; longtake scan (or preprocess) "
            "with their inputs scans them anew"
        )

    def manifests(self) -> tuple[str, ...]:
        """Names of all versions that are stored."""
        names = (key.removeprefix("manifests/") for key in self.storage.list("manifests"))
        return tuple(name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))


def manifest_key(sha256: str) -> str:
    """Where a manifest lies in the dataset."""
    return f"manifests/{sha256}.parquet"


def load_manifest(dataset: Dataset, sha256: str | None) -> Manifest:
    """One version of a dataset, the current one for None."""
    return dataset.load_manifest(sha256)


def manifest_table(
    kept: pa.Table,
    plan: pa.Table,
    encodes: Iterable[ShardRecord],
    *,
    latents_bytes: Callable[[pa.Table], NDArray[np.int64]],
    encode_fingerprint: str,
) -> pa.Table:
    """The samples of the clips that are kept now and encoded under these settings (schema `MANIFEST`).

    Args:
        kept: All clips that are kept now (schema `plan_rows.KEPT`).
        plan: All shards ever planned (schema `plan_rows.PLAN`).
        encodes: All shards that were written.
        latents_bytes: Size of each clip's latents.
        encode_fingerprint: Shards planned under another one are left out.
    """
    encoded = _encoded_rows(plan, encodes, encode_fingerprint)
    clip, place = plan_rows.same_clips(kept, encoded)
    clip, first = np.unique(clip, return_index=True)  # of several samples of a clip, the first in the plan
    samples = kept.take(clip)
    samples = samples.append_column("shard", encoded["file"].take(place[first]))
    samples = samples.append_column("latents_bytes", pa.array(latents_bytes(samples), pa.int64()))
    found = samples.select(MANIFEST.names).cast(MANIFEST)
    return found.sort_by(ascending("uri", "shot_index", "clip_index", "clip_id")).combine_chunks()


def _encoded_rows(plan: pa.Table, encodes: Iterable[ShardRecord], encode_fingerprint: str) -> pa.Table:
    """The planned clips that were encoded, with one more column: `file`, the key of the files that hold each."""
    samples = _samples([record for record in encodes if encode_fingerprint.startswith(_fingerprint_prefix(record))])
    planned, sample = matching_rows(plan.append_column("key", plan_rows.shard_keys(plan)), samples, ("key", "clip_id"))
    return plan.take(planned).append_column("file", samples["file"].take(sample))


def _fingerprint_prefix(record: ShardRecord) -> str:
    return record.key.rpartition("/")[2].partition("-")[0]


def _samples(records: Sequence[ShardRecord]) -> pa.Table:
    """One row a sample: the shard's key, the clip, and the key of its files."""
    columns = {
        "key": [record.key for record in records for _ in record.clip_ids],
        "clip_id": [clip_id for record in records for clip_id in record.clip_ids],
        "file": [key for r in records for key in [file_key(r.key, r.failed)] * len(r.clip_ids)],
    }
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


def inspect_table(dataset: Dataset, name: str) -> pa.Table:
    """One of the tables that `longtake inspect` shows, with the columns that do not change their meaning.

    Raises:
        ValueError: If there is no such table.
    """
    match name:
        case "sources":
            return _sources_table(dataset)
        case "transitions":
            return _with_uri(dataset, dataset.ledger.transitions()).sort_by(ascending("uri", "start_frame"))
        case "clips":
            return _with_uri(dataset, dataset.ledger.clips()).sort_by(ascending("uri", "shot_index", "clip_index"))
        case "samples":
            samples = samples_table(dataset)
            return samples.append_column("extra", _of_source(dataset, samples, "extra"))
        case "shards":
            return _shards_table(dataset)
    raise ValueError(f"there is no table {name}; expected one of {', '.join(TABLES)}")


def _sources_table(dataset: Dataset) -> pa.Table:
    sources = dataset.ledger.sources()
    behind = sources.schema.get_field_index("decoder") + 1
    shown = sources.add_column(behind, "transfer", transfers(sources))
    return shown.drop_columns(["location", "probe", "scan_part"])


def samples_table(dataset: Dataset) -> pa.Table:
    """The samples of the current version, none before the first one (schema `MANIFEST`)."""
    return MANIFEST.empty_table() if dataset.record().manifest is None else dataset.load_manifest(None).table


def _with_uri(dataset: Dataset, table: pa.Table) -> pa.Table:
    return table.add_column(1, "uri", _of_source(dataset, table, "uri"))


def _of_source(dataset: Dataset, table: pa.Table, column: str) -> pa.ChunkedArray:
    """What the sources of a table's rows have in a column now."""
    sources = dataset.ledger.sources()
    at = pc.index_in(table["source_id"], value_set=sources["source_id"].combine_chunks())
    return sources[column].take(at)


def _shards_table(dataset: Dataset) -> pa.Table:
    plan = dataset.ledger.plan()
    written = {record.key: record for record in dataset.ledger.encodes()}
    ranges = plan_rows.shard_ranges(plan)
    first = plan.select(["bucket", "shard"]).take([start for start, _ in ranges]) if ranges else plan.slice(0, 0)
    keys = zip(texts(plan_rows.shard_keys(first)), texts(first["bucket"]), ranges, strict=True)
    found = [_shard_row(key, bucket, end - start, written.get(key)) for key, bucket, (start, end) in keys]
    return pa.Table.from_pylist(found, schema=SHARDS)


def _shard_row(key: str, bucket: str, num_clips: int, record: ShardRecord | None) -> dict[str, object]:
    return {
        "shard": file_key(key, record.failed) if record else key,
        "bucket": bucket,
        "status": "encoded" if record else "planned",
        "num_clips": num_clips,
        "num_samples": len(record.clip_ids) if record else 0,
        "num_failed": len(record.failed) if record else 0,
        "failed": dict(record.failed) if record else {},
        "size": record.size if record else None,
        "sha256": record.sha256 if record else None,
    }
