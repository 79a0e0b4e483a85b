"""The metrics of a stage as a file: one JSON object a line, in the order of the steps.

Its one writer is rank 0. A line that a killed writer left half-written is dropped; where a step stands twice, because
a dying worker wrote on beside its successor, the last line counts (both say the same: training is deterministic).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MetricsLog:
    """An append-only file of metrics by step."""

    path: Path

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics after `step` optimizer steps."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def read(self) -> dict[int, dict[str, float]]:
        """Metrics by step; empty where there is no file."""
        return self.read_from(0)[0]

    def read_from(self, offset: int) -> tuple[dict[int, dict[str, float]], int]:
        """Metrics in the whole lines behind a place in the file, and the place behind them.

        Starts over where the file was rewritten, so that a step may come again.
        """
        if not self.path.exists():
            return {}, 0
        with self.path.open("rb") as file:
            if offset:
                file.seek(offset - 1)
                offset = offset if file.read(1) == b"\n" else file.seek(0)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        rows = [json.loads(line) for line in whole.splitlines() if line.endswith(b"}")]
        return {row.pop("step"): row for row in rows}, offset + len(whole)

    def truncate(self, step: int) -> None:
        """Forget what came after a step; a run that begins forgets everything, that of step 0 as well."""
        kept = {k: values for k, values in self.read().items() if k <= step} if step else {}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text("".join(json.dumps({"step": k, **values}) + "\n" for k, values in kept.items()))
        temporary.replace(self.path)
