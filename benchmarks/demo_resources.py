"""Wall time and peak memory (PSS) of a command and everything it starts: ``python -m benchmarks.demo_resources -- make demo``.

PSS counts a page that n processes share as 1 / n for each, so that the sum over a process tree is what the machine must
have. A process that leaves the tree (Ray's daemons are adopted by init) is still counted: descendants are known by a mark in
their environment.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import uuid

from benchmarks.marks import MARK, marked, pss_mb

INTERVAL_S = 1.0


def main() -> None:
    """Run the command, print its figures, and exit with its status."""
    options = _parser().parse_args()
    mark = f"{MARK}={uuid.uuid4().hex}"
    start = time.monotonic()
    process = subprocess.Popen(options.command, env=os.environ | dict([mark.split("=")]), stdout=sys.stderr)
    peak_mb, status = _watch(process, mark)
    wall_s = time.monotonic() - start
    left = len(list(marked(mark)))
    print(_report(wall_s, peak_mb, left, status, as_json=options.json))
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a sentence")
    parser.add_argument("command", nargs="+", help="the command, after --")
    return parser


def _watch(process: "subprocess.Popen[bytes]", mark: str) -> tuple[float, int]:
    """Sample until the command ends; the peak in MiB and the exit status."""
    peak_mb = 0.0
    while True:
        peak_mb = max(peak_mb, sum(pss_mb(pid) for pid in marked(mark)))
        try:
            return peak_mb, process.wait(timeout=INTERVAL_S)
        except subprocess.TimeoutExpired:
            continue


def _report(wall_s: float, peak_mb: float, left: int, status: int, *, as_json: bool) -> str:
    figures = {"wall_s": round(wall_s, 1), "peak_pss_mb": round(peak_mb), "processes_left": left, "status": status}
    if as_json:
        return json.dumps(figures)
    return f"{wall_s:.1f} s, {peak_mb:.0f} MiB PSS at most, {left} processes left, exit status {status}"


if __name__ == "__main__":
    main()
