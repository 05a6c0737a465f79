"""A plot as SVG: lines through points, with axes and a legend; what README files can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 790, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 220, 20, 60
#: about as many ticks on each axis
TICKS = 6
#: of colour-blind safe hues (Okabe and Ito); lines of one subject share one, and are told apart by their dashes
COLOURS, DASHES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), ("", "7 4", "2 3")


@dataclass(frozen=True)
class Series:
    """A named line of a subject through points (x, y)."""

    subject: str
    name: str
    points: Sequence[tuple[float, float]]


def draw(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """The SVG text: a colour for each subject, dashes for each name."""
    subjects, names = (list(dict.fromkeys(getattr(one, kind) for one in series)) for kind in ("subject", "name"))
    xs = [x for one in series for x, _ in one.points]
    ys = [0.0, *(y for one in series for _, y in one.points)]
    across, up = _Axis(0.0, max(xs) * 1.05, LEFT, WIDTH - RIGHT), _Axis(min(ys), max(ys) * 1.05, HEIGHT - BOTTOM, TOP)
    size, font = f'viewBox="0 0 {WIDTH} {HEIGHT}"', 'font-family="sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in across.ticks():
        x = across.place(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#e0e0e0"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:.2g}</text>')
    for tick in up.ticks():
        y = up.place(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e0e0e0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.2g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(18 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for number, one in enumerate(series):
        colour = COLOURS[subjects.index(one.subject) % len(COLOURS)]
        parts += _line(one, number, colour, DASHES[names.index(one.name) % len(DASHES)], across, up)
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Values from `low` to `high` along pixels from `start` to `end`."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high if high > low else low + 1, start, end

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, about as many as fit."""
        rough = (self.high - self.low) / TICKS
        unit = 10 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _line(one: Series, number: int, colour: str, dashes: str, across: _Axis, up: _Axis) -> list[str]:
    stroke = f'stroke="{colour}" stroke-width="2"'
    dashed = f'{stroke} stroke-dasharray="{dashes}"'
    places = [(across.place(x), up.place(y)) for x, y in one.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    y = TOP + 20 * number + 12
    x = WIDTH - RIGHT + 16
    return [
        f'<polyline points="{path}" fill="none" {dashed}/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="white" {stroke}/>' for x, y in places),
        f'<line x1="{x}" y1="{y - 4}" x2="{x + 24}" y2="{y - 4}" {dashed}/>',
        f'<text x="{x + 30}" y="{y}">{escape(f"{one.subject}, {one.name}")}</text>',
    ]
