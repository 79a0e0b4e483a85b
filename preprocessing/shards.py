"""The tar format of shards, written and read in this one place; the home of webdataset.

A shard is a plain WebDataset tar. Each sample has four members, in this order: ``<clip_id>.image.safetensors``,
``<clip_id>.json``, ``<clip_id>.latents.safetensors``, ``<clip_id>.text.safetensors``. Nothing in it depends on time,
host or attempt. Beside it lies ``*.index.parquet``, one row a member, for random access and checksums.
"""

import hashlib
import json
import mmap
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import xxhash

from preprocessing.keys import explained_writes
from preprocessing.members import LATENTS, StoredSample, encode_sample, stored_num_segments, view_sample
from preprocessing.samples import IndexRow, LatentSample, ShardRecord
from preprocessing.storage import Storage, read_parquet, write_parquet

OPEN_SHARDS = 64
"""Shards that a reader keeps open."""

SCRATCH = "scratch"
"""Folder of growing shards, below the dataset where that is a local one; what a dead worker leaves there is nothing."""

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("num_segments", pa.int32()),
        ("sha256", pa.string()),
        ("xxh3", pa.string()),
    ]
)

NOTHING_FAILED: Mapping[str, str] = MappingProxyType({})


def tar_key(key: str) -> str:
    """Where the tar of a shard lies in the dataset."""
    return f"shards/{key}.tar"


def index_key(key: str) -> str:
    """Where the index of a shard lies in the dataset."""
    return f"shards/{key}.index.parquet"


def file_key(key: str, failed: Collection[str]) -> str:
    """The name that a planned shard's files get: another one where clips are missing from it.

    So one name always means the same bytes: a late worker of a killed driver, for which other clips failed, writes
    beside the committed shard and not over it.
    """
    if not failed:
        return key
    return f"{key}-{hashlib.sha256(' '.join(sorted(failed)).encode()).hexdigest()[:8]}"


def write_shard(
    storage: Storage,
    key: str,
    samples: Iterable[LatentSample],
    *,
    scratch: Path,
    failed: Mapping[str, str] = NOTHING_FAILED,
) -> ShardRecord:
    """Stream samples into a tar, then publish tar and index, in this order; committing the record is the caller's.

    A shard without samples has no files and an empty checksum. Where clips failed, the files carry another name:
    `file_key(record.key, record.failed)`.

    Args:
        storage: The dataset's.
        key: `PlannedShard.key`.
        samples: In the order of the plan; failed clips are left out.
        scratch: Local folder for the growing tar, best on the dataset's disk.
        failed: Clips that could not be encoded, with a line each; may be filled while `samples` is consumed.

    Raises:
        ValueError: If a sample cannot be stored.
        StorageError: If a disk is full or may not be written.
    """
    with explained_writes(str(scratch)), _temporary_tar(scratch) as path:
        clip_ids = _write_tar(path, samples)
        if not clip_ids:
            return ShardRecord(key=key, sha256="", size=0, clip_ids=(), failed=dict(failed))
        name = file_key(key, failed)
        index, sha256, size = index_tar(path), file_sha256(path), path.stat().st_size
        storage.upload_atomic(tar_key(name), path)
        write_parquet(storage, index_key(name), pa.Table.from_pylist([asdict(row) for row in index], INDEX_SCHEMA))
    return ShardRecord(key=key, sha256=sha256, size=size, clip_ids=clip_ids, failed=dict(failed))


@contextmanager
def _temporary_tar(scratch: Path) -> Iterator[Path]:
    with explained_writes(str(scratch)):
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch, prefix="shard-") as folder:
            yield Path(folder) / "shard.tar"


def _write_tar(path: Path, samples: Iterable[LatentSample]) -> tuple[str, ...]:
    from webdataset.writer import TarWriter  # here: it imports torch, which who only reads can do without

    clip_ids: dict[str, None] = {}
    with (
        path.open("wb") as file,
        TarWriter(file, user="longtake", group="longtake", mode=0o444, mtime=0, encoder=False, compress=False) as tar,
    ):
        for sample in samples:
            assert sample.key not in clip_ids, f"{sample.key} twice in one shard"
            tar.write({"__key__": sample.key, **encode_sample(sample)})
            clip_ids[sample.key] = None
    return tuple(clip_ids)


def index_tar(path: Path) -> tuple[IndexRow, ...]:
    """The index of a finished tar, read from its bytes.

    Raises:
        ValueError: If it is no tar of samples.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = [(info.name, info.offset_data, info.size) for info in tar if info.isfile()]
    except tarfile.TarError as error:
        raise ValueError(f"{path.name} is no tar: {error}") from error
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        segments = {name: stored_num_segments(data[a : a + n]) for name, a, n in members if name.endswith(LATENTS)}
        return tuple(_index_row(data[a : a + n], name, a, segments) for name, a, n in members)


def _index_row(data: bytes, member: str, offset: int, segments: Mapping[str, int]) -> IndexRow:
    key = member.partition(".")[0]
    return IndexRow(
        key=key,
        member=member,
        offset=offset,
        size=len(data),
        num_segments=segments[f"{key}.{LATENTS}"],
        sha256=hashlib.sha256(data).hexdigest(),
        xxh3=xxhash.xxh3_128_hexdigest(data),
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_index(storage: Storage, key: str) -> tuple[IndexRow, ...]:
    """The index of a shard, by the key of its files.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not what was written.
    """
    return tuple(IndexRow(**row) for row in read_parquet(storage, index_key(key)).to_pylist())


@dataclass(frozen=True, kw_only=True)
class _OpenShard:
    rows: Mapping[str, tuple[IndexRow, ...]]
    data: mmap.mmap | None


class ShardReader:
    """Random access to samples; keeps the last shards' indexes, and maps local tars instead of reading them."""

    def __init__(self, storage: Storage) -> None:
        """Open nothing yet."""
        self._storage = storage
        self._open: dict[str, _OpenShard] = {}

    def read(self, key: str, clip_id: str, *, check: bool = True) -> LatentSample:
        """One sample.

        Args:
            key: Of the shard's files, as manifests name it.
            clip_id: The sample's name in it.
            check: Whether to compare the fast checksum of every member.

        Raises:
            FileNotFoundError: If the shard is gone.
            ValueError: If the sample is not in the shard, or its bytes are not those that were written.
        """
        return self.view(key, clip_id, check=check).decoded()

    def view(self, key: str, clip_id: str, *, check: bool = True) -> StoredSample:
        """One sample as it is stored: of a local shard nothing is copied. Arguments and errors as `read`."""
        shard = self._shard(key)
        rows = shard.rows.get(clip_id)
        if rows is None:
            raise ValueError(f"sample {clip_id} is not in shard {key}; run longtake verify {self._storage.uri}")
        start, end = min(row.offset for row in rows), max(row.offset + row.size for row in rows)
        data = self._range(key, shard, start, end)
        members = {row.member: data[row.offset - start : row.offset - start + row.size] for row in rows}
        if check:
            for row in rows:
                _refuse_changed(row, members[row.member], key, self._storage.uri)
        return view_sample(clip_id, {name.partition(".")[2]: part for name, part in members.items()})

    def _range(self, key: str, shard: _OpenShard, start: int, end: int) -> memoryview:
        if shard.data is None:
            return memoryview(self._storage.read_range(tar_key(key), start, end - start))
        if end > len(shard.data):
            raise ValueError(f"shard {key} is shorter than its index says; run longtake verify {self._storage.uri}")
        return memoryview(shard.data)[start:end]

    def _shard(self, key: str) -> _OpenShard:
        shard = self._open.pop(key, None) or self._opened(key)
        self._open[key] = shard  # last in the order: the first is the one not used for longest
        if len(self._open) > OPEN_SHARDS:
            del self._open[next(iter(self._open))]
        return shard

    def _opened(self, key: str) -> _OpenShard:
        grouped: dict[str, list[IndexRow]] = {}
        for row in read_index(self._storage, key):
            grouped.setdefault(row.key, []).append(row)
        path = self._storage.local_path(tar_key(key))
        return _OpenShard(rows={name: tuple(rows) for name, rows in grouped.items()}, data=_mapped(path))


def _refuse_changed(row: IndexRow, data: bytes | memoryview, key: str, uri: str) -> None:
    if xxhash.xxh3_128_hexdigest(data) != row.xxh3:
        raise ValueError(
            f"sample {row.key}: {row.member} in shard {key} is not what was written; run longtake verify {uri}"
        )


def _mapped(path: Path | None) -> mmap.mmap | None:
    if path is None:
        return None
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_metadata(storage: Storage, key: str, clip_id: str) -> Mapping[str, object]:
    """What a sample says of itself, without its latents.

    Raises:
        FileNotFoundError: If the shard is gone.
        ValueError: If the sample is not in the shard, or says something else than was written.
    """
    member = f"{clip_id}.json"
    for row in read_index(storage, key):
        if row.member == member:
            data = storage.read_range(tar_key(key), row.offset, row.size)
            _refuse_changed(row, data, key, storage.uri)
            return json.loads(data)
    raise ValueError(f"sample {clip_id} is not in shard {key}; run longtake verify {storage.uri}")


def read_sample(storage: Storage, key: str, clip_id: str, *, check: bool = True) -> LatentSample:
    """One sample of a shard, as `ShardReader.read` gives it."""
    return ShardReader(storage).read(key, clip_id, check=check)
