"""Text and image features without weights: hashed n-grams and a pooled thumbnail.

Similar captions share n-grams and so have similar features; unlike captions are nearly orthogonal. Every number is of
about unit scale, as a model expects of an encoder's output.

Letters: L text tokens, N image tokens, D features.
"""

import hashlib
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

from preprocessing.codecs.base import Frame
from preprocessing.samples import TextFeatures

TEXT_TOKENS = 16
"""Words that get a token of their own but the last, which holds all remaining words."""

TEXT_DIM = 64
"""Features of a token."""

POOLED_DIM = 32
"""Features of the whole caption."""

GRID = 4
"""The thumbnail's cells along each side; one token each."""

IMAGE_TOKENS = GRID * GRID

SUBCELLS = 3
"""Colour samples along each side of a cell."""

IMAGE_DIM = SUBCELLS * SUBCELLS * 3 + 3 + 2
"""Colour samples, contrast of the three colours, and where the cell is: 32."""

_WORD = re.compile(r"\w+")
_NO_WORDS = ""


def _signs(ngrams: list[str], dim: int) -> NDArray[np.float32]:
    """A pseudo-random vector of +1 and -1 for every n-gram, the same on every machine, (len(ngrams), dim)."""
    digests = b"".join(hashlib.blake2b(ngram.encode(), digest_size=dim // 8).digest() for ngram in ngrams)
    bits = np.unpackbits(np.frombuffer(digests, dtype=np.uint8)).reshape(len(ngrams), dim)
    return bits.astype(np.float32) * 2 - 1


def _hashed(ngrams: list[str], dim: int) -> NDArray[np.float32]:
    """The sum of all n-grams' vectors, brought back to unit scale, (dim,)."""
    return _signs(ngrams, dim).sum(axis=0) / np.float32(np.sqrt(len(ngrams)))


def _word_ngrams(previous: str, word: str) -> list[str]:
    """The word, the pair with the word before it (order matters), and its character trigrams."""
    padded = f"<{word}>"
    trigrams = [padded[i : i + 3] for i in range(len(padded) - 2)]
    return [f"word:{word}", f"pair:{previous} {word}", *trigrams]


def _words(caption: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", caption).casefold()) or [_NO_WORDS]


def hashed_text(caption: str) -> TextFeatures:
    """Tokens and pooled features of a caption; an empty one gets a token that says so."""
    words = _words(caption)
    ngrams = [_word_ngrams(previous, word) for previous, word in zip([_NO_WORDS, *words], words, strict=False)]
    rest = [ngram for word in ngrams[TEXT_TOKENS - 1 :] for ngram in word]
    tokens = ngrams[: TEXT_TOKENS - 1] + ([rest] if rest else [])
    llama_LD = np.zeros((TEXT_TOKENS, TEXT_DIM), dtype=np.float32)
    llama_LD[: len(tokens)] = [_hashed(token, TEXT_DIM) for token in tokens]
    mask_L = (np.arange(TEXT_TOKENS) < len(tokens)).astype(np.int64)
    pooled_D = _hashed([ngram for word in ngrams for ngram in word], POOLED_DIM)
    return TextFeatures(llama_LD=llama_LD, mask_L=mask_L, clip_pooled_D=pooled_D)


def _area_means(values_HWC: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Mean of each of side x side nearly equal rectangles, (side, side, 3)."""
    height_px, width_px, _ = values_HWC.shape
    if min(height_px, width_px) < side:
        raise ValueError(f"a picture of {height_px} x {width_px} pixels; a thumbnail needs {side} x {side}")
    rows = np.linspace(0, height_px, side + 1).astype(int)
    columns = np.linspace(0, width_px, side + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(values_HWC, rows[:-1], axis=0), columns[:-1], axis=1)
    return sums / (np.diff(rows)[:, None, None] * np.diff(columns)[None, :, None])


def pooled_thumbnail(frame: Frame) -> NDArray[np.float32]:
    """Colours, contrast and place of 4 x 4 cells of a picture, (N, D), row by row.

    Raises:
        ValueError: If a side is shorter than 12 pixels.
    """
    values = frame / 63.75 - 2.0  # 0..255 to -2..2: about unit deviation
    samples = _area_means(values, GRID * SUBCELLS).reshape(GRID, SUBCELLS, GRID, SUBCELLS, 3)
    colours = samples.transpose(0, 2, 1, 3, 4).reshape(IMAGE_TOKENS, -1)
    variance = np.maximum(_area_means(values**2, GRID) - _area_means(values, GRID) ** 2, 0)
    contrast = np.sqrt(variance).reshape(IMAGE_TOKENS, 3)
    ticks = np.linspace(-1.5, 1.5, GRID)
    place = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(IMAGE_TOKENS, 2)
    return np.concatenate([colours, contrast, place], axis=1).astype(np.float32)
