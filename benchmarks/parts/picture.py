"""Accuracy over a knob as a picture: one panel a knob, points with their 95% intervals, shapes that tell rows apart."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, GAP, BOTTOM = 330, 220, 48, 34, 24, 44  #: pixels of a panel's field, and around it
_STYLE = (
    ".knobs { --paper: #fbfaf7; --ink: #1d2328; --quiet: #5e6870; --line: #d9d6ce; --after: #0b5fa5; --other: #8a5a00;"
    " font: 13px system-ui, sans-serif; background: var(--paper); }"
    "@media (prefers-color-scheme: dark) { .knobs { --paper: #14181b; --ink: #e7e5df; --quiet: #9aa4ab;"
    " --line: #333b41; --after: #6db3ee; --other: #f0c568; } }"
    ".knobs text { fill: var(--ink); } .knobs .quiet { fill: var(--quiet); font-size: 12px; }"
    ".knobs .grid { stroke: var(--line); } .knobs .mark { stroke-width: 2; fill: var(--paper); }"
    ".knobs .after { stroke: var(--after); fill: var(--after); } .knobs .other { stroke: var(--other); }"
    ".knobs .before { stroke: var(--quiet); }"
)


class Mark(NamedTuple):
    """A point. `look`: before, after or other."""

    value: float
    share: float
    ends: Sequence[float]
    look: str
    tip: str


class Panel(NamedTuple):
    title: str
    marks: list[Mark]


def draw(panels: Sequence[Panel], label: str) -> str:
    """The panels side by side, on one scale of shares, as an SVG file's text."""
    ends = [end for panel in panels for mark in panel.marks for end in mark.ends]
    low, high = int(10 * min(ends)) / 10, -int(-10 * max(ends)) / 10 + 0.1
    width = LEFT + len(panels) * (WIDTH + GAP)
    body = [_panel(panel, LEFT + place * (WIDTH + GAP), low, high, named=place == 0)
            for place, panel in enumerate(panels)]  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="knobs" viewBox="0 0 {width} {TOP + HEIGHT + BOTTOM}"'
        f' role="img" aria-label="{escape(label)}"><title>{escape(label)}</title><style>{_STYLE}</style>'
        f"{''.join(body)}</svg>\n"
    )


def _panel(panel: Panel, left: int, low: float, high: float, *, named: bool) -> str:
    def at(share: float) -> float:
        return round(TOP + HEIGHT * (high - share) / (high - low), 1)

    values = sorted({mark.value for mark in panel.marks})
    columns = {value: left + WIDTH * (place + 0.5) / len(values) for place, value in enumerate(values)}
    found = [f'<text x="{left}" y="{TOP - 14}">{escape(panel.title)}</text>']
    for tenth in range(round(10 * low), round(10 * high) + 1):
        y = at(tenth / 10)
        found.append(f'<line class="grid" x1="{left}" x2="{left + WIDTH}" y1="{y}" y2="{y}"/>')
        if named:
            found.append(f'<text class="quiet" x="{left - 8}" y="{y + 4}" text-anchor="end">{10 * tenth}%</text>')
    for value, x in columns.items():
        found.append(f'<text class="quiet" x="{x}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{value:g}</text>')
    aside = {"before": -10, "after": 0, "other": 10}
    for mark in panel.marks:
        x, y = columns[mark.value] + aside[mark.look], at(mark.share)
        shape = (
            f'<rect class="mark {mark.look}" x="{x - 4}" y="{y - 4}" width="8" height="8"/>'
            if mark.look == "other"
            else f'<circle class="mark {mark.look}" cx="{x}" cy="{y}" r="5"/>'
        )
        span = f'<line class="mark {mark.look}" x1="{x}" x2="{x}" y1="{at(mark.ends[0])}" y2="{at(mark.ends[1])}"/>'
        found.append(f"<g><title>{escape(mark.tip)}</title>{span}{shape}</g>")
    return "".join(found)
