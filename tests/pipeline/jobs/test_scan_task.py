import subprocess
import sys
from pathlib import Path

from pipeline.jobs.scan_task import sha256_of
from preprocessing.samples import Source

LOADED = """
import sys
import pipeline.jobs.scan_task
unwanted = ("pipeline.config", "pipeline.progress", "preprocessing.ledger", "rich", "torch", "mlflow")
print([name for name in unwanted if name in sys.modules])
"""


def test_a_worker_imports_neither_recipes_nor_the_ledger_nor_a_progress_bar() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_cannot_be_read_has_no_hash(tmp_path: Path) -> None:
    gone = Source(source_id="0", group_id="0", uri="gone.mp4", location=str(tmp_path / "gone.mp4"), content_id="1")
    assert sha256_of(gone) == ""
