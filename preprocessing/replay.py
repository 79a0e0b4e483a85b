"""Stored scans to decided clips, under any settings, without decoding anything."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from preprocessing import rows
from preprocessing.candidates import candidates
from preprocessing.config import ClipsConfig, DecideConfig
from preprocessing.decide import decide
from preprocessing.samples import ClipCandidate, SourceScan
from preprocessing.sources import split_of


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
    for scan in scans:
        cut = cut_source(scan, clips)
        found += cut
        splits += [str(split_of(scan.source.group_id, eval_percent))] * len(cut)
    decided = decide(rows.candidates_table(found), thresholds)
    dynamism = pc.struct_field(decided["scores"], "dynamism")
    return decided.append_column("dynamism", dynamism).append_column("split", pa.array(splits, pa.string()))


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
