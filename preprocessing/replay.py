"""Stored scans to decided clips, under any settings, without decoding anything."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing import rows
from preprocessing.candidates import Candidates, Footage, candidates
from preprocessing.config import ClipsConfig, DecideConfig
from preprocessing.decide import decide
from preprocessing.pieces import Piece
from preprocessing.reasons import Reason
from preprocessing.samples import SourceScan
from preprocessing.splits import split_of, splits_of

CAPTION_WORDS = "caption_words"
"""The score that a new caption changes without a new scan."""

TRUNCATED = "truncated"
"""The score that is 1 where the source broke off."""

HDR = "hdr"
"""The score that is 1 where the source is HDR."""


def decided_clips(
    scans: Iterable[SourceScan], clips: ClipsConfig, thresholds: DecideConfig, *, eval_percent: int
) -> pa.Table:
    """All candidates of scanned sources and what is decided about each (schema `rows.CLIPS`).

    Args:
        scans: Of sources that are ok.
        clips: How shots become clips.
        thresholds: Which of them are kept.
        eval_percent: Share of groups held out.
    """
    splits: list[str] = []
    of_source: dict[str, list[float]] = {CAPTION_WORDS: [], TRUNCATED: [], HDR: []}

    def footages() -> Iterator[Footage]:
        for scan in scans:
            splits.append(str(split_of(scan.source.group_id, eval_percent)))
            of_source[CAPTION_WORDS].append(len(scan.source.caption.split()))
            of_source[TRUNCATED].append(Reason.TRUNCATED in scan.reasons)
            of_source[HDR].append(scan.probe is not None and scan.probe.is_hdr)
            yield footage_of(scan)

    found = list(candidates(footages(), clips))
    decided = decide(_table(found, of_source), thresholds)
    dynamism = pc.struct_field(decided["scores"], "dynamism")
    split = pa.array(splits, pa.string()).take(_sources(found))
    return decided.append_column("dynamism", dynamism).append_column("split", split)


def _table(found: Sequence[Candidates], of_source: Mapping[str, Sequence[float]]) -> pa.Table:
    """The candidates of all sources (schema `rows.CANDIDATES`), with more scores that each source has of its own."""
    if not found:
        return rows.CANDIDATES.empty_table()
    source = _sources(found)
    scores = {name: np.concatenate([of.scores[name] for of in found]) for name in found[0].scores}
    scores |= {name: np.array(values, np.float64)[source] for name, values in of_source.items()}
    assert scores.keys() == set(rows.SCORES), f"scores without a column, or columns without one: {sorted(scores)}"
    columns: dict[str, Any] = {
        **{name: np.concatenate([of.pieces[name] for of in found]) for name in Piece._fields},
        "clip_id": [clip_id for of in found for clip_id in of.clip_ids()],
        "source_id": pa.array([of.source_id for of in found], pa.string()).take(source),
        "start_s": np.concatenate([of.start_s for of in found]),
        "end_s": np.concatenate([of.end_s for of in found]),
        "fps": np.array([of.fps for of in found])[source],
        "scores": pa.StructArray.from_arrays(
            [pa.array(scores[name], from_pandas=True) for name in rows.SCORES],  # NaN becomes null
            names=list(rows.SCORES),
        ),
    }
    return pa.table(columns, schema=rows.CANDIDATES)


def _sources(found: Sequence[Candidates]) -> NDArray[np.int64]:
    """Of which source each candidate is."""
    return np.repeat(np.arange(len(found)), [len(of) for of in found])


def footage_of(scan: SourceScan) -> Footage:
    """What the candidates of one source that decoded are cut from."""
    assert scan.probe is not None
    assert scan.signals is not None
    shown = scan.picture or scan.probe
    return Footage(
        source_id=scan.source.source_id,
        num_frames=scan.num_frames,
        height_px=shown.height_px,
        width_px=shown.width_px,
        transitions=scan.transitions,
        signals=scan.signals,
        first_frame=scan.first_frame,
    )


def recaptioned_sources(sources: pa.Table, clips: pa.Table) -> set[str]:
    """Ids of sources whose caption got another number of words since their clips were decided.

    Args:
        sources: `Ledger.sources()`.
        clips: `Ledger.clips()`.
    """
    words = pa.array([len(str(caption).split()) for caption in sources["caption"].to_pylist()], pa.float64())
    decided: Any = pc.fill_null(pc.struct_field(clips["scores"], CAPTION_WORDS), pa.scalar(-1.0))
    return _differing_sources(clips, decided, sources, words)


def regrouped_sources(sources: pa.Table, clips: pa.Table, *, eval_percent: int) -> set[str]:
    """Ids of sources whose group stands in another split than their clips were put into when they were decided.

    Args:
        sources: `Ledger.sources()`.
        clips: `Ledger.clips()`.
        eval_percent: Share of groups held out.
    """
    return _differing_sources(clips, clips["split"], sources, splits_of(sources["group_id"], eval_percent))


def _differing_sources(clips: pa.Table, decided: pa.ChunkedArray, sources: pa.Table, now: pa.Array) -> set[str]:
    """Ids of sources of which some clip was decided under another value than the source has now."""
    at = pc.index_in(clips["source_id"], value_set=sources["source_id"].combine_chunks())
    differs = pc.not_equal(now.take(at), decided)
    return set(map(str, pc.unique(clips["source_id"].filter(differs)).to_pylist()))
