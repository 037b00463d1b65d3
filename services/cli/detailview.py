"""The report's details in a terminal: groups, calibration, letters, and answers that changed."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli import detail, words
from services.cli.render import plain
from services.cli.report import Report
from shared.prompts import letter

_LONG = 100  # characters of a question


def details(report: Report) -> Group:
    """Everything that the table of the rows leaves out; only what was measured."""
    parts: list[Any] = []
    for name, title in detail.TITLES.items():
        if report[f"by_{name}"]["groups"]:
            parts += [Text(), by_group(title, report[f"by_{name}"])]
    known = [row for row in report["rows"] if row["calibration"]]
    if known:
        parts += [Text(), _calibration(known)]
    for row in known:
        parts += [Text(), _confusion(row)]
    for row in report["rows"]:
        if row["changed"]:
            parts += [
                Text(),
                Text(plain(f"{row['name']} against {row['parent']}: {detail.changes(row)}"), style="bold"),
            ]
            parts += [_change(which, found) for which in ("won", "lost") for found in row["changed"][which]]
    return Group(*parts)


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(plain(first))
    for name in columns:
        table.add_column(plain(name), justify="right", no_wrap=True)
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(Text(plain(str(cell))) for cell in cells))


def by_group(title: str, matrix: dict[str, Any]) -> Table:
    """Accuracy with its interval: groups down, rows across."""
    table = _table(title, "n", *matrix["rows"])
    for group in matrix["groups"]:
        cells = [
            words.NONE if share is None else f"{words.percent(share)} {words.interval(ends)}"
            for share, ends in zip(group["accuracy"], group["ci95"], strict=True)
        ]
        _row(table, group["name"], group["n"], *cells)
    return table


def _calibration(rows: list[dict[str, Any]]) -> Table:
    table = _table("Calibration", "sure", "right", "gap", "95% interval", "", "ECE", "by chance", "letters")
    for row in rows:
        found = row["calibration"]
        _row(
            table, row["name"], words.percent(found["confidence"]), words.percent(row["accuracy"]),
            words.points(found["gap"]), words.points_interval(found["ci95"]), detail.sureness(row),
            words.percent(found["ece"]), words.percent(found["floor"]), detail.leaning(row),
        )  # fmt: skip
    return table


def _confusion(row: dict[str, Any]) -> Table:
    found = row["positions"]
    letters = [letter(place) for place in range(len(found["places"]))]
    table = _table(f"{row['name']}: right ↓ chosen →", *letters)
    for name, counts in zip(letters, found["confusion"], strict=True):
        _row(table, name, *counts)
    for name, key in (("chosen", "chosen"), ("without a liking", "expected")):
        _row(table, name, *(words.percent(place[key]) for place in found["places"]))
    _row(table, "difference", *(words.points(place["excess"]) for place in found["places"]))
    _row(table, "its interval", *(words.points_interval(place["ci95"]) for place in found["places"]))
    return table


def _change(which: str, found: dict[str, Any]) -> Text:
    text = found["text"] if len(found["text"]) <= _LONG else found["text"][: _LONG - 1] + "…"
    said = " → ".join(
        f"{letter(side['choice'])} {words.percent(side['confidence'])}" for side in (found["before"], found["now"])
    )
    tone = "green" if which == "won" else "red"
    return Text.assemble(
        (f"  {which:4} ", tone), plain(f"{said}  {text} ({found['question']}, {found['clip']['name']})")
    )
