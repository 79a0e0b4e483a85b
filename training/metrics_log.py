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
        if not self.path.exists():
            return {}
        lines = self.path.read_text().split("\n")[:-1]
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return {row.pop("step"): row for row in rows}

    def truncate(self, step: int) -> None:
        """Forget what came after a step; a run that begins forgets everything, that of step 0 as well."""
        kept = {k: values for k, values in self.read().items() if k <= step} if step else {}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text("".join(json.dumps({"step": k, **values}) + "\n" for k, values in kept.items()))
        temporary.replace(self.path)
