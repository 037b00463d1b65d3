"""The report of a run: what was measured, with its error bars, and what that does and does not show.

`build` turns a run's figures into the dictionary that is `report.json`; the page and the terminal's
table are drawn from that dictionary alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import Field

from services.cli import words
from shared.breakdown import GROUPS
from shared.schema import Frozen

Scores = dict[str, Any]  #: what the evaluate stage wrote to scores.json
Report = dict[str, Any]
Row = dict[str, Any]

_OUTERMOST: dict[str, Callable[[Iterable[Any]], Any]] = {"min": min, "max": max}


# --- what it is made from --------------------------------------------------------------------------


class RowView(Frozen):
    """A row of the table. `scores` is None until its evaluation is done."""

    name: str
    parent: str | None = None
    model: str
    engine: str
    system_prompt: str
    scores: Scores | None = None
    parent_same_engine: Scores | None = None  #: the parent's own scores on this row's engine, where it has another
    against: dict[str, Scores | None] = {}  #: another row → this row's scores with that one as their parent
    size_bytes: int | None = None
    memory_bytes: int | None = None  #: at most, while it answered
    card: dict[str, Any] = {}  #: the model's card.json
    artifacts: dict[str, str] = {}  #: what it is → artifact id


class StepView(Frozen):
    """A step of the run. Facts of a step's shards are merged with `merge_facts`."""

    name: str
    stage: str
    state: str  #: complete, running, waiting, dead
    seconds: float | None = None  #: working time, summed over its tasks
    tasks: int | None = None
    facts: dict[str, Any] = {}


class DataView(Frozen):
    """A dataset that the run used."""

    name: str
    questions: int
    answered: int
    clips: int
    recordings: int
    test_derived: int = 0
    languages: tuple[str, ...] = ()


class ReportInput(Frozen):
    """Everything the report is drawn from; nothing in it is computed by the report's reader."""

    run: str
    name: str
    state: str  #: complete, running, failed, cancelled
    seconds: float = Field(ge=0)  #: wall time of the run so far
    test: str | None = None  #: name of the data that the rows are scored on
    rows: tuple[RowView, ...] = ()
    steps: tuple[StepView, ...] = ()
    data: tuple[DataView, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  #: further lines for "what the figures do not say"


def merge_facts(shards: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of a step's shards as one: numbers add up, tables merge, anything else keeps its first value.

    Of `min` and `max` the outermost stays. What is neither a sum nor can be told from the shards' (means, rates) is
    left out where there is more than one.
    """
    found: dict[str, list[Any]] = {}
    for facts in shards:
        for name, value in facts.items():
            found.setdefault(name, []).append(value)
    return {name: _merged(name, values) for name, values in found.items() if len(values) == 1 or not _average(name)}


def _average(name: str) -> bool:
    return name == "mean" or name.endswith("_per_second")


def _merged(name: str, values: list[Any]) -> Any:
    known = [value for value in values if value is not None] or [None]
    if all(isinstance(value, Mapping) for value in known):
        return merge_facts(known)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return _OUTERMOST.get(name, sum)(known)
    return known[0]


# --- report.json -----------------------------------------------------------------------------------


def build(view: ReportInput) -> Report:
    """The report as JSON-able data: `run`, `seconds`, `rows`, and what the page shows besides."""
    rows = [_row(row) for row in view.rows]
    return {
        "run": view.run,
        "name": view.name,
        "state": view.state,
        "seconds": view.seconds,
        "test": view.test,
        "headline": headline(rows),
        "rows": rows,
        "comparisons": [_comparison(view, other) for view in view.rows for other in view.against],
        **{f"by_{name}": _matrix(view.rows, f"by_{name}") for name in GROUPS},
        "labels": [_labels(step) for step in view.steps if step.stage == "label" and step.facts],
        "steps": [step.model_dump(mode="json") for step in view.steps],
        "data": [data.model_dump(mode="json") for data in view.data],
        "problems": list(view.problems),
        "caveats": [*caveats(rows), *view.notes],
    }


def _row(view: RowView) -> Row:
    scores = view.scores or {}
    against = scores.get("parent") or {}
    same_engine = view.parent_same_engine or {}
    row = {
        "name": view.name,
        "parent": view.parent,
        "model": view.model,
        "engine": view.engine,
        "system_prompt": view.system_prompt,
        **{key: scores.get(key) for key in ("accuracy", "n", "recordings", "ci95", "ci_method", "claim")},
        **{key: scores.get(key) for key in ("majority", "chance", "unanswered", "leaked", "transductive")},
        # None in scores that an older version of evaluate wrote
        **{key: scores.get(key) for key in ("calibration", "positions", "unseen")},
        **{key: against.get(key) for key in ("p", "p_mcnemar", "wins", "losses", "changed", "difference")},
        "difference_ci95": against.get("ci95"),
        "parent_accuracy": against.get("accuracy"),
        "parent_ci95_same_engine": same_engine.get("ci95"),
        "size_bytes": view.size_bytes,
        "memory_bytes": view.memory_bytes,
        "seconds_per_question": scores.get("seconds_per_question"),
        "prompt_tokens": scores.get("prompt_tokens"),
        "kept": scores.get("verdict"),  # of its parent: the verdict of a quantised or gated row
        "card": view.card,
        "artifacts": view.artifacts,
    }
    return row | {"verdict": verdict(row)}


def _comparison(view: RowView, other: str) -> Row:
    """A row beside another that is not its parent."""
    scores = view.against[other] or {}
    against = scores.get("parent") or {}
    found = {
        "row": view.name,
        "against": other,
        "engine": view.engine,
        **{key: scores.get(key) for key in ("accuracy", "n", "recordings", "claim")},
        "other_accuracy": against.get("accuracy"),
        "difference": against.get("difference"),
        "difference_ci95": against.get("ci95"),
        **{key: against.get(key) for key in ("ci_method", "p", "p_mcnemar", "wins", "losses")},
    }
    return found | {"verdict": verdict(found)}


def comparison_line(found: Row) -> str:
    """A comparison in a sentence."""
    said = f"{found['row']} against {found['against']}: "
    if found["difference"] is None:
        return f"{said}{found['verdict']}."
    ends = words.points_interval(found["difference_ci95"])
    return (
        f"{said}{words.points(found['difference'])} points (95% interval {ends}, paired test p {_p(found)},"
        f" n {found['n']}): {found['verdict']}."
    )


def verdict(row: Row) -> str:
    """What the paired test, against the parent or another row, allows to be said."""
    if row["accuracy"] is None:
        return "no answers to score with" if row["n"] else "not measured yet"
    if row["difference"] is None:
        return "nothing to compare with"
    if row["claim"]:
        return "too few to tell"
    if row["p"] >= 0.05:
        return "no difference shown"
    return "better" if row["difference"] > 0 else "worse"


def _matrix(views: Iterable[RowView], table: str) -> dict[str, Any]:
    """Accuracy of each row in each group, with its interval: groups down, rows across."""
    measured = [(view.name, view.scores.get(table) or {}) for view in views if view.scores]
    groups = {name: group["n"] for _, scores in measured for name, group in scores.items()}
    return {
        "rows": [name for name, _ in measured],
        "groups": [
            {"name": name, "n": n}
            | {key: [scores.get(name, {}).get(key) for _, scores in measured] for key in ("accuracy", "ci95")}
            for name, n in sorted(groups.items(), key=lambda item: (-item[1], item[0]))
        ],
    }


# --- what may be said ------------------------------------------------------------------------------


def headline(rows: list[Row]) -> dict[str, Any]:
    """What the run gained over its first row, in a sentence no stronger than the figures.

    Returns `kind` (gain, loss, open, small, waiting), `text` and the sentences that qualify it.
    """
    measured = [row for row in rows if row["accuracy"] is not None]
    if not measured and (claim := next((row["claim"] for row in rows if row["claim"]), None)):
        return {"kind": "small", "text": f"{claim}.", "details": []}
    base = next((row for row in measured if row["parent"] is None), None)
    if base is None or len(measured) < 2:
        text = f"{len(measured)} of {words.counted(len(rows), 'row')} measured: nothing to compare yet."
        return {"kind": "waiting", "text": text, "details": []}
    best = max((row for row in measured if row is not base), key=lambda row: row["accuracy"])
    if claim := best["claim"] or base["claim"]:
        return {"kind": "small", "text": f"{claim}.", "details": [_side_by_side(best, base)]}
    gain = best["accuracy"] - base["accuracy"]
    apart = _apart(best, base)
    if apart and gain > 0:
        kind, text = "gain", f"{best['name']} gets {words.percent(best['accuracy'])} of {best['n']} questions right; "
        text += f"{base['name']} gets {words.percent(base['accuracy'])}."
    elif gain > 0:
        kind, text = "open", f"No row is clearly better than {base['name']}."
    else:
        kind, text = "loss", f"No row scores above {base['name']}."
    return {
        "kind": kind,
        "text": text,
        "details": [_gain(best, base, apart), *_shrunk(measured), *_kept(measured), *_doubts(best)],
    }


def _side_by_side(best: Row, base: Row) -> str:
    found = [f"{row['name']} answered {round(row['accuracy'] * row['n'])} of {row['n']}" for row in (best, base)]
    return f"{found[0]}, {found[1]}; the 95% intervals are {_ends(best)} and {_ends(base)}."


def _gain(best: Row, base: Row, apart: bool) -> str:
    gain = words.points(best["accuracy"] - base["accuracy"])
    if best["parent"] == base["name"] and best["p"] is not None:
        ends = words.points_interval(best["difference_ci95"])
        return f"{best['name']}: {gain} points (95% interval {ends}, paired test p {_p(best)})."
    said = "do not overlap" if apart else "overlap, so chance may explain it"
    return f"{best['name']}: {gain} points. The 95% intervals, {_ends(best)} and {_ends(base)}, {said}."


def _apart(best: Row, base: Row) -> bool:
    """Whether a paired test says so where there is one, else whether the intervals do not overlap."""
    if best["parent"] == base["name"] and best["p"] is not None:
        return bool(best["p"] < 0.05)
    return bool(best["ci95"][0] > base["ci95"][1] or best["ci95"][1] < base["ci95"][0])


def _shrunk(measured: list[Row]) -> list[str]:
    """What each row that is smaller than its parent cost."""
    sizes, said = {row["name"]: row["size_bytes"] for row in measured}, []
    for row in measured:
        whole = sizes.get(row["parent"])
        if row["size_bytes"] and whole and row["size_bytes"] < 0.95 * whole and row["difference"] is not None:
            ends = words.points_interval(row["difference_ci95"])
            said.append(
                f"{row['name']} is {row['size_bytes'] / whole:.2f} of the size of {row['parent']}:"
                f" {words.points(row['difference'])} points ({ends}), {row['verdict']}."
            )
    return said


def _kept(measured: list[Row]) -> list[str]:
    """What each quantised or gated row kept of its parent, and what its gate makes of that."""
    said = []
    for row in measured:
        if not (kept := row.get("kept")):
            continue
        flips, apart, share = kept["flips"], kept["logprobs"], kept["recovery"]
        keeps = f"keeps {words.percent(share['is'])} ({words.interval(share['ci95'])}) of" if share else "is beside"
        gate = {"measured": "No gate was set"}.get(kept["state"], f"{kept['state'].capitalize()}: {kept['why']}")
        said.append(
            f"{row['name']} {keeps} {row['parent']}'s accuracy; {flips['flipped']} of {flips['n']} answers are others"
            f" ({flips['won']} won, {flips['lost']} lost); the choices' log-probabilities are {apart['mean']:.3f} apart"
            f" on average, {apart['max']:.2f} at most. {gate}."
        )
    return said


def _doubts(best: Row) -> list[str]:
    said = []
    if best["ci95"][0] <= best["majority"]:
        said.append(
            f"Always answering with the most frequent letter would get {words.percent(best['majority'])};"
            f" {best['name']} is not clearly above that."
        )
    if leaked := (best["leaked"] or {}).get("questions"):
        said.append(
            f"{leaked} of its {best['n']} questions are on recordings that {best['name']} was trained or calibrated on."
        )
    if taught := (best["transductive"] or {}).get("questions"):
        said.append(
            f"{best['name']} is transductive: it learned a teacher's answers on {taught} of the test's questions."
        )
    return said


def marks(row: Row) -> list[str]:
    """Words that belong beside a score wherever it stands: leaked, transductive, unseen, refused."""
    found = [mark for mark in ("leaked", "transductive", "unseen") if (row.get(mark) or {}).get("questions")]
    return found + (["refused"] if (row.get("kept") or {}).get("state") == "refused" else [])


def _ends(row: Row) -> str:
    return words.interval(row["ci95"])


def _p(row: Row) -> str:
    said = words.p_value(row["p"])
    return said if said.startswith("<") else f"= {said}"


def caveats(rows: list[Row]) -> list[str]:
    """What a reader must know before quoting a figure."""
    measured = [row for row in rows if row["accuracy"] is not None]
    if not measured:
        return []
    first = measured[0]
    said = [
        f"All rows answer the same {words.counted(first['n'], 'question')} from"
        f" {words.counted(first['recordings'], 'recording')}. Intervals and p values take the recording, not the"
        " question, as the unit. Other roads, cameras and countries are not in these figures.",
        "The best row is named after seeing the scores, and the p values are not corrected for the number of rows:"
        " confirm a choice on recordings that no one has looked at.",
    ]
    said += [f"{row['name']}: {row['claim']}." for row in measured if row["claim"]][:1]
    said += [line for row in measured for line in _leak_lines(row)]
    said += [
        f"{row['name']} did not see {words.counted(count, 'question')}, whose clips do not decode:"
        " each got the first letter."
        for row in measured
        if (count := (row["unseen"] or {}).get("questions"))
    ]
    if unanswered := first["unanswered"]:
        said.append(f"{words.counted(unanswered, 'test question')} without an answer are left out.")
    if len(engines := sorted({row["engine"] for row in measured})) > 1:
        said.append(
            f"Rows were answered by different engines ({', '.join(engines)}). Each difference is taken on one engine;"
            " seconds per question are not comparable between engines."
        )
    said.append("Seconds per question are those of this run's machine and batches, not of a server under load.")
    return said


def _leak_lines(row: Row) -> list[str]:
    said, leaked = [], row["leaked"] or {}
    if leaked.get("questions"):
        without = leaked.get("accuracy_without")
        rest = f"; on the others it scores {words.percent(without)}" if without is not None else ""
        said.append(
            f"{row['name']} was trained or calibrated on {words.counted(leaked['recordings'], 'recording')} of the test"
            f" set ({words.counted(leaked['questions'], 'question')}){rest}."
        )
    taught = row["transductive"] or {}
    if taught.get("questions"):
        said.append(
            f"{row['name']} is transductive: it learned a teacher's answers on clips or recordings of"
            f" {words.counted(taught['questions'], 'question')} of this very test."
        )
    elif taught.get("rows"):
        said.append(f"{row['name']} learned from {words.counted(taught['rows'], 'row')} drawn from another test set.")
    return said


# --- figures the page draws ------------------------------------------------------------------------


def _labels(step: StepView) -> dict[str, Any]:
    """What a label step made of its questions, and what that cost."""
    facts = step.facts
    usd, accepted = facts.get("usd"), facts.get("accepted")
    return {
        "name": step.name,
        "verdicts": verdicts(facts),
        "problems": facts.get("problems") or {},
        **{key: facts.get(key) for key in ("questions", "calls", "replayed", "tokens_in", "tokens_out", "usd")},
        "usd_per_accepted": usd / accepted if usd is not None and accepted else None,
    }


def label_line(step: Mapping[str, Any]) -> str:
    """A label step of the report in a sentence."""
    (_, accepted), *flagged = step["verdicts"]
    total = accepted + sum(count for _, count in flagged)
    said = [f"{accepted} of {words.counted(total, 'question')} accepted"]
    said += [f"{why} {count}" for why, count in flagged]
    if step["problems"]:
        said.append("no usable answer: " + ", ".join(f"{kind} {n}" for kind, n in sorted(step["problems"].items())))
    if step["calls"] is not None:
        said.append(words.counted(step["calls"], "call"))
    if step["usd"] is not None:
        said.append(f"{words.usd(step['usd'])}, {words.usd(step['usd_per_accepted'])} an accepted label")
    return f"{step['name']}: {'; '.join(said)}."


def verdicts(facts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(what became of them, how many) of a label step's questions: accepted first, then why the rest were flagged."""
    flagged = facts.get("flagged") or {}
    reasons = flagged if isinstance(flagged, Mapping) else {"flagged": flagged}
    return [
        ("accepted", int(facts.get("accepted", 0))),
        *sorted(((str(why), int(count)) for why, count in reasons.items()), key=lambda item: -item[1]),
    ]
