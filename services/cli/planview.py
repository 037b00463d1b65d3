"""A plan in the terminal: what each step takes, what the store will hold, what teachers cost, what is not known."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.cli import render, words
from services.cli.forecast import Forecast, Quantising, Storage, Training
from services.cli.memory import GIB
from shared.pipeline import Limits

_TONES = {"fits": "green", "tight": "yellow", "long clips do not fit": "yellow", "does not fit": "red"}
_MEMORY = ("weights", "optimiser", "gradients", "buffers", "activations", "at most", "host")


def view(found: Forecast, limits: Limits) -> Group:
    """The whole plan."""
    parts: list[RenderableType] = []
    if found.training:
        parts += [_training(found), *_notes(found), Text()]
    if found.quantising:
        parts += [_quantising(found.quantising), Text()]
    parts += [*map(Text, _storage(found.storage)), Text()]
    if found.teachers:
        parts += [render.estimate_table(found.teachers, limits), Text()]
    for step in found.teachers_unknown:
        parts.append(
            Text(render.plain(f"{step}: what its teacher will cost is not known before its rows are in the store"))
        )
    parts += [Text(render.plain(f"! {line}"), style="yellow") for line in found.missing]
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _training(found: Forecast) -> Table:
    table = _table("on each device", *_MEMORY, "", "hours")
    for one in found.training:
        held = one.memory
        figures = (held.weights, held.optimiser, held.gradients, held.buckets, held.activations, held.peak, held.host)
        table.add_row(
            render.plain(one.step),
            *map(_gib, figures),
            Text("done" if one.done else one.verdict or "", style=_TONES.get(one.verdict or "", "")),
            "" if one.done else "not measured" if one.hours is None else f"≤ {one.hours.hours:.1f}",
        )
    return table


def _gib(size: float) -> str:
    if not size:
        return ""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _notes(found: Forecast) -> Iterator[Text]:
    """How each training would run, alike ones together."""
    said: dict[str, list[str]] = {}
    for one in found.training:
        for line in _said(one):
            said.setdefault(line, []).append(one.step)
    for line, steps in said.items():
        yield Text(render.plain(f"{', '.join(steps)}: {line}"))


def _said(one: Training) -> Iterator[str]:
    recipe = one.recipe
    what = f"LoRA of rank {recipe['lora']['rank']}" if recipe["lora"] else "all weights"
    if frozen := [name for name, module in recipe["modules"].items() if not module["train"]]:
        what += f" but {' and '.join(frozen)}"
    yield (
        f"{one.model}, {one.parameters / 1e9:.2f} B parameters, {what} ({one.trained / 1e9:.2f} B trained),"
        f" {recipe['zero']}, {recipe['precision']}"
    )
    row = "the longest row" if one.rows_known else "a row that takes all the video budget gives (no rows are known)"
    yield (
        f"{one.processes} × {one.micro_batch} rows × {one.accumulation} accumulated; {row}:"
        f" {one.row_tokens:,} tokens, {one.visual_tokens:,} of them visual"
    )
    if one.fitting_seconds is not None:
        yield f"clips of up to {one.fitting_seconds:g} s fit"
    if one.verdict in ("tight", "long clips do not fit") and one.remedies:
        yield "room for all with " + " | ".join(one.remedies)
    if one.rows is not None:
        yield f"at most {one.rows:,} rows an epoch"
    if one.hours is not None:
        yield f"{one.hours.samples_per_second:g} rows/s, measured: {one.hours.source}"


def _quantising(steps: tuple[Quantising, ...]) -> Table:
    table = _table("quantised", "scheme", "from", "to", "smaller", "a layer, on the device", "in main memory", "time")
    for one in steps:
        after = (
            (words.size(one.bytes_after), f"{one.bytes_before / one.bytes_after:.2f}×") if one.bytes_after else ("", "")
        )
        table.add_row(
            render.plain(one.step),
            one.scheme,
            words.size(one.bytes_before),
            *after,
            words.size(one.layer_bytes),
            words.size(one.host_bytes),
            "done"
            if one.done
            else "does not fit"
            if one.problem
            else words.duration(one.seconds)
            if one.seconds
            else "not measured",
        )
    return table


def _storage(held: Storage) -> Iterator[str]:
    clips = words.size(held.clips) if held.clips is not None else "not known"
    new = words.size(held.models + held.quantised)
    yield (
        f"in the store: {new} new ({words.size(held.models)} models, {words.size(held.quantised)} quantised);"
        f" up to {words.size(held.checkpoints)} of checkpoints meanwhile; clips, there already: {clips}"
    )
