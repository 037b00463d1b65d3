"""What the report says beyond its table: how well rows know what they know, letters, and answers that changed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from services.cli import words
from services.cli.data import Progress
from services.cli.insight import Pictures, pictures
from shared.prompts import letter
from shared.store import Store

Row = Mapping[str, Any]  #: of the report

TITLES = {
    "category": "By category",
    "language": "By language",
    "choices": "By number of choices",
    "origin": "By origin",
}


# --- in words --------------------------------------------------------------------------------------


def baselines(rows: list[dict[str, Any]]) -> str | None:
    """What needs no model, on the same questions; None where nothing is measured."""
    first = next((row for row in rows if row["accuracy"] is not None), None)
    if first is None:
        return None
    return (
        f"A fair guess gets {words.percent(first['chance'])}, always giving the most frequent letter"
        f" {words.percent(first['majority'])}."
    )


def sureness(row: Row) -> str:
    """Whether a row claims more or less than it gets right."""
    low, high = row["calibration"]["ci95"]
    if row["claim"]:
        return "too few to tell"
    return "overconfident" if low > 0 else "underconfident" if high < 0 else "no gap shown"


def leaning(row: Row) -> str:
    """Which letters a row chooses too often or too seldom."""
    found = row["positions"]
    if row["claim"]:
        return "too few to tell"
    said = [f"{letter(at)} {words.points(found['places'][at]['excess'])}" for at in found["leaning"]]
    return ", ".join(said) or "none shown"


def changes(row: Row) -> str:
    """How many answers changed against the parent, and what that shows."""
    return (
        f"{words.counted(row['wins'], 'question')} from wrong to right, {row['losses']} from right to wrong"
        f" (McNemar's exact p {words.p_value(row['p_mcnemar'])} with questions as units, {words.p_value(row['p'])} with"
        " recordings)"
    )


# --- the reliability diagram -----------------------------------------------------------------------

EDGES = (42, 22, 292, 272)  #: of the plot: left, top, right, bottom, in a picture of 310 × 350
_STRIP = 34  # height of the bars below it


class Mark(NamedTuple):
    """A bin's place in the picture."""

    x: float
    y: float
    low: float
    high: float
    left: float  #: of its bar
    width: float
    bar: float  #: its height
    tip: str


def reliability(calibration: Mapping[str, Any]) -> list[Mark]:
    """Where each bin stands: confidence across, accuracy and interval up, and below it its share of questions."""
    left, top, right, bottom = EDGES
    most = max(found["n"] for found in calibration["bins"])

    def across(share: float) -> float:
        return round(left + (right - left) * share, 1)

    def up(share: float) -> float:
        return round(bottom - (bottom - top) * share, 1)

    return [
        Mark(
            across(found["confidence"]), up(found["accuracy"]), up(found["ci95"][0]), up(found["ci95"][1]),
            across(found["low"]), round((right - left) * (found["high"] - found["low"]) - 1, 1),
            round(_STRIP * found["n"] / most, 1),
            f"{words.counted(found['n'], 'question')}: {words.percent(found['confidence'])} sure,"
            f" {words.percent(found['accuracy'])} right ({words.interval(found['ci95'])})",
        )
        for found in calibration["bins"]
    ]  # fmt: skip


# --- frames ----------------------------------------------------------------------------------------


def frames(store: Store, rows: list[dict[str, Any]], progress: Progress) -> dict[str, Pictures]:
    """Pictures of the clips whose questions changed, by the clip's digest."""
    shown = [found for row in rows for which in (row["changed"] or {}).values() for found in which]
    digests = list(dict.fromkeys(found["clip"]["digest"] for found in shown))
    taken = {}
    for number, digest in enumerate(digests, 1):
        taken[digest] = pictures(store, digest)
        progress("pictures", number, len(digests))
    return taken
