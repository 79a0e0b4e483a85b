"""The study's videos as pictures: eleven frames of the first held-out clip over time, a line for each model."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from evaluation.film import decode_image, encode_image
from evaluation.types import Picture
from preprocessing.rendering.scenes import Frames

COLUMNS = 11
LABEL_PX = 150
"""Width of the names left of the strips."""

GAP_PX = 3
"""Between them."""


def strip_path(out: Path, seed: int, variant: str) -> Path:
    """Where the strip of a row lies, beside the file of rows."""
    name = variant.lower().replace(" ", "-").replace("/", "-")
    return out.with_name(f"{out.stem}-strips") / f"seed{seed}-{name}.png"


def write_strip(path: Path, frames_NHW3: Frames) -> None:
    """Frames at equal distances, the first and the last among them, side by side."""
    chosen = np.linspace(0, len(frames_NHW3) - 1, COLUMNS).round().astype(int)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(np.hstack(list(frames_NHW3[chosen])), ".png"))


def sheet(names: Sequence[str], strips: Sequence[Path]) -> Picture:
    """Strips below each other with their names."""
    lines = [
        np.hstack([_label(name), decode_image(path.read_bytes())]) for name, path in zip(names, strips, strict=True)
    ]
    return np.vstack([np.pad(line, ((0, GAP_PX), (0, 0), (0, 0)), constant_values=255) for line in lines])


def _label(name: str) -> Picture:
    picture_HW3 = np.full((64, LABEL_PX, 3), 255, np.uint8)
    cv2.putText(picture_HW3, name, (4, 36), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return picture_HW3
