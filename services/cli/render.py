"""What a run looks like in a terminal: the table of its rows, and its steps while they work."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli import words
from services.cli.detail import baselines
from services.cli.estimate import Bounds, Estimate
from services.cli.rejected import TurnedAway
from services.cli.report import Report, comparison_line, label_line, marks
from services.cli.runs import Step
from shared.pipeline import Limits
from shared.prices import prices

_TONES = {"better": "green", "worse": "red"}
_STATES = {
    "done": ("✓", "green"),
    "running": ("▸", "cyan"),
    "dead": ("✗", "red"),
    "paused": ("‖", "yellow"),
    "ready": ("…", ""),
    "waiting": ("·", "dim"),
}


# --- the table of the report -----------------------------------------------------------------------


def report_table(report: Report) -> Group:
    """The rows with their error bars, and below them the sentence that they allow."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("row", no_wrap=True)
    for name in ("right", "n", "95% interval", "against parent", "p", "size", "per question"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for row in report["rows"]:
        table.add_row(*_cells(row))
    headline = report["headline"]
    lines = [Text(plain(headline["text"]), style="bold"), *(Text(plain(line)) for line in headline["details"])]
    lines += [Text(plain(comparison_line(found))) for found in report["comparisons"]]
    if guesses := baselines(report["rows"]):
        lines.append(Text(guesses, style="dim"))
    problems = [Text(plain(f"! {problem}"), style="yellow") for problem in report["problems"]]
    labels = [Text(plain(label_line(step)), style="dim") for step in report["labels"]]
    return Group(table, Text(), *lines, *labels, *problems)


def _cells(row: dict[str, Any]) -> list[Text]:
    if row["accuracy"] is None:
        number = Text(str(row["n"])) if row["n"] else Text()
        return [Text(plain(row["name"])), Text("no answers" if row["n"] else "not yet", style="dim"), number]
    tone = _TONES.get(row["verdict"], "")
    return [
        Text(plain(row["name"])),
        Text(" ".join([words.percent(row["accuracy"]), *marks(row)]), style="bold yellow" if marks(row) else "bold"),
        Text(str(row["n"])),
        Text(words.interval(row["ci95"])),
        Text(words.points(row["difference"]), style=tone),
        Text(words.p_value(row["p"])),
        Text(words.size(row["size_bytes"])),
        Text(words.per_question(row["seconds_per_question"])),
        Text(row["engine"]),
    ]


# --- money -----------------------------------------------------------------------------------------


def money(spent: float, limit: float | None) -> str:
    """What the teachers have cost, and may."""
    return f"teachers: ${spent:.2f} spent" + (f" of ${limit:.2f}" if limit is not None else "")


def estimate_table(found: Sequence[Estimate], limits: Limits) -> Group:
    """What each step that asks a teacher would take, from one round for each question to the most there may be."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step")
    table.add_column("teacher")
    for name in ("questions", "clips", "calls", "tokens in", "tokens out", "US dollars"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in found:
        usd = "no price" if step.usd is None else f"{step.usd.low:,.2f}–{step.usd.high:,.2f}"
        counts = (f"{step.questions:,}", f"{step.clips:,}", *map(_span, (step.calls, step.tokens_in, step.tokens_out)))
        table.add_row(plain(step.step), plain(step.model), *counts, usd)
    lines = [f"prices of {prices().date}; frames, answers and thinking as expected, without the service's cache"]
    if limits.teacher_usd is not None:
        lines.append(f"the run pauses at ${limits.teacher_usd:,.2f}")
    return Group(table, Text(), *map(Text, lines))


def _span(bounds: Bounds) -> str:
    return f"{bounds.low:,.0f}–{bounds.high:,.0f}"


def rejected_lines(away: TurnedAway) -> Text:
    """A variation that does not stand: why, what it was, and what became of it."""
    before = [away.parent.text, *(choice.text for choice in away.parent.choices)]
    after = [away.row.text, *away.row.choices]
    return Text.assemble(
        (plain(away.row.gate), "yellow"), f"  {plain(away.row.parent)}, {plain(away.row.rule)}\n",
        (f"  was: {plain(' | '.join(before))}\n", "dim"), f"  now: {plain(' | '.join(after))}",
    )  # fmt: skip


# --- a run at work ---------------------------------------------------------------------------------


def run_view(run: str, steps: Sequence[Step], seconds: float) -> Group:
    """Every step with its bar, rate, time left and facts: what `roadqa watch` redraws."""
    table = Table.grid(padding=(0, 1))
    for step in steps:
        mark, tone = _STATES.get(step.state, ("?", ""))
        bar = ProgressBar(total=1.0, completed=fraction(step), width=20) if step.state == "running" else Text()
        standing = Text(plain(_standing(step)), style="red" if step.causes else "dim")
        name = Text(plain(step.name), style="dim" if step.state == "waiting" else "")
        table.add_row(Text(mark, style=tone), name, bar, standing)
    return Group(Text.assemble((run, "bold"), f"  {_summary(steps, seconds)}"), table)


def run_line(steps: Sequence[Step], seconds: float) -> str:
    """The same in one plain line, for logs and pipes."""
    busy = [f"{step.name}: {_standing(step)}" for step in steps if step.state == "running" or step.causes]
    return plain(" | ".join([_summary(steps, seconds), *busy]))


def plain(text: str) -> str:
    """Text from data, without the control characters that would command a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def fraction(step: Step) -> float:
    """How much of a step is done, 0 to 1: finished tasks, and what is done of those under way."""
    if not step.total:
        return 0.0
    partly = sum(_share(task) for task in _under_way(step))
    return min(1.0, (step.done + partly) / step.total)


def seconds_left(step: Step) -> float | None:
    """Estimate from the tasks under way, or from the finished ones where more wait; None without a pace."""
    waiting = (step.total or 0) - step.done - len(step.progress)
    if not step.progress or (waiting and not step.done):
        return None
    if waiting:
        rest = waiting + sum(1 - _share(task) for task in _under_way(step))
        return step.seconds / step.done * rest / len(step.progress)
    left = [(task["total"] - task["done"]) / task["rate"] for task in _under_way(step) if task.get("rate")]
    return max(left) if len(left) == len(step.progress) else None


def _under_way(step: Step) -> tuple[Mapping[str, Any], ...]:
    """What the workers told of the tasks they hold: stage, done, total, unit, rate, facts, seconds."""
    return step.progress


def _share(task: Mapping[str, Any]) -> float:
    return float(task["done"] / task["total"]) if task.get("total") else 0.0


def _summary(steps: Sequence[Step], seconds: float) -> str:
    done = sum(step.state == "done" for step in steps)
    return f"{words.duration(round(seconds))}, {done}/{len(steps)} steps"


def _standing(step: Step) -> str:
    said = [f"{step.done}/{step.total} shards"] if step.total and step.total > 1 else []
    if step.state == "running":
        said = [f"{100 * fraction(step):.0f}%", *said, *_pace(step), *_facts(step)]
    if step.state == "done":
        said.append(words.duration(step.seconds))
    return ", ".join([*said, *(f"dead: {cause}" for cause in step.causes[:1])])


def _pace(step: Step) -> Iterator[str]:
    if rate := sum(task["rate"] or 0 for task in _under_way(step)):
        yield f"{rate:.3g} {_under_way(step)[0]['unit']}/s"
    if (left := seconds_left(step)) is not None:
        yield f"{words.duration(round(left))} left"


def _facts(step: Step) -> Iterator[str]:
    """What the first task under way tells of itself: loss, cost."""
    for name, value in _under_way(step)[0]["facts"].items() if step.progress else ():
        yield _fact(name, value)


def _fact(name: str, value: float | str) -> str:
    """tokens_per_second 3849.2 → 3849 tokens/s; memory_bytes → memory 3.4 GB; data_wait 0.012 → data wait 1.2%."""
    if isinstance(value, str):
        return f"{name.replace('_', ' ')} {value}"
    if name.endswith("_per_second"):
        return f"{value:.4g} {name.removesuffix('_per_second')}/s"
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')} {words.size(value)}"
    told = words.percent(value) if name.endswith("_wait") else f"{value:.4g}"
    return f"{name.replace('_', ' ')} {told}"
