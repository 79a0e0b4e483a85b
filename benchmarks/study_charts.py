"""Line charts as SVG files for a page of Markdown."""

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 470, 30, 260
"""Of the plot; names stand right of it."""

COLOURS = ("#888", "#000", "#35c", "#c33", "#283", "#b70", "#84b", "#0aa")


def line_chart(lines: Mapping[str, Points], *, title: str, x_name: str) -> str:
    """Lines over one pair of axes, which span what there is; from 0 to 1 if there is nothing yet.

    Args:
        lines: At most eight, by name; none may be empty.
        title: Above.
        x_name: Below.
    """
    points = [point for points in lines.values() for point in points] or [(0.0, 0.0), (1.0, 1.0)]
    x_range, y_range = ((min(values), max(values)) for values in zip(*points, strict=True))
    drawn = [_line(i, name, points, x_range, y_range) for i, (name, points) in enumerate(lines.items())]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>{_axes(x_range, y_range, x_name)}'
        f"{''.join(drawn)}</svg>\n"
    )


def _line(i: int, name: str, points: Points, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    places = [(_scale(x, x_range, LEFT, RIGHT), _scale(y, y_range, BOTTOM, TOP)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    height, colour = TOP + 10 + 18 * i, COLOURS[i]
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        f'<line x1="{RIGHT + 12}" x2="{RIGHT + 32}" y1="{height}" y2="{height}" stroke="{colour}" stroke-width="3"/>'
        f'<text x="{RIGHT + 38}" y="{height + 4}">{escape(name)}</text>'
    )


def _axes(x_range: tuple[float, float], y_range: tuple[float, float], x_name: str) -> str:
    box = f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="#aaa"/>'
    ticks = [
        *(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>' for y, value in zip((BOTTOM, TOP), y_range, strict=True)),
        *(f'<text x="{x}" y="{BOTTOM + 16}" text-anchor="middle">{value:.3g}</text>' for x, value in zip((LEFT, RIGHT), x_range, strict=True)),
    ]  # fmt: skip
    middle = (LEFT + RIGHT) / 2
    return f'{box}{"".join(ticks)}<text x="{middle}" y="{BOTTOM + 32}" text-anchor="middle">{escape(x_name)}</text>'


def _scale(value: float, values: tuple[float, float], first: float, last: float) -> float:
    low, high = values
    return first + (last - first) * (value - low) / ((high - low) or 1.0)
