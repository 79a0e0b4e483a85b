import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.isolation import IsolatedWorker
from preprocessing.video_io.write import Mp4Writer

MakeTake = Callable[..., Path]


def moving_picture(frame: int, fade: float) -> np.ndarray:
    """A textured pan whose contrast shrinks by `fade` a frame."""
    coarse = np.random.default_rng(0).integers(0, 255, (12, 40, 3)).astype(np.uint8)
    backdrop = cv2.resize(coarse, (480, 96), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    picture = backdrop[:, frame : frame + 128]
    return np.clip(128 + (picture - 128) * (1 - fade) ** frame, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_take() -> MakeTake:
    """Writes a 24 fps mp4 of 96 x 128 pixels, and a record of how it was made where ranges are given."""

    def make(path: Path, *, num_frames: int = 60, fade: float = 0.0, generated: list[list[int]] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Mp4Writer(path, fps=24, width_px=128, height_px=96) as writer:
            for frame in range(num_frames):
                writer.write(moving_picture(frame, fade))
        if generated is not None:
            record = {"num_frames": num_frames, "fps": 24, "conditioning": [[0, 1]], "generated": generated}
            path.with_suffix(".json").write_text(json.dumps(record | {"model": {"codec_id": "dct"}}))
        return path

    return make


@pytest.fixture(scope="module")
def child() -> Iterator[IsolatedWorker]:
    """One decoding child for a file of tests: starting one takes half a second."""
    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=2048) as worker:
        yield worker
