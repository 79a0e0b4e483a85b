"""Raw videos to latent shards, in waves: while the clips of one wave are encoded, the next is scanned."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from pipeline.config import Recipe
from pipeline.decisions import refuse_other_scan_settings
from pipeline.jobs.backlog import backlog, shards_of_returned
from pipeline.jobs.captions import CaptionStep
from pipeline.jobs.driver import open_driver
from pipeline.jobs.preprocess_result import PreprocessResult
from pipeline.jobs.stored_settings import known_codec
from pipeline.progress import Meter
from pipeline.tracking.tracked_run import Tracking
from preprocessing import plan_rows
from preprocessing.dataset import Dataset
from preprocessing.encode import encode_fingerprint
from preprocessing.intake import inputs_of
from preprocessing.plan import kept_clips
from preprocessing.plan_rows import shard_keys
from preprocessing.relations import texts
from preprocessing.samples import CodecRecord, Source


def scan_dataset(
    inputs: Sequence[str],
    dataset_uri: str,
    recipe: Recipe,
    *,
    limit: int | None,
    retry_failed: bool,
    accept_missing: bool,
    address: str | None,
    tracking: Tracking,
) -> PreprocessResult:
    """The first step alone: decode what is new or changed, and store what was found.

    Raises:
        ValueError: If an input or the dataset is wrong.
        LeaseTaken: If another driver writes the dataset.
    """
    listing = inputs_of(dataset_uri, inputs, recipe.sources, limit=limit, accept_missing=accept_missing)
    with open_driver(dataset_uri, recipe, address) as driver:
        driver.take(listing, complete=limit is None, retry_failed=retry_failed)
        driver.scan_beside_encode(listing.sources, plan_rows.PLAN.empty_table())
        return driver.finish(listing, tracking)


def preprocess(
    inputs: Sequence[str],
    dataset_uri: str,
    recipe: Recipe,
    *,
    limit: int | None,
    retry_failed: bool,
    accept_missing: bool,
    address: str | None,
    tracking: Tracking,
) -> PreprocessResult:
    """Scan, plan and encode; what is done is not done again.

    Raises:
        ValueError: If an input or the dataset is wrong, or the files of all clips that were to be encoded are gone.
        LeaseTaken: If another driver writes the dataset.
    """
    listing = inputs_of(dataset_uri, inputs, recipe.sources, limit=limit, accept_missing=accept_missing)
    with open_driver(dataset_uri, recipe, address) as driver:
        driver.take(listing, complete=limit is None, retry_failed=retry_failed)
        first, *later = _waves(listing.sources, recipe.cluster.wave_sources)
        driver.scan_beside_encode(first, driver.settled_shards())
        waits = {source.source_id for wave in later for source in wave}
        shards = driver.decide_and_plan(driver.sources_to_decide() - waits)
        for wave in later:
            driver.scan_beside_encode(wave, shards)
            shards = driver.decide_and_plan({source.source_id for source in wave})
        driver.scan_beside_encode((), driver.pending_shards())
        driver.publish()
        result = driver.finish(listing, tracking)
        driver.refuse_gone_files()
        return result


def plan_dataset(dataset_uri: str, recipe: Recipe, *, address: str | None, tracking: Tracking) -> PreprocessResult:
    """The second step alone: candidates, decisions and the shard plan, from what is stored.

    Raises:
        ValueError: If there is no dataset, or its sources would have to be scanned anew.
        LeaseTaken: If another driver writes the dataset.
    """
    refuse_other_scan_settings(Dataset.open(dataset_uri), recipe)
    with open_driver(dataset_uri, recipe, address) as driver:
        driver.keep_recipe()
        driver.retry(all_failed=False)
        driver.decide_and_plan(driver.sources_to_decide())
        return driver.finish(None, tracking)


def encode_dataset(dataset_uri: str, recipe: Recipe, *, address: str | None, tracking: Tracking) -> PreprocessResult:
    """The third step alone: encode what is planned, then name the new version of the dataset; the recipe is not stored.

    Raises:
        ValueError: If there is no dataset, its plan was made for another codec, other options or sizes, or the files of all clips
            that were to be encoded are gone.
        LeaseTaken: If another driver writes the dataset.
    """
    Dataset.open(dataset_uri)
    with open_driver(dataset_uri, recipe, address) as driver:
        driver.refuse_another_codec()
        driver.plan_returned()
        driver.scan_beside_encode((), driver.pending_shards())
        driver.publish()
        result = driver.finish(None, tracking)
        driver.refuse_gone_files()
        return result


@dataclass(frozen=True, kw_only=True)
class EncodePreview:
    """What `encode` would do.

    Attributes:
        shards: Keys of the planned shards that are not encoded.
        clips: Clips in them.
        hours: Their duration.
    """

    shards: tuple[str, ...]
    clips: int
    hours: float

    def as_dict(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        return [*self.shards, f"{len(self.shards)} shards of {self.clips} clips, {self.hours:.3f} h"]


def preview_encode(dataset_uri: str, recipe: Recipe) -> EncodePreview:
    """What is planned and not encoded; loads no codec, starts no Ray and stores nothing.

    Raises:
        ValueError: If there is no dataset, or nobody planned under these encode settings.
    """
    dataset = Dataset.open(dataset_uri)
    if not dataset.ledger.plan().num_rows:
        return EncodePreview(shards=(), clips=0, hours=0.0)
    codec = known_codec(dataset.record(), recipe)
    if codec is None:
        raise _not_planned(dataset_uri)
    waiting = _left_to_encode(dataset, recipe, codec)
    return EncodePreview(
        shards=tuple(dict.fromkeys(texts(shard_keys(waiting)))),
        clips=waiting.num_rows,
        hours=round(float(np.sum(waiting["end_s"].to_numpy() - waiting["start_s"].to_numpy())) / 3600, 6),
    )


def _left_to_encode(dataset: Dataset, recipe: Recipe, codec: CodecRecord) -> pa.Table:
    """The rows of the shards that `encode` would write, those among them that it would plan first."""
    ledger, settings = dataset.ledger, encode_fingerprint(recipe.encode, codec)
    share = recipe.sources.eval_percent  # shards do not depend on it
    kept = kept_clips(ledger.sources(), ledger.clips(), recipe.encode.sizes_px, eval_percent=share)
    kept = _known_captions(dataset, recipe).apply(kept)
    again = shards_of_returned(ledger, kept, recipe.plan, codec, settings)
    return pa.concat_tables([backlog(ledger, kept, settings), again])


def _known_captions(dataset: Dataset, recipe: Recipe) -> CaptionStep:
    """Applies what models said; where it would have to ask which model these settings mean, nobody planned with them."""

    def refuse() -> None:
        raise _not_planned(dataset.storage.uri)

    def no_meter(clips: int) -> Meter:
        raise AssertionError(f"{clips} clips are asked about, though nothing is written")

    return CaptionStep(dataset, recipe, need_ray=refuse, meter=no_meter)


def _not_planned(dataset_uri: str) -> ValueError:
    return ValueError(f"{dataset_uri} is not planned under these encode settings; run longtake plan with them")


def _waves(sources: Sequence[Source], size: int) -> Iterator[Sequence[Source]]:
    """Runs of sources, at least one: a changed threshold is worked on also where nothing new came."""
    return (sources[first : first + size] for first in range(0, max(len(sources), 1), size))
