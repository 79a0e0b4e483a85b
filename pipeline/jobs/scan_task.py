"""What a Ray worker does with a source. It imports as little as that takes: no recipe, ledger or meter, as each worker imports anew."""

from pipeline.jobs.cluster import decoding_child
from preprocessing.downloads import NoRoom, process_downloads
from preprocessing.samples import Source, SourceScan
from preprocessing.scan import ScanSettings, scan_input


def scan_one(source: Source, settings: ScanSettings) -> SourceScan:
    """Scans a source in the worker's decoding child."""
    worker = decoding_child(settings.scan.progress_timeout_s, settings.scan.memory_limit_mb)
    return scan_input(source, settings, worker, process_downloads())


def sha256_of(source: Source) -> str:
    """SHA-256 of its file; "" if that cannot be read: scanning it will say what is wrong."""
    try:
        return process_downloads().sha256(source.location, source.content_id)
    except NoRoom:
        raise
    except OSError:
        return ""
