"""Receipts: beside a result lies which runs of it a server has whole, so that the next call tracks what a kill took."""

import json
import logging

from pipeline.tracking.uris import without_secrets
from preprocessing.storage import Storage

logger = logging.getLogger(__name__)

RECEIPTS_FILE = "receipts.json"
"""File beside a result that names the runs which a server took whole."""


class Receipts:
    """What one server has of the results in one folder; a receipt that cannot be kept costs a warning, not the work."""

    def __init__(self, beside: Storage, uri: str) -> None:
        """Reads nothing yet.

        Args:
            beside: The folder of the results, also on an object store.
            uri: Of the server.
        """
        self._beside, self._server = beside, without_secrets(uri)

    def has(self, kind: str, run_key: str) -> bool:
        """Whether the server has this run whole."""
        return self._name(kind, run_key) in self._names()

    def add(self, kind: str, run_key: str) -> None:
        """Keeps that the server has this run whole."""
        names = sorted({*self._names(), self._name(kind, run_key)})
        try:
            self._beside.write_atomic(RECEIPTS_FILE, f"{json.dumps(names, indent=2)}\n".encode())
        except OSError as error:
            logger.warning("no receipt was kept, the next call tracks %s again: %s", kind, error)

    def _name(self, kind: str, run_key: str) -> str:
        return f"{self._server} {kind} {run_key}"

    def _names(self) -> list[str]:
        try:
            return json.loads(self._beside.read_bytes(RECEIPTS_FILE))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            place = f"{self._beside.uri}/{RECEIPTS_FILE}"
            logger.warning("%s cannot be read, its runs are tracked again: %s", place, error)
            return []
