"""What is left to encode: shards that are planned and not written, for clips that are kept as they were planned."""

import pyarrow as pa

from preprocessing.ledger import Ledger
from preprocessing.plan import at_current_places, pending_shards, still_kept


def backlog(ledger: Ledger, kept: pa.Table, encode_fingerprint: str) -> pa.Table:
    """The rows of the shards that are planned under these encode settings, still wanted and not written, with their files' places of now."""
    waiting = pending_shards(ledger.plan(), ledger.encodes(), encode_fingerprint)
    return at_current_places(still_kept(waiting, kept), ledger.sources())
