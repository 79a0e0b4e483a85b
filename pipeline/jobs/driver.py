"""The one process that writes a dataset: hands out scans and encodes, decides, plans, commits."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Recipe, report_settings
from pipeline.decisions import decide_fingerprint, recipe_clips
from pipeline.jobs.backlog import backlog, returned_clips, shards_of_returned
from pipeline.jobs.captions import CaptionStep
from pipeline.jobs.cluster import parallel_tasks, ray_cluster, refuse_impossible, run_bounded
from pipeline.jobs.encode import clear_scratch, encode_tasks
from pipeline.jobs.preprocess_result import PreprocessResult, track_summary
from pipeline.jobs.scan import ScanCollector, read_hashes, scan_fingerprint, scan_tasks
from pipeline.jobs.stored_settings import StoredSettings
from pipeline.progress import Meter, progress
from pipeline.tracking.tracked_run import Tracking
from preprocessing.dataset import SCAN_SETTINGS, Dataset, manifest_table
from preprocessing.intake import Intake
from preprocessing.lease import lease_owner
from preprocessing.listing import SourceListing
from preprocessing.plan import failed_clips, kept_clips, latent_bytes, plan, planned_under
from preprocessing.plan_rows import PLAN, shard_keys, shard_ranges, shards_of_plan
from preprocessing.reasons import Reason, says_gone
from preprocessing.relations import texts
from preprocessing.replay import recaptioned_sources, regrouped_sources
from preprocessing.report.pilot import Pilot, pilot
from preprocessing.report.write import write_report
from preprocessing.samples import ShardRecord, Source
from preprocessing.storage import Storage

CHILD_DEATHS = (Reason.TIMEOUT, Reason.OUT_OF_MEMORY, Reason.CRASHED)
"""Reasons of sources whose child process died, hung or outgrew its limit."""

QUARANTINE = ("source_id", "uri", "reason", "message")
"""Columns of quarantine.jsonl."""


@contextmanager
def open_driver(dataset_uri: str, recipe: Recipe, address: str | None) -> Iterator["Driver"]:
    """The only writer of the dataset, for as long as the block lasts."""
    dataset = Dataset.create(dataset_uri)
    with dataset.storage.lease(lease_owner()), ExitStack() as stack:
        _clear(dataset.storage)
        yield Driver(dataset, dataset_uri, recipe, address, stack)
        _clear(dataset.storage)


def _clear(storage: Storage) -> None:
    """Remove what dead drivers and workers left half-written; ours is the lease."""
    clear_scratch(storage)
    for key in storage.temporary():
        storage.delete(key)


class Driver:
    """The steps of one run; Ray is started when the first of them needs it."""

    def __init__(
        self, dataset: Dataset, dataset_uri: str, recipe: Recipe, address: str | None, stack: ExitStack
    ) -> None:
        """Nothing started yet; `stack` ends what gets started."""
        self._dataset, self._ledger, self._uri, self._recipe = dataset, dataset.ledger, dataset_uri, recipe
        self._address, self._stack, self._ray_is_up = address, stack, False
        self._pending: dict[str, Source] = {}
        self._retry: Callable[[], Collection[str]] = tuple
        self._tried: set[str] = set()
        self._gone: list[str] = []
        self._meters = stack.enter_context(progress())
        self._scan_meter: Meter | None = None
        self._encode_meter: Meter | None = None
        self._settings = StoredSettings(dataset, recipe, need_ray=self._need_ray, ray_is_up=lambda: self._ray_is_up)
        self._captions = CaptionStep(
            dataset, recipe, need_ray=self._need_ray, meter=lambda clips: self._meters.meter("captions", clips)
        )
        self.scanned = self.encoded = 0
        self._clips_tried = 0

    def take(self, listing: SourceListing, *, complete: bool, retry_failed: bool) -> None:
        """Finds what has to be scanned, and records what has vanished; then keeps the recipe: none of inputs that are refused."""
        intake = Intake(self._ledger, scan_fingerprint(self._recipe), self._read_hashes)
        self._pending = intake.take(listing, complete=complete, retry_failed=retry_failed)
        self._settings.keep_recipe(**{SCAN_SETTINGS: scan_fingerprint(self._recipe)})
        self.retry(all_failed=retry_failed)
        if retry_failed:
            self._captions.retry_failures()

    def retry(self, *, all_failed: bool) -> None:
        """Has clips planned again that failed before, under these encode settings: all, or those whose files alone were gone and are there now."""
        plan_before, encodes = self._ledger.plan(), self._ledger.encodes()

        @cache
        def find() -> Collection[str]:
            planned = planned_under(plan_before, self._settings.encode_fingerprint())
            return (
                failed_clips(planned, encodes)
                if all_failed
                else returned_clips(planned, encodes, self._ledger.sources())
            )

        self._retry = find

    def _read_hashes(self, sources: Sequence[Source]) -> Mapping[str, str]:
        self._need_ray()
        return read_hashes(sources, self._recipe)

    def scan_beside_encode(self, sources: Sequence[Source], shards: pa.Table) -> None:
        """Scans a wave while the shards of the last one are encoded."""
        todo = [self._pending[source.source_id] for source in sources if source.source_id in self._pending]
        num_shards = len(shard_ranges(shards))
        if not (todo or num_shards):
            return
        self._need_ray()
        collector = ScanCollector(self._ledger, scan_fingerprint(self._recipe))
        kinds = self._encode_tasks(shards, num_shards), self._scan_tasks(todo, collector)
        try:
            run_bounded(*kinds, max_in_flight=self._recipe.cluster.max_tasks)
        finally:
            collector.commit()
        self.scanned += len(todo)

    def _scan_tasks(self, todo: Sequence[Source], collector: ScanCollector) -> Iterator:
        if not todo:
            return iter(())
        self._scan_meter = self._scan_meter or self._meters.meter("scan", len(self._pending))
        return scan_tasks(todo, self._recipe, collector, self._scan_meter)

    def _encode_tasks(self, shards: pa.Table, num_shards: int) -> Iterator:
        if not num_shards:
            return iter(())
        self._encode_meter = self._encode_meter or self._meters.meter("encode", 0)
        self._encode_meter.grow(num_shards)
        self._tried.update(texts(pc.unique(shard_keys(shards))))
        return encode_tasks(
            shards_of_plan(shards),
            self._recipe,
            dataset_uri=self._dataset.storage.uri,  # absolute: workers have another working directory
            fingerprint=self._settings.encode_fingerprint(),
            on_record=self._take_record,
            meter=self._encode_meter,
        )

    def _take_record(self, record: ShardRecord) -> None:
        """Commits a shard, unless all it would say is that files are gone: a disk that is away fails nothing."""
        gone = [line for line in record.failed.values() if says_gone(line)]
        self._gone += gone
        clips = len(record.clip_ids) + len(record.failed)
        self._clips_tried += clips
        if len(gone) < clips:
            self._ledger.append_encodes([record])
            self.encoded += 1

    def keep_recipe(self) -> None:
        """Keeps the recipe in the dataset."""
        self._settings.keep_recipe()

    def sources_to_decide(self) -> set[str]:
        """Ids of all sources that the dataset ever had, but for those that wait for a scan under the settings of now.

        Decisions about these stay as they are: thresholds of now do not fit what other settings measured.
        """
        return self._ledger.source_ids() - set(self._dataset.scanned_otherwise())

    def decide_and_plan(self, source_ids: Collection[str]) -> pa.Table:
        """Decides about some sources where that is due, and plans their clips; gives the rows of the added shards.

        The cost is that of these sources, not of the whole dataset. A run calls this once for each source, wave by wave
        in the order of the inputs: so that a killed run packs as an undisturbed one.
        """
        self._decide(source_ids)
        self._settings.keep_eval_percent()
        due = self._kept(source_ids)
        self._captions.write(due)
        due = self._captions.apply(due)
        if not due.num_rows:
            return PLAN.empty_table()
        codec = self._settings.codec()
        self._settings.keep_codec()
        added = plan(
            due,
            self._ledger.plan(source_ids),
            self._recipe.plan,
            latent_bytes=lambda clips: latent_bytes(clips, codec),
            encode_fingerprint=self._settings.encode_fingerprint(),
            retry=self._retry(),
        )
        self._ledger.append_plan(added)
        return added

    def _decide(self, source_ids: Collection[str]) -> None:
        todo = self._undecided(source_ids)
        if todo:
            decided = recipe_clips(self._ledger.iterate_scans(todo), self._recipe)
            self._ledger.append_clips(decided, todo, fingerprint=decide_fingerprint(self._recipe))

    def _undecided(self, source_ids: Collection[str]) -> set[str]:
        """Of some sources those that no decision holds for: their clips may be others under the settings of now."""
        sources, clips = self._ledger.sources(source_ids), self._ledger.clips(source_ids)
        return {
            *self._ledger.undecided_sources(decide_fingerprint(self._recipe), source_ids),
            *recaptioned_sources(sources, clips),
            *regrouped_sources(sources, clips, eval_percent=self._recipe.sources.eval_percent),
        }

    def _kept(self, source_ids: Collection[str] | None = None) -> pa.Table:
        sources, clips = self._ledger.sources(source_ids), self._ledger.clips(source_ids)
        return kept_clips(sources, clips, self._recipe.encode.sizes_px, eval_percent=self._settings.eval_percent())

    def pending_shards(self) -> pa.Table:
        """The rows of the shards that are planned, still wanted and not encoded, but for those that this run tried in vain."""
        return self._backlog(of_others_than=())

    def settled_shards(self) -> pa.Table:
        """Those of `pending_shards` that hold clips of which nothing is to be scanned or decided in this run."""
        return self._backlog(of_others_than={*self._pending, *self._undecided(self.sources_to_decide())})

    def _backlog(self, *, of_others_than: Collection[str]) -> pa.Table:
        """As `pending_shards`, where no clip of some sources makes a shard wanted."""
        if not self._ledger.plan().num_rows:
            return PLAN.empty_table()
        kept = _none_of(self._kept(), "source_id", of_others_than)
        shards = backlog(self._ledger, self._captions.apply(kept), self._settings.encode_fingerprint())
        return shards.filter(pc.invert(pc.is_in(shard_keys(shards), value_set=pa.array(self._tried, pa.string()))))

    def plan_returned(self) -> None:
        """Plans clips again that failed only for want of their files, where these are there now; decides nothing."""
        if self._ledger.plan().num_rows:
            kept, codec = self._captions.apply(self._kept()), self._settings.codec()
            fingerprint_now = self._settings.encode_fingerprint()
            self._ledger.append_plan(shards_of_returned(self._ledger, kept, self._recipe.plan, codec, fingerprint_now))

    def _files_are_away(self) -> bool:
        """Whether every clip that this run was to encode has lost its file: a disk that is not mounted looks like that."""
        return bool(self._gone) and len(self._gone) == self._clips_tried

    def refuse_gone_files(self) -> None:
        """Raise where every clip that this run was to encode has lost its file."""
        if self._files_are_away():
            raise ValueError(
                f"the files of all {len(self._gone)} clips that were to be encoded are gone ({self._gone[0]}): "
                "is a disk not mounted? Bring them back and run the same command again; or run longtake scan with their "
                "inputs: what is not there becomes missing, and the next version is without it"
            )

    def refuse_another_codec(self) -> None:
        """Raise where clips are planned, but none for this codec with these options and sizes."""
        planned = self._ledger.plan()
        if planned.num_rows and not planned_under(planned, self._settings.encode_fingerprint()).num_rows:
            raise ValueError(f"{self._uri} is not planned under these encode settings; run longtake plan with them")

    def publish(self) -> None:
        """Writes the version of the dataset that holds what is kept and encoded now; none while a disk is away."""
        planned = self._ledger.plan()
        if not planned.num_rows or self._files_are_away():
            return
        codec = self._settings.codec()
        self._settings.keep_codec()
        table = manifest_table(
            self._captions.apply(self._kept()),
            planned,
            self._ledger.encodes(),
            latents_bytes=lambda clips: latent_bytes(clips, codec),
            encode_fingerprint=self._settings.encode_fingerprint(),
        )
        self._dataset.write_manifest(table)

    def finish(self, listing: SourceListing | None, tracking: Tracking) -> PreprocessResult:
        """Writes the report, tracks what the dataset holds now if the server has not got it."""
        result = PreprocessResult(
            inputs=len(listing.sources) if listing else 0,
            ignored=listing.ignored if listing else (),
            scanned=self.scanned,
            captioned=self._captions.written,
            without_caption=self._captions.failed(self._kept),
            encoded_shards=self.encoded,
            without_file=len(self._gone),
            scanned_otherwise=len(self._dataset.scanned_otherwise()),
            about_other_scans=self._dataset.about_other_scans(),
            dataset=write_report(self._dataset, report_settings(self._recipe)),
            pilot=self._pilot(listing) if listing else None,
        )
        self._write_quarantine()
        track_summary(result.dataset, self._dataset, self._recipe, tracking)
        return result

    def _pilot(self, listing: SourceListing) -> Pilot | None:
        """What the whole input would take, if a limit left some of it out."""
        if len(listing.sources) >= listing.whole.num_sources:
            return None
        source_ids = [source.source_id for source in listing.sources]
        parallel = parallel_tasks(self._recipe) if self._ray_is_up else None
        return pilot(self._dataset, source_ids, listing.whole, report_settings(self._recipe), parallel=parallel)

    def _write_quarantine(self) -> None:
        rows = self._ledger.sources().to_pylist()
        lines = [json.dumps({name: row[name] for name in QUARANTINE}) for row in rows if row["reason"] in CHILD_DEATHS]
        storage, text = self._dataset.storage, "".join(f"{line}\n" for line in lines).encode()
        if not storage.exists("quarantine.jsonl") or storage.read_bytes("quarantine.jsonl") != text:
            storage.write_atomic("quarantine.jsonl", text)

    def _need_ray(self) -> None:
        if not self._ray_is_up:
            self._stack.enter_context(ray_cluster(self._address))
            refuse_impossible(cpus=self._recipe.cluster.cpus_per_task)
            self._ray_is_up = True


def _none_of(table: pa.Table, column: str, values: Collection[str]) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table[column], value_set=pa.array(values, pa.string()))))
