"""What is left to encode: shards that are planned and not written, for clips that are kept as they were planned."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from preprocessing.config import PlanConfig
from preprocessing.input_files import InputPlaces
from preprocessing.ledger import Ledger
from preprocessing.plan import (
    at_current_places,
    failed_clips,
    latent_bytes,
    pending_shards,
    plan,
    planned_under,
    still_kept,
)
from preprocessing.plan_rows import same_clips
from preprocessing.reasons import says_gone
from preprocessing.relations import only, texts
from preprocessing.samples import CodecRecord, ShardRecord


def backlog(ledger: Ledger, kept: pa.Table, encode_fingerprint: str) -> pa.Table:
    """The rows of the shards that are planned under these encode settings, still wanted and not written, with their files' places of now."""
    waiting = pending_shards(ledger.plan(), ledger.encodes(), encode_fingerprint)
    return at_current_places(still_kept(waiting, kept), ledger.sources())


def returned_clips(planned: pa.Table, encodes: Iterable[ShardRecord], sources: pa.Table) -> set[str]:
    """Ids of the clips whose last attempt failed only because their files were gone, and whose files are there now.

    Args:
        planned: The shards that count, those of one set of encode settings (schema `plan_rows.PLAN`).
        encodes: All shards that were written.
        sources: `Ledger.sources()`: where files are now.
    """
    gone = [clip_id for clip_id, line in failed_clips(planned, encodes).items() if says_gone(line)]
    rows = at_current_places(only(planned, "clip_id", gone), sources)
    places = dict(zip(texts(rows["clip_id"]), texts(rows["location"]), strict=True))
    inputs = InputPlaces()
    there = {location for location in sorted(set(places.values())) if inputs.is_readable(location)}
    return {clip_id for clip_id, location in places.items() if location in there}


def shards_of_returned(
    ledger: Ledger, kept: pa.Table, settings: PlanConfig, codec: CodecRecord, encode_fingerprint: str
) -> pa.Table:
    """The shards to add for kept clips that are planned under these encode settings, failed for want of their files, and have them again."""
    planned = planned_under(ledger.plan(), encode_fingerprint)
    returned = returned_clips(planned, ledger.encodes(), ledger.sources())
    as_planned, _ = same_clips(kept, only(planned, "clip_id", returned))
    return plan(
        kept.take(np.unique(as_planned)),
        planned,
        settings,
        latent_bytes=lambda clips: latent_bytes(clips, codec),
        encode_fingerprint=encode_fingerprint,
        retry=returned,
    )
