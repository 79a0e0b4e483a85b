"""Transitions, signals and clip settings in, clip candidates with all their scores out. Pure: replayed without decoding.

A shot is what lies between two transitions, without the frames that a gradual change mixes. On the grid each shot gives clips one after
the other, clip k + 1 where clip k ended, each as long as it may be. Where a shot is black or frozen for a while it is divided, and
`clip_index` skips a number: clips k and k + 1 of a shot are always neighbours without a gap. A part without room for a clip gives
a candidate of 0 segments, so that it has a row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from preprocessing.config import ClipsConfig
from preprocessing.pieces import Piece, pieces_of
from preprocessing.samples import ClipCandidate, Signals, Transition
from preprocessing.scores import SCORE_DECIMALS, Measurements, Ranges, rounded, scores_of
from preprocessing.video_io.timeline import frame_step_s

VERSION = 6

_SECONDS_DECIMALS = 6
_SOURCES_AT_ONCE = 64
"""Sources that are scored together, at most."""
_AT_ONCE = 1 << 18
"""Places for measurements that are looked at together, at most, where one source does not need more: about 100 bytes each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates(Sequence[ClipCandidate]):
    """The P candidates of one source, in order; by columns, since a ledger has a million, and rows only once one is asked for.

    Attributes:
        source_id: Whose they are.
        fps: Frames a second of the grid.
        pieces: Their ranges, in frames of the file: the columns of `Piece`, (P,) each.
        start_s: (P,).
        end_s: (P,).
        scores: By name, (P,) each; NaN where one was not measured.
    """

    source_id: str
    fps: float
    pieces: Mapping[str, NDArray[np.int64]]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]

    def clip_ids(self) -> list[str]:
        """Derived from the source and the ranges."""
        rate = round(self.fps * 1000)
        columns = (self.pieces[name].tolist() for name in ("shot_index", "clip_index", "start_frame", "end_frame"))
        return [
            f"{self.source_id}-{shot:03d}-{clip:03d}-{start}-{end}-{rate}"
            for shot, clip, start, end in zip(*columns, strict=True)
        ]

    def __len__(self) -> int:
        """P."""
        return len(self.start_s)

    @overload
    def __getitem__(self, index: int) -> ClipCandidate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ClipCandidate]: ...
    def __getitem__(self, index: int | slice) -> ClipCandidate | Sequence[ClipCandidate]:
        """One row, or some."""
        return self._rows[index]

    @cached_property
    def _rows(self) -> tuple[ClipCandidate, ...]:
        pieces = {name: column.tolist() for name, column in self.pieces.items()}
        scores = {name: values.tolist() for name, values in self.scores.items()}
        columns = {"clip_id": self.clip_ids(), "start_s": self.start_s.tolist(), "end_s": self.end_s.tolist()} | pieces
        return tuple(
            ClipCandidate(
                source_id=self.source_id,
                fps=self.fps,
                scores={name: values[i] for name, values in scores.items() if values[i] == values[i]},  # NaN: not there
                **{name: column[i] for name, column in columns.items()},
            )
            for i in range(len(self))
        )


@dataclass(frozen=True, kw_only=True)
class Footage:
    """What a scan found in a source, as far as clips are cut from it.

    Attributes:
        source_id: Whose they are.
        num_frames: Frames that decoded.
        height_px: Of the displayed picture.
        width_px: Of the displayed picture.
        transitions: In order, not overlapping; in frames of the file, as the clips are.
        signals: Of the same frames.
        first_frame: Frame of the file that the first of the frames that decoded is.
    """

    source_id: str
    num_frames: int
    height_px: int
    width_px: int
    transitions: Sequence[Transition]
    signals: Signals
    first_frame: int = 0

    def inside(self) -> list[tuple[int, int]]:
        """The frames that each transition mixes, in frames that decoded."""
        return [
            (change.start_frame - self.first_frame, change.end_frame - self.first_frame) for change in self.transitions
        ]


def candidates(sources: Iterable[Footage], clips: ClipsConfig) -> Iterator[Candidates]:
    """All clips that sources could give, source by source, in order."""
    for cuts in _together(_cut(footage, clips) for footage in sources):
        yield from _scored(cuts, clips)


def candidates_of(footage: Footage, clips: ClipsConfig) -> Candidates:
    """All clips that one source could give, in order."""
    (found,) = candidates([footage], clips)
    return found


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """A source in pieces."""

    footage: Footage
    step_s: float
    pieces: Mapping[str, NDArray[np.int64]]
    ranges: Ranges


def _cut(footage: Footage, clips: ClipsConfig) -> _Cut:
    times_s, step_s = footage.signals.timestamps_s, frame_step_s(footage.signals.timestamps_s)
    measured = Measurements.of(footage.signals, clips, step_s=step_s)
    pauses = sorted({frame for stretch in (*measured.black, *measured.frozen) for frame in stretch})
    black_N = footage.signals.luma < clips.black_luma
    pieces = _columns(pieces_of(times_s, black_N, footage.inside(), pauses, clips, step_s=step_s))
    ranges = Ranges(measured=measured, start_P=pieces["start_frame"], end_P=pieces["end_frame"])
    return _Cut(footage=footage, step_s=step_s, pieces=pieces, ranges=ranges)


def _together(cuts: Iterable[_Cut]) -> Iterator[list[_Cut]]:
    """Runs of sources whose scores fit into memory together: as many rows as ranges, each as long as the longest."""
    run: list[_Cut] = []
    number = longest = 0
    for cut in cuts:
        more, length = cut.ranges.shape()
        if len(run) == _SOURCES_AT_ONCE or (run and (number + more) * max(longest, length) > _AT_ONCE):
            yield run
            run, number, longest = [], 0, 0
        run.append(cut)
        number, longest = number + more, max(longest, length)
    if run:
        yield run


def _scored(cuts: Sequence[_Cut], clips: ClipsConfig) -> Iterator[Candidates]:
    """With what is said of their ranges, of all sources at once."""
    scores = scores_of([cut.ranges for cut in cuts], clips)
    begin = 0
    for cut in cuts:
        end = begin + len(cut.ranges.start_P)
        yield _candidates(cut, {name: values_P[begin:end] for name, values_P in scores.items()}, clips)
        begin = end


def _candidates(cut: _Cut, scores: Mapping[str, NDArray[np.float64]], clips: ClipsConfig) -> Candidates:
    footage, step_s, times_s = cut.footage, cut.step_s, cut.footage.signals.timestamps_s
    start_P, end_P = cut.ranges.start_P, cut.ranges.end_P
    shown_s = np.append(times_s, times_s[-1] + step_s)  # the frame behind the last, one step later
    of_source = {
        "height_px": float(min(footage.height_px, footage.width_px)),
        "source_fps": round(1 / step_s, SCORE_DECIMALS),
    }
    moved = {name: footage.first_frame + frame_P for name, frame_P in (("start_frame", start_P), ("end_frame", end_P))}
    return Candidates(
        source_id=footage.source_id,
        fps=clips.fps,
        pieces={**cut.pieces, **moved},
        start_s=rounded(shown_s[start_P], _SECONDS_DECIMALS),
        end_s=rounded(shown_s[end_P], _SECONDS_DECIMALS),
        scores={name: np.full(len(start_P), value) for name, value in of_source.items()}
        | {"transitions": _crossed(start_P, end_P, footage.inside())}
        | dict(scores),
    )


def _columns(pieces: Iterable[Piece]) -> dict[str, NDArray[np.int64]]:
    """By name, (P,) each."""
    columns = np.array(list(pieces), np.int64).reshape(-1, len(Piece._fields)).T
    return dict(zip(Piece._fields, columns, strict=True))


def _crossed(
    start_P: NDArray[np.int64], end_P: NDArray[np.int64], transitions: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """Of how many transitions mixed frames, or both sides of a cut, lie in each piece, (P,)."""
    crossed_P = np.zeros(len(start_P))
    for begin, over in transitions:
        crossed_P += (begin < end_P) & (start_P < over)
    return crossed_P
