"""What the disk said, where safetensors repeats it in words alone, and the error of a file that is not what was written."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How Rust ends the text of an error of the system."""


class DamagedError(ValueError):
    """A file says what nobody wrote, or is not there and should be."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Give what safetensors raises in the block the class and the number that it has anywhere else.

    Args:
        path: What is written.

    Raises:
        OSError: With the number and the path, if the system refused.
    """
    try:
        yield
    except SafetensorError as error:
        found = _NUMBER.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
