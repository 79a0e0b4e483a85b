"""Whether Direct Forcing takes more memory for longer clips: ``python -m benchmarks.direct_memory [--json]``.

The `small` preset trains its head on the first 2 and on all 40 segments of a clip, each in a process of its own. `tensors` is
the most that living tensors took at once; `rss` the most that the process did, measured apart, because counting costs
memory too.
"""

import argparse
import json
import resource
import subprocess
import sys
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.train_step import Trainer, clip
from training.objectives.direct_forcing import direct_forcing

LENGTHS = (2, 40)
UPDATES = 2
"""The first makes AdamW's moments."""


class LiveTensors(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live.

    Attributes:
        peak: The most there were at once.
    """

    def __init__(self) -> None:
        """Nothing made yet."""
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:  # noqa: ANN401, D105
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def measure(num_segments: int, *, tensors: bool) -> int:
    """Bytes at most, in this process."""
    torch.set_num_threads(1)
    trainer, batch = Trainer(head_only=True), clip(max(LENGTHS))
    if not tensors:
        for _ in range(UPDATES):
            trainer.segments_s(direct_forcing, batch, num_segments)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with LiveTensors() as live:
        for _ in range(UPDATES):
            trainer.segments_s(direct_forcing, batch, num_segments)
    return live.peak


def measure_apart(num_segments: int, what: str) -> int:
    """The same in a new process."""
    command = [sys.executable, "-m", "benchmarks.direct_memory", "--child", str(num_segments), what]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    parser.add_argument("--child", nargs=2, metavar=("SEGMENTS", "WHAT"), help="measure here, and print bytes")
    arguments = parser.parse_args()
    if arguments.child:
        length, what = arguments.child
        sys.stdout.write(str(measure(int(length), tensors=what == "tensors")))
        return
    figures = {}
    for what in ("tensors", "rss"):
        short, long = (measure_apart(length, what) for length in LENGTHS)
        figures |= {f"{what}_mb_of_{LENGTHS[0]}": short / 1e6, f"{what}_mb_of_{LENGTHS[1]}": long / 1e6}
        figures |= {f"{what}_{LENGTHS[1]}_over_{LENGTHS[0]}": long / short}
    sys.stdout.write(
        json.dumps(figures) + "\n" if arguments.json else "".join(f"{k}: {v:.4g}\n" for k, v in figures.items())
    )


if __name__ == "__main__":
    main()
