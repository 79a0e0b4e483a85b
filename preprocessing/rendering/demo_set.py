"""The demo's folder of raw videos: every film, two broken files, a caption beside each, and the truth."""

import zlib
from pathlib import Path

import numpy as np

from preprocessing.reasons import Reason
from preprocessing.rendering.degenerate import degenerate_films
from preprocessing.rendering.edited import edited_films
from preprocessing.rendering.films import Film
from preprocessing.rendering.takes import takes
from preprocessing.rendering.truth import Truth, read_truth, write_truth
from preprocessing.video_io.write import Mp4Writer

TRUTH_FILE = "truth.json"
"""Beside the videos; written last, so that a folder which has it is whole."""

LOST_SHARE = 0.4
"""Share of the bytes that a torn file has lost from its beginning, and its header with them: nothing decodes."""


def demo_films() -> tuple[Film, ...]:
    """Every film of the demo that plays."""
    return (*takes(), *edited_films(), *degenerate_films())


def render_demo(folder: Path, *, seed: int) -> tuple[Truth, ...]:
    """Writes the demo's videos, captions and truth into a folder; does nothing if they are there.

    Args:
        folder: Made if absent; files of an interrupted call are written again.
        seed: Draws textures and starting points; names, moves and truth do not depend on it.
    """
    truth_path = folder / TRUTH_FILE
    if truth_path.exists():
        return read_truth(truth_path)
    folder.mkdir(parents=True, exist_ok=True)
    films = demo_films()
    for film in films:
        write_film(film, folder, seed=seed)
    truths = (*(film.truth for film in films), *_write_broken(folder, films[0]))
    write_truth(truths, truth_path)
    return truths


def write_film(film: Film, folder: Path, *, seed: int) -> None:
    """Writes one film and its caption; the same bytes for the same seed."""
    rng = np.random.default_rng([seed, zlib.crc32(film.name.encode())])
    frames_NHW3 = film.make(rng)
    path = folder / film.file
    with Mp4Writer(
        path, fps=film.form.fps, width_px=film.form.width_px, height_px=film.form.height_px, codec=film.codec
    ) as writer:
        for frame_HW3 in frames_NHW3:
            writer.write(frame_HW3)
    path.with_suffix(".txt").write_text(f"{film.caption}\n", encoding="utf-8")


def _write_broken(folder: Path, whole: Film) -> tuple[Truth, ...]:
    """A file that lost its beginning, and a text file with a video's name."""
    torn, text = folder / "broken_torn.mp4", folder / "broken_text.mp4"
    content = (folder / whole.file).read_bytes()
    torn.write_bytes(content[int(len(content) * LOST_SHARE) :])
    text.write_text("This is not a video.\n" * 50, encoding="utf-8")
    return tuple(
        Truth(file=path.name, caption="", failed_for=Reason.UNDECODABLE, transitions=(), shots=())
        for path in (torn, text)
    )
