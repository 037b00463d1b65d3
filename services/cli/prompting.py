"""`roadqa prompts`: the library of system prompts, and the search for the one that suits a model."""

import json
from pathlib import Path

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli import promptsearch, show, words
from services.cli.promptsearch import Search, Searcher
from services.cli.render import plain
from services.cli.runs import read_pipeline
from shared import prompts
from shared.lease import board
from shared.store import store


@click.group("prompts")
def group() -> None:
    """System prompts: the words before every question."""


@group.command("list", epilog=show.example("roadqa prompts list", "roadqa prompts list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """Every prompt of the library, and what it is for."""
    about = {prompts.NONE: "No system message at all."} | {p.name: p.about for p in prompts.library().values()}
    if as_json:
        click.echo(json.dumps([{"name": name, "about": said} for name, said in about.items()], indent=1))
        return
    for name, said in about.items():
        click.echo(f"{name:12} {said}")


@group.command("show", epilog=show.example("roadqa prompts show expert", "roadqa prompts show expert --reasoning"))
@click.argument("name", type=click.Choice(prompts.names()))
@click.option("--reasoning", is_flag=True, help="As it stands before a reasoning.")
def show_(name: str, reasoning: bool) -> None:
    """A prompt's text."""
    click.echo(prompts.system_text(name, reasoning) or "")


@group.command(
    "search",
    epilog=show.example(
        "roadqa prompts search roadbuddy-train --model Qwen3-VL-8B-Instruct --pipeline pipeline.yaml",
        "roadqa prompts search sandbox-train --model sandbox-tiny --candidate short --candidate none --json",
    ),
)
@click.argument("dataset")
@click.option("--model", required=True, help="A model's name or artifact.")
@click.option("--candidate", "candidates", multiple=True, type=click.Choice(prompts.names()),
              help="A prompt to try; again for each. By default the whole library.")  # fmt: skip
@click.option("--pipeline", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The file whose system_prompt is to be beaten, and is replaced by the winner.")  # fmt: skip
@click.option("--development", default=0.5, show_default=True, type=click.FloatRange(0.05, 0.95),
              help="Share of the questions to search on, by whole recordings; the rest gives the score.")  # fmt: skip
@click.option("--engine", type=click.Choice(["auto", "vllm", "transformers"]), default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the split.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def search(
    dataset: str,
    model: str,
    candidates: tuple[str, ...],
    pipeline: Path | None,
    development: float,
    engine: str,
    seed: int,
    as_json: bool,
) -> None:
    """Find the system prompt that suits a model, and score it on recordings that the search never saw.

    Successive halving: every rung asks the better half of the candidates on twice as many recordings, and drops those
    that a paired test shows to be worse than the best. What was asked before is not asked again.
    """
    board().ping()
    with show.progress() as progress:
        asked, current = promptsearch.asked(store(), model, dataset, engine, progress)
        if pipeline is not None:
            file = read_pipeline(pipeline, None)
            current, asked = file.system_prompt, asked._replace(video=file.video)
        searcher = Searcher(store(), board(), asked)
        found = searcher.search(candidates or prompts.names(), current, development, seed, progress)
    if as_json:
        click.echo(json.dumps(promptsearch.as_json(found), indent=1))
    else:
        show.table(view(found))
    if pipeline is not None and found.winner != current:
        text = pipeline.read_text(encoding="utf-8")
        pipeline.write_text(promptsearch.with_prompt(text, found.winner, str(pipeline)), encoding="utf-8")
        click.echo(f"{pipeline}: system_prompt is {found.winner} now, was {current}", err=True)


def view(found: Search) -> Group:
    """The rungs, the winner, and its score on what the search never saw."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("prompt", no_wrap=True)
    for name in ("rung", "right", "n", "recordings", "95% interval", "p to the best"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for number, rung in enumerate(found.rungs, 1):
        for one in rung.standings:
            cells = (one.prompt, str(number), words.percent(one.accuracy), str(rung.n), str(rung.recordings),
                     words.interval(one.ci95), words.p_value(one.p), "" if one.goes_on else "out")  # fmt: skip
            table.add_row(*(Text(plain(cell)) for cell in cells))
    lines = [f"{found.winner} wins" + (", which is used now" if found.winner == found.current else "")]
    for row in found.unseen["rows"]:
        said = (
            f"{row['name']}: {words.percent(row['accuracy'])} ({words.interval(row['ci95'])}) of {row['n']} questions"
        )
        said += f" on {words.counted(row['recordings'], 'recording')} that the search never saw"
        if row["difference"] is not None:
            ends = words.points_interval(row["difference_ci95"])
            said += (
                f"; {words.points(row['difference'])} points to {row['parent']} ({ends}), p {words.p_value(row['p'])}"
            )
        lines.append(said)
    return Group(table, Text(), *map(Text, lines))
