"""Commands inside the process of the test: as `longtake` runs them, without the seconds that a process of its own takes."""

import io
import json
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from pipeline.cli import app, exit_status
from pipeline.commands import output


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended, and what it said."""

    status: int
    stdout: str
    stderr: str

    def result(self) -> dict[str, Any]:
        """Of a ``--json`` command that was done."""
        assert self.status == 0, self.stderr
        return json.loads(self.stdout)


def longtake(*words: str) -> Done:
    """Runs ``longtake WORDS``; on the Ray that this process has, if it has one."""
    said, complained = io.StringIO(), io.StringIO()
    with patch.object(output, "_results", said), redirect_stderr(complained):
        status = exit_status(lambda standalone_mode: app(args=list(words), standalone_mode=standalone_mode))
    return Done(status=status, stdout=said.getvalue(), stderr=complained.getvalue())
