"""A page of the clips that change sides under other settings, from stored pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import Dataset
from preprocessing.report.columns import clip_seconds, rows_among, rows_at, where
from preprocessing.report.parts import counted, document, hours, sheet
from preprocessing.report.sheets import ClipCard, cards, spread
from preprocessing.samples import Verdict

SHOWN = 60
"""Clips shown on either side, spread evenly over all that change."""

CUT_OTHERWISE = "cut otherwise"
"""Stands for the reason where other settings give no such clip at all."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The clips that change sides, each side with schema `rows.CLIPS`.

    Attributes:
        now_kept: Clips that other settings would keep and that are not kept now.
        now_dropped: Clips that are kept now and would not be, as they are now.
        decided: All clips under the other settings.
    """

    now_kept: pa.Table
    now_dropped: pa.Table
    decided: pa.Table


def changes(before: pa.Table, decided: pa.Table) -> Changes:
    """What changes sides between two tables of decided clips (schema `rows.CLIPS`)."""
    kept_before, kept_after = (where(table, "decision", Verdict.KEEP) for table in (before, decided))
    return Changes(
        now_kept=_without(kept_after, kept_before), now_dropped=_without(kept_before, kept_after), decided=decided
    )


def _without(clips: pa.Table, others: pa.Table) -> pa.Table:
    known = pc.is_in(clips["clip_id"], value_set=others["clip_id"].combine_chunks())
    return clips.filter(pc.invert(known))


def write_changes(dataset: Dataset, decided: pa.Table, path: Path, *, overrides: Sequence[str]) -> None:
    """Write the page of what would change if clips were decided otherwise (schema `rows.CLIPS`)."""
    page = render_changes(dataset, changes(dataset.ledger.clips(), decided), overrides=overrides)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def render_changes(dataset: Dataset, changed: Changes, *, overrides: Sequence[str]) -> str:
    """The page.

    Args:
        dataset: Whose clips they are.
        changed: What to show.
        overrides: The other settings, as ``--set`` takes them.
    """
    return document("what other settings would change", _body(dataset, changed, overrides))


def _body(dataset: Dataset, changed: Changes, overrides: Sequence[str]) -> Iterator[str]:
    said = " ".join(f"<code>{escape(one)}</code>" for one in overrides) or "the recipe as it stands"
    yield f"<h1>What other settings would change</h1><p>With {said}. Nothing was decoded, and nothing is stored.</p>"
    yield from _side("Would be kept, and is not now", changed.now_kept, _shown(dataset, changed.now_kept))
    dropped = _shown(dataset, changed.now_dropped)
    yield from _side(
        "Would be dropped, and is kept now", changed.now_dropped, _with_new_reasons(dropped, changed.decided)
    )


def _shown(dataset: Dataset, clips: pa.Table) -> list[ClipCard]:
    return cards(dataset, rows_at(clips, spread(np.arange(clips.num_rows), SHOWN)))


def _side(words: str, clips: pa.Table, shown: Sequence[ClipCard]) -> Iterator[str]:
    yield f"<h2>{words}: {counted(clips.num_rows, 'clip')}, {hours(float(clip_seconds(clips).sum()) / 3600)}</h2>"
    if len(shown) < clips.num_rows:
        yield f'<p class="quiet">{len(shown)} of them:</p>'
    yield sheet(shown)


def _with_new_reasons(dropped: Sequence[ClipCard], decided: pa.Table) -> list[ClipCard]:
    """What the other settings say of clips that are kept now."""
    found = rows_among(decided, "clip_id", (card.clip_id for card in dropped)).select(["clip_id", "reasons"])
    reasons = {row["clip_id"]: row["reasons"] for row in found.to_pylist()}
    return [replace(card, reasons=tuple(reasons.get(card.clip_id, [CUT_OTHERWISE]))) for card in dropped]
