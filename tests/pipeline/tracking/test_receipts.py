from pathlib import Path

import pytest

from pipeline.tracking.receipts import RECEIPTS_FILE, Receipts
from preprocessing.storage import open_storage


def receipts(folder: Path, uri: str = "http://host") -> Receipts:
    return Receipts(open_storage(str(folder)), uri)


def test_a_receipt_is_for_one_run_on_one_server(tmp_path: Path) -> None:
    receipts(tmp_path).add("evaluate", "a")
    receipts(tmp_path).add("evaluate", "b")
    assert all(receipts(tmp_path).has("evaluate", key) for key in "ab")
    assert not receipts(tmp_path).has("evaluate", "c")
    assert not receipts(tmp_path).has("generate", "a")
    assert not receipts(tmp_path, "http://another").has("evaluate", "a")


def test_a_receipt_tells_no_password(tmp_path: Path) -> None:
    receipts(tmp_path, "http://user:secret@host").add("evaluate", "a")
    assert "secret" not in (tmp_path / RECEIPTS_FILE).read_text()
    assert receipts(tmp_path, "http://user:another@host").has("evaluate", "a")


def test_damaged_receipts_are_none_and_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / RECEIPTS_FILE).write_text("[")
    assert not receipts(tmp_path).has("evaluate", "a")
    assert "cannot be read, its runs are tracked again" in caplog.text
    receipts(tmp_path).add("evaluate", "a")
    assert receipts(tmp_path).has("evaluate", "a")


def test_a_receipt_that_cannot_be_kept_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / RECEIPTS_FILE).mkdir()
    receipts(tmp_path).add("evaluate", "a")
    assert "no receipt was kept, the next call tracks evaluate again" in caplog.text
