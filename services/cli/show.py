"""Where the commands put what they have to say: a terminal gets colour and motion, a pipe plain lines."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from services.cli import detailview, planview, render, traceview, trustview, verifyview, words
from services.cli.ask import Reply
from services.cli.data import Progress as Tell
from services.cli.doctor import Finding
from services.cli.estimate import Estimate
from services.cli.forecast import Forecast
from services.cli.rejected import TurnedAway
from services.cli.runs import Step
from services.cli.trust import Point, Trust
from services.cli.verify import Verified
from shared.pipeline import Limits
from shared.prompts import letter
from shared.schema import Question

_WIDE = 160  # columns where the output is a file or a pipe
# what is printed comes from data: "[/usr/lib/x.so]" is no markup and ":car:" no emoji
_out = Console(highlight=False, markup=False, emoji=False)
if not _out.is_terminal:
    _out = Console(highlight=False, markup=False, emoji=False, width=_WIDE)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False)
_PLAIN_EVERY = 10.0  # seconds between two lines of progress where nobody can see a line move


@contextmanager
def progress() -> Iterator[Tell]:
    """`tell(what, done, total)` draws one bar for each `what`, with rate and time left."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bars:
        known: dict[str, Any] = {}
        said: dict[str, float] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)
            if not _err.is_terminal and time.monotonic() - said.get(what, 0) > _PLAIN_EVERY:
                said[what] = time.monotonic()
                _err.print(f"{what}: {done} of {total}")

        yield tell


@contextmanager
def live(run: str) -> Iterator[Callable[[list[Step], float], None]]:
    """`update(steps, seconds)` redraws the run, or prints a line when something changed."""
    if _err.is_terminal:
        with Live(console=_err, refresh_per_second=4, transient=True) as screen:
            yield lambda steps, seconds: screen.update(render.run_view(run, steps, seconds))
        return
    last = [(-_PLAIN_EVERY, "")]

    def update(steps: list[Step], seconds: float) -> None:
        then, counts = last[0]
        now = str([(step.state, step.done) for step in steps])
        if (now != counts and seconds - then >= 2) or seconds - then >= _PLAIN_EVERY:
            _err.print(render.run_line(steps, seconds), soft_wrap=True)
            last[0] = (seconds, now)

    yield update


def example(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def trust(found: Trust, target: float | None, chosen: Point | None) -> None:
    _out.print(trustview.tables(found, target, chosen))


def report(made: dict[str, Any], details: bool = False) -> None:
    _out.print(render.report_table(made))
    if details:
        _out.print(detailview.details(made))


def steps(run: str, state: str, found: Sequence[Step]) -> None:
    _out.print(f"{run}: {state}")
    _out.print(render.run_view(run, found, 0.0))


def money(spent: float, limit: float | None) -> None:
    if spent or limit is not None:
        _out.print(render.money(spent, limit))


def estimates(found: Sequence[Estimate], limits: Limits) -> None:
    _out.print(render.estimate_table(found, limits))


def forecast(found: Forecast, limits: Limits) -> None:
    _out.print(planview.view(found, limits))


def reply(asked: Question, found: Reply) -> None:
    for index, choice in enumerate(asked.choices):
        name = letter(index)
        share = words.percent(found.probabilities.get(name))
        _out.print(Text(f"{name}  {share:>6}  {choice.text}", "bold" if name == found.letter else ""))
    _out.print(f"{found.letter}: {found.text} ({found.model}, {found.prompt_tokens} tokens, {found.seconds:.2f} s)")


def rejected(found: Sequence[TurnedAway]) -> None:
    for away in found:
        _out.print(render.rejected_lines(away))
    _out.print(f"{len(found)} variations were turned away")


def run_list(listed: Mapping[str, str]) -> None:
    for run, state in listed.items():
        _out.print(f"{run}  {state}")
    if not listed:
        _out.print("no runs yet; try `roadqa run --preset sandbox --watch`")


def trace(found: Mapping[str, Any]) -> None:
    _out.print(traceview.trace_view(found))


def verified(found: Verified) -> None:
    _out.print(verifyview.view(found))


def table(found: Any) -> None:
    _out.print(found)


def findings(found: Sequence[Finding]) -> None:
    tones = {"ok": "green", "warning": "yellow", "error": "red"}
    for finding in found:
        mark = (f"{finding.state:7}", tones[finding.state])
        _out.print(Text.assemble(mark, f" {finding.what}: {finding.detail}"))
