"""What trainer and engine saw, side by side."""

from itertools import groupby, islice

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.cli.render import plain
from services.cli.verify import WAYS, Verified
from shared.parity import Comparison, Contract, Difference

SHOWN = 5  #: questions of each way whose differences are shown


def view(found: Verified) -> Group:
    """The counts, then where they differ."""
    head = Text(plain(f"{found.model} on {found.bulk.questions} questions of {found.dataset}, as trained"))
    parts: list[RenderableType] = [head.append(_asking(found.trained)), _counts(found)]
    if found.asked != found.trained:
        parts.insert(1, Text("asked as").append(_asking(found.asked)))
    for way, one in _ways(found):
        parts += _differences(way, one)
    parts.append(Text("equal" if found.equal else "NOT EQUAL", style="bold green" if found.equal else "bold red"))
    return Group(*parts)


def _ways(found: Verified) -> list[tuple[str, Comparison]]:
    return [(way, one) for way in WAYS if (one := getattr(found, way)) is not None]


def _asking(asking: Contract) -> str:
    video = " ".join(f"{name} {value:g}" for name, value in asking.video.model_dump().items())
    return f" (system prompt {asking.system_prompt}, {video})"


def _counts(found: Verified) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("equal to the trainer's")
    for name in ("token ids", "grids", "timestamps", "pixels", "log-probabilities within"):
        table.add_column(name, justify="right")
    for way, one in _ways(found):
        counts = (one.equal_token_ids, one.equal_grids, one.equal_timestamps, one.equal_pixels)
        table.add_row(way, *(f"{count} of {one.questions}" for count in counts), _within(one))
    return table


def _within(one: Comparison) -> str:
    if one.max_logprob_difference is None:
        return "not compared: quantised"
    return f"{one.max_logprob_difference:.4f} of {one.bound:g}"


def _differences(way: str, one: Comparison) -> list[RenderableType]:
    by_question = [list(found) for _, found in groupby(one.differences, key=lambda difference: difference.question)]
    shown: list[RenderableType] = [
        _difference(way, difference) for found in islice(by_question, SHOWN) for difference in found
    ]
    if (more := len(by_question) - SHOWN) > 0:
        shown.append(Text(f"{way}: {more} more questions differ; --json lists them"))
    return shown


def _difference(way: str, found: Difference) -> Text:
    place = "" if found.position is None else f" at {found.position}"
    text = Text(plain(f"{way}: question {found.question}: {found.of}{place}"), style="bold")
    for side, said in (("trainer", found.trainer), ("engine", found.engine)):
        text.append(f"\n  {side:8} ", style="dim").append(plain(said.replace("\n", "⏎")), style="not bold")
    return text
