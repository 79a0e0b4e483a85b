"""Stored scans to decided clips, under any settings, without decoding anything."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from preprocessing import rows
from preprocessing.candidates import candidates
from preprocessing.config import ClipsConfig, DecideConfig
from preprocessing.decide import decide
from preprocessing.reasons import Reason
from preprocessing.samples import ClipCandidate, SourceScan
from preprocessing.sources import split_of

CAPTION_WORDS = "caption_words"
"""The score that a new caption changes without a new scan."""

TRUNCATED = "truncated"
"""The score that is 1 where the source broke off."""


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
    found: list[ClipCandidate] = []
    splits: list[str] = []
    of_source: dict[str, list[float]] = {CAPTION_WORDS: [], TRUNCATED: []}
    for scan in scans:
        cut = cut_source(scan, clips)
        found += cut
        splits += [str(split_of(scan.source.group_id, eval_percent))] * len(cut)
        of_source[CAPTION_WORDS] += [float(len(scan.source.caption.split()))] * len(cut)
        of_source[TRUNCATED] += [float(Reason.TRUNCATED in scan.reasons)] * len(cut)
    decided = decide(_with_scores(rows.candidates_table(found), of_source), thresholds)
    dynamism = pc.struct_field(decided["scores"], "dynamism")
    return decided.append_column("dynamism", dynamism).append_column("split", pa.array(splits, pa.string()))


def _with_scores(found: pa.Table, values: Mapping[str, Sequence[float]]) -> pa.Table:
    scores: Any = found["scores"].combine_chunks()
    columns = dict(zip(rows.SCORES, scores.flatten(), strict=True))
    columns |= {name: pa.array(of_clips, pa.float64()) for name, of_clips in values.items()}
    replaced = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    return found.set_column(found.schema.get_field_index("scores"), "scores", replaced)


def cut_source(scan: SourceScan, clips: ClipsConfig) -> tuple[ClipCandidate, ...]:
    """The candidates of one source that decoded."""
    assert scan.probe is not None
    assert scan.signals is not None
    shown = scan.picture or scan.probe
    return candidates(
        source_id=scan.source.source_id,
        num_frames=scan.num_frames,
        height_px=shown.height_px,
        width_px=shown.width_px,
        transitions=scan.transitions,
        signals=scan.signals,
        clips=clips,
        first_frame=scan.first_frame,
    )


def recaptioned_sources(sources: pa.Table, clips: pa.Table) -> set[str]:
    """Ids of sources whose caption got another number of words since their clips were decided.

    Args:
        sources: `Ledger.sources()`.
        clips: `Ledger.clips()`.
    """
    words = pa.array([len(str(caption).split()) for caption in sources["caption"].to_pylist()], pa.float64())
    at = pc.index_in(clips["source_id"], value_set=sources["source_id"].combine_chunks())
    decided = pc.struct_field(clips["scores"], CAPTION_WORDS)
    differs = pc.not_equal(words.take(at), pc.fill_null(decided, pa.scalar(-1.0)))
    return set(map(str, pc.unique(clips["source_id"].filter(differs)).to_pylist()))
