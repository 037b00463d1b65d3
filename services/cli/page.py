"""The report as one HTML file: no script, no request, everything escaped by the template engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from services.cli import detail, words
from services.cli.insight import Pictures
from services.cli.report import Report, comparison_line, marks
from shared import curves
from shared.prompts import letter

_HERE = Path(__file__).parent


_LONG = 8  # entries of a list that the page still spells out


def html(report: Report, frames: Mapping[str, Pictures] | None = None) -> str:
    """The page of a report made by `report.build` (or read back from report.json), with `detail.frames` where given."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "points": words.points,
        "points_interval": words.points_interval,
        "p_value": words.p_value,
        "size": words.size,
        "duration": words.duration,
        "per_question": words.per_question,
    }
    steps = report["steps"]
    return environment.get_template("report.html.j2").render(
        report=report,
        rows=report["rows"],
        measured=[row for row in report["rows"] if row["accuracy"] is not None],
        curves=[curve for name, card in _cards(report["rows"]).items() if (curve := _curve(name, card))],
        labels=[_labels(step) for step in report["labels"]],
        longest=max([step["seconds"] or 0 for step in steps], default=0) or 1,
        models=_models(report["rows"]),
        comparison_line=comparison_line,
        brief=brief,
        marks=marks,
        titles=detail.TITLES,
        known=[row for row in report["rows"] if row["calibration"]],
        changed=[row for row in report["rows"] if row["changed"]],
        frames=frames or {},
        letter=letter,
        edges=detail.EDGES,
        **{name: getattr(detail, name) for name in ("reliability", "sureness", "leaning", "changes")},
    )


def _cards(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The card of each model that was trained in this run."""
    return {row["model"]: row["card"] for row in rows if row["card"].get("made_by") == "train"}


def _curve(name: str, card: dict[str, Any]) -> dict[str, Any] | None:
    training = curves.Training.of(card)
    drawn = curves.svg(training, name)
    return {"name": name, "svg": Markup(drawn), "told": curves.told(training)} if drawn else None


def brief(card: Any) -> Any:
    """A card without its long lists, which are for programs to read."""
    if isinstance(card, dict):
        return {key: brief(value) for key, value in card.items()}
    if isinstance(card, list) and len(card) > _LONG:
        return f"{len(card)} entries, in report.json"
    return card


def _labels(step: dict[str, Any]) -> dict[str, Any]:
    parts = step["verdicts"]
    costs = {
        "no usable answer": ", ".join(f"{kind} {count}" for kind, count in sorted(step["problems"].items())),
        "calls": f"{step['calls']:,}" if step["calls"] is not None else "",
        "of them from the journal": f"{step['replayed']:,}" if step["replayed"] else "",
        "tokens": f"{step['tokens_in']:,} in, {step['tokens_out']:,} out" if step["tokens_in"] is not None else "",
        "cost": words.usd(step["usd"]) if step["usd"] is not None else "",
        "for each accepted label": words.usd(step["usd_per_accepted"]) if step["usd_per_accepted"] is not None else "",
    }
    return {"name": step["name"], "parts": parts, "total": sum(count for _, count in parts) or 1, "costs": costs}


def _models(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each model once, with its size and how it compares with the largest."""
    sizes = {row["model"]: row["size_bytes"] for row in rows if row["size_bytes"]}
    largest = max(sizes.values(), default=1)
    return [{"name": name, "size": size, "share": size / largest} for name, size in sizes.items()]
