"""Trust in labels for people: the tables in a terminal, the picture and its page."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli import words
from services.cli.render import plain
from services.cli.trust import Point, Share, Trust

_HERE = Path(__file__).parent
NO_GROUND = (
    "What all prompts get wrong alike no vote can show, so unanimity alone is no ground for trust: "
    "only the verification, or people, can find such an error."
)


# --- in words --------------------------------------------------------------------------------------


def sentences(trust: Trust) -> list[str]:
    """What the tables do not say by themselves."""
    said = []
    if trust.kappa is not None:
        ends = f"{trust.kappa.ci95[0]:.2f}–{trust.kappa.ci95[1]:.2f}"
        said.append(f"The first five votes agree with Fleiss' kappa {trust.kappa.value:.2f} ({ends}).")
    together = trust.unanimous
    if together.precision.n:
        said.append(
            f"All usable votes agree on {words.counted(together.precision.n, 'question')} and are wrong on"
            f" {together.wrong}; errors independent of each other would make {together.independent:.1f} at most."
            f" {NO_GROUND}"
        )
    if trust.place_p is not None:
        found = "picks lean to a place" if trust.place_p < 0.05 else "no leaning to a place is shown"
        said.append(f"Position: {found} (p {_p(trust.place_p)}, corrected for {len(trust.places)} places).")
    if trust.usd_per_accepted is not None:
        said.append(f"Cost: {words.usd(trust.usd)}, {words.usd(trust.usd_per_accepted)} for each accepted label.")
    if trust.problems:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(trust.problems.items()))
        said.append(f"Without a usable answer: {kinds}.")
    return said


def advice(chosen: Point | None, target: float) -> str:
    """The line for the pipeline file, or that there is none."""
    if chosen is None:
        return (
            f"No threshold's lower 95% bound reaches {words.percent(target)}: answer more questions by hand for a"
            " narrower interval, or use a better teacher."
        )
    return f"min_agreement: {chosen.min_agreement:g}  # lower 95% bound reaches {words.percent(target)}"


def _p(p: float) -> str:
    said = words.p_value(p)
    return said if said.startswith("<") else f"= {said}"


# --- in a terminal ---------------------------------------------------------------------------------


def tables(trust: Trust, target: float | None, chosen: Point | None) -> Group:
    """All that was measured; with a target, the threshold that reaches it."""
    head = f"{words.counted(trust.n, 'answered question')} of {words.counted(trust.recordings, 'recording')}"
    parts: list[Any] = [Text(f"{head}; min_agreement {trust.min_agreement:g}", style="bold"), Text()]
    parts += [_whole(trust), Text(), _curve(trust, chosen)]
    if len(trust.places) > 1:
        parts += [Text(), _places(trust)]
    parts += [Text(), _groups("category", trust.categories)]
    if len(trust.rounds) > 1:
        parts += [Text(), _groups("rounds asked", trust.rounds)]
    if trust.flagged:
        parts += [Text(), _flagged(trust)]
    parts += [Text(), *(Text(plain(line)) for line in sentences(trust))]
    if target is not None:
        parts += [Text(), Text(advice(chosen, target), style="bold")]
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(columns[0], no_wrap=True)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _row(table: Table, *cells: object, style: str = "") -> None:
    table.add_row(*(Text(plain(str(cell)), style=style) for cell in cells))


def _cells(share: Share) -> tuple[str, str, str]:
    return words.percent(share.value), f"{share.n:,}", words.interval(share.ci95)


def _whole(trust: Trust) -> Table:
    table = _table("", "right", "n", "95% interval", "of questions", "95% interval")
    _row(table, "single vote, first round", *_cells(trust.single_vote), "", "")
    for prompt in trust.prompts:
        _row(table, f"  {prompt.prompt}", *_cells(prompt.accuracy), "", "", style="dim")
    for name, point in (("majority, unverified", trust.majority), ("accepted", trust.accepted)):
        covered = (words.percent(point.coverage.value), words.interval(point.coverage.ci95))
        _row(table, name, *_cells(point.precision), *covered, style="bold" if name == "accepted" else "")
    return table


def _curve(trust: Trust, chosen: Point | None) -> Table:
    table = _table("min_agreement", "right", "accepted", "95% interval", "of questions", "asked again", "")
    for point in trust.curve:
        own = "this recipe" if point is trust.curve[0] else ""
        mark = "◂ chosen" if point == chosen else own
        again = str(point.asked_again) if point.asked_again else ""
        cells = (*_cells(point.precision), words.percent(point.coverage.value), again, mark)
        _row(table, f"{point.min_agreement:g}", *cells, style="bold" if point == chosen else "")
    return table


def _places(trust: Trust) -> Table:
    table = _table("shown place", "picked", "right there", "difference", "p")
    for place in trust.places:
        difference = words.points(place.picked - place.right)
        _row(table, place.place, words.percent(place.picked), words.percent(place.right), difference,
             words.p_value(place.p))  # fmt: skip
    return table


def _groups(what: str, groups: Iterable[Any]) -> Table:
    table = _table(what, "questions", "accepted", "right", "95% interval")
    for group in groups:
        right, _, ends = _cells(group.precision)
        _row(table, group.name, group.coverage.n, words.percent(group.coverage.value), right, ends)
    return table


def _flagged(trust: Trust) -> Table:
    table = _table("flagged because", "questions", "first choice right all the same")
    for flagged in trust.flagged:
        _row(table, flagged.reason, flagged.n, words.percent(flagged.leading_right.value))
    return table


# --- the picture -----------------------------------------------------------------------------------

WIDTH, HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 40, 56  # the axes' margins
_APART = 20  # marks that are nearer to each other share a name: the second has it in its tip


class Mark(NamedTuple):
    """A point of the picture, in its units."""

    x: float
    y: float
    low: float
    high: float
    name: str  #: the threshold; empty where there is no room
    tip: str
    chosen: bool
    right: bool  #: whether the name stands to the right of the mark


class Picture(NamedTuple):
    """Coverage and precision as lines, with what the axes need."""

    verified: list[Mark]
    alone: list[Mark]
    ticks_x: list[tuple[float, str]]
    ticks_y: list[tuple[float, str]]
    target: tuple[float, str] | None


def draw(trust: Trust, target: float | None, chosen: Point | None) -> Picture:
    """Lay the two curves out. Both axes begin where there is something to see, and end at all questions and at 1."""
    points = [point for point in (*trust.curve, *trust.votes_alone) if point.precision.n]
    low = min([point.precision.ci95[0] for point in points if point.precision.ci95] + ([target] if target else []),
              default=0.0)  # fmt: skip
    left = min((point.coverage.value or 0.0 for point in points), default=0.0)
    start_y, start_x = _start(low), _start(left)
    scale_x = _Scale(start_x, _LEFT, WIDTH - _RIGHT)
    scale_y = _Scale(start_y, HEIGHT - _BOTTOM, _TOP)
    return Picture(
        verified=_marks(trust.curve, scale_x, scale_y, chosen, right=True),
        alone=_marks(trust.votes_alone, scale_x, scale_y, None, right=False),
        ticks_x=scale_x.ticks(),
        ticks_y=scale_y.ticks(),
        target=(scale_y.at(target), words.percent(target)) if target is not None else None,
    )


class _Scale(NamedTuple):
    """Shares from `start` to 1, on an axis from one pixel to another."""

    start: float
    first: float
    last: float

    def at(self, share: float) -> float:
        return round(self.first + (share - self.start) / (1 - self.start) * (self.last - self.first), 1)

    def ticks(self) -> list[tuple[float, str]]:
        step = 5 if self.start >= 0.75 else 10 if self.start >= 0.5 else 20
        lowest = round(100 * self.start)
        return [(self.at(share / 100), f"{share}%") for share in range(100, lowest - 1, -step)]


def _start(lowest: float) -> float:
    """A round share below the lowest, at most 0.9."""
    return max(0.0, min(0.9, int(lowest * 20 - 0.2) / 20 if lowest >= 0.75 else int(lowest * 10 - 0.1) / 10))


def _marks(points: Sequence[Point], x: _Scale, y: _Scale, chosen: Point | None, right: bool) -> list[Mark]:
    marks: list[Mark] = []
    for point in sorted(points, key=lambda point: point.coverage.value or 0.0):
        if point.precision.ci95 is None:
            continue
        at = x.at(point.coverage.value or 0.0), y.at(point.precision.value or 0.0)
        crowded = any(mark.name and math.dist(at, mark[:2]) < _APART for mark in marks)
        marks.append(
            Mark(
                *at, y.at(max(y.start, point.precision.ci95[0])), y.at(point.precision.ci95[1]),
                f"{point.min_agreement:g}" if point == chosen or not crowded else "",
                f"min_agreement {point.min_agreement:g}: {words.percent(point.precision.value)} right"
                f" ({words.interval(point.precision.ci95)}) of {words.percent(point.coverage.value)}"
                f" of the questions, n {point.precision.n}",
                point == chosen, right,
            )
        )  # fmt: skip
    return marks


def svg(trust: Trust, target: float | None, chosen: Point | None) -> str:
    """The picture alone, with its style in it."""
    return _template("trust.svg.j2", trust, target, chosen, alone=True)


def html(trust: Trust, target: float | None, chosen: Point | None) -> str:
    """The picture in a page that needs no network, with the figures below it."""
    return _template("trust.html.j2", trust, target, chosen, alone=False)


def _template(name: str, trust: Trust, target: float | None, chosen: Point | None, *, alone: bool) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": words.percent, "interval": words.interval}
    return environment.get_template(name).render(
        picture=draw(trust, target, chosen), trust=trust, chosen=chosen, alone=alone, size=(WIDTH, HEIGHT),
        edges=(_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM), sentences=sentences(trust), no_ground=NO_GROUND,
        advice=None if target is None else advice(chosen, target),
    )  # fmt: skip
