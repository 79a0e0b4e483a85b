"""Receipts: beside a result lies which runs of it a server has whole, so that the next call tracks what a kill took."""

import json
import logging

from pipeline.tracking.uris import without_secrets
from preprocessing.storage import Storage

logger = logging.getLogger(__name__)

RECEIPTS_FILE = "receipts.json"
"""File beside a result that names the runs which a server took whole."""


class Receipts:
    """What one server has of the results in one folder."""

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
        self._beside.write_atomic(RECEIPTS_FILE, f"{json.dumps(names, indent=2)}\n".encode())

    def _name(self, kind: str, run_key: str) -> str:
        return f"{self._server} {kind} {run_key}"

    def _names(self) -> list[str]:
        try:
            return json.loads(self._beside.read_bytes(RECEIPTS_FILE))
        except FileNotFoundError:
            return []
        except ValueError:
            logger.warning("%s/%s is not JSON; its runs are tracked again", self._beside.uri, RECEIPTS_FILE)
            return []
