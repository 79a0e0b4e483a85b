"""Pieces of the pages: clips with pictures, tables, numbers. Every text that comes from outside is escaped here."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from preprocessing.report.sheets import ClipCard
from preprocessing.report.style import STYLE
from preprocessing.report.work import Skipped

NAMED_SCORES = ("dynamism", "active_share", "steadiness")
"""Scores that stand under a clip where no others are asked for."""


def document(title: str, body: Iterable[str]) -> str:
    """A page that needs nothing else."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def sheet(cards: Sequence[ClipCard], *, scores: Sequence[str] = NAMED_SCORES) -> str:
    """Clips side by side, each as a strip of pictures over time, with these scores."""
    return f'<div class="sheet">{"".join(_figure(card, scores) for card in cards)}</div>'


def _figure(card: ClipCard, names: Sequence[str]) -> str:
    pictures = "".join(map(_picture, card.pictures)) or '<div class="none">no picture was stored</div>'
    measured = {name: card.scores[name] for name in names if name in card.scores}
    said = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in measured.items())
    length = f"{card.start_s:.1f} to {card.end_s:.1f} s, {counted(card.num_segments, 'segment')}"
    return (
        f'<figure class="{"dropped" if card.reasons else "kept"}"><div class="strip">{pictures}</div><figcaption title="{escape(card.clip_id)}">'
        f'{escape(card.uri)} <span class="quiet">{length}; {escape(", ".join(card.reasons) or "kept")}</span>'
        f'<span class="quiet">{escape(said)}</span></figcaption></figure>'
    )


def _picture(jpeg: bytes) -> str:
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Rows of numbers, texts and skipped figures; numbers stand right."""
    yield '<div class="scroll"><table><tr>' + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(map(_cell, row)) + "</tr>"
    yield "</table></div>"


def _cell(value: object) -> str:
    if isinstance(value, Skipped):
        return f'<td class="quiet">skipped: {escape(value.skipped)}</td>'
    if isinstance(value, int | float):
        return f'<td class="n">{number(value)}</td>'
    return f'<td class="uri">{escape("" if value is None else str(value))}</td>'


def number(value: float) -> str:
    """Whole numbers with thin spaces, others with three digits."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.3g}" if abs(value) < 1000 else number(round(value))


def counted(value: int, noun: str) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def hours(value: float) -> str:
    """A duration in the unit that people would take."""
    if value >= 1 or value == 0:
        return f"{number(round(value, 2))} h"
    return f"{value * 60:.3g} min" if value >= 1 / 60 else f"{value * 3600:.3g} s"
