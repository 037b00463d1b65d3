"""A dataset's counts in a terminal, and as a page with a contact sheet."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli import words
from services.cli.insight import Counts, Look, Shot, Size
from shared.formats.common import one_line

_HERE = Path(__file__).parent
_LINES = 20  # of one table; the rest is one line
_QUARTERS = {"min": "shortest", "p25": "a quarter up to", "median": "half up to", "p75": "three quarters up to",
             "max": "longest"}  # fmt: skip


def sizes(found: Mapping[str, Size]) -> Table:
    """All datasets, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("dataset", "clips", "size", "parts", "artifact"):
        table.add_column(column, justify="left" if column in ("dataset", "artifact") else "right", no_wrap=True)
    for name, of in found.items():
        cells = (one_line(name), f"{of.clips:,}", words.size(of.bytes), str(of.parts), of.artifact[:12])
        table.add_row(*(Text(cell) for cell in cells))
    return table


def headline(found: Look) -> str:
    """The dataset in one sentence."""
    clips = f"{words.counted(found.clips, 'clip')} of {words.counted(found.recordings, 'recording')}"
    length = f"{words.duration(found.seconds)}, {words.size(found.bytes)}"
    return f"{words.counted(found.questions, 'question')} ({found.answered:,} answered) on {clips} ({length})"


def tables(found: Look) -> Group:
    """All counts, each table as long as a terminal bears."""
    parts: list[Any] = [Text(f"{one_line(found.dataset)}: {headline(found)}", style="bold")]
    for title, counts, total in _counted(found):
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=60)
        table.add_column(f"{'clips' if title in found.clips_by else 'questions'}", justify="right")
        table.add_column("share", justify="right")
        for name, count in short(counts):
            table.add_row(Text(one_line(name)), Text(f"{count:,}"), Text(words.percent(count / total)))
        parts += [Text(), table]
    if found.duration:
        said = ", ".join(f"{_QUARTERS[name]} {words.duration(value)}" for name, value in found.duration.items())
        parts += [Text(), Text(f"clips last: {said}")]
    return Group(*parts)


def _counted(found: Look) -> Iterator[tuple[str, Counts, int]]:
    for counted, total in ((found.questions_by, found.questions), (found.clips_by, found.clips)):
        for title, counts in counted.items():
            if title != "empty choices" or set(counts) != {"0"}:
                yield title, counts, total


def short(counts: Counts) -> list[tuple[str, int]]:
    """The first lines of a table; the rest together in one more."""
    lines = list(counts.items())
    if len(lines) <= _LINES:
        return lines
    rest = lines[_LINES - 1 :]
    return [*lines[: _LINES - 1], (f"{len(rest)} others", sum(count for _, count in rest))]


def html(found: Look, shots: Sequence[Shot]) -> str:
    """A page that needs no network: no script, no request, everything escaped by the template engine."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": words.percent, "size": words.size, "duration": words.duration}
    return environment.get_template("dataset.html.j2").render(
        found=found,
        headline=headline(found),
        groups=[(title, short(counts), total) for title, counts, total in _counted(found)],
        quarters=[(_QUARTERS[name], value) for name, value in found.duration.items()],
        shots=shots,
    )
