"""`roadqa datasets split`: one dataset into several that share no recording."""

import json
import re

import click

from services.cli import data, show
from services.cli.collect import read_rows
from shared.errors import UsageError
from shared.formats.common import Imported
from shared.schema import Clip, Question
from shared.splits import Group, by_recording, joined, split
from shared.store import Store, store


@click.command(
    "split",
    epilog=show.example(
        "roadqa datasets split all --into train=0.8 --into val=0.2",
        r"roadqa datasets split all --into train=0.7 --into test=0.3 --pattern '^(cam\d+)_'",
    ),
)
@click.argument("name")
@click.option("--into", "shares", required=True, multiple=True, metavar="NAME=SHARE",
              help="A split and its share of the questions; they add up to 1. Stored as DATASET-NAME.")  # fmt: skip
@click.option("--pattern", help="Regular expression whose first group in a clip's name names its recording.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(name: str, shares: tuple[str, ...], pattern: str | None, seed: int, as_json: bool) -> None:
    """Deal whole recordings, and near-duplicates, out to new datasets, each with its share of every category."""
    wanted = dict(_share(text) for text in shares)
    with show.progress() as progress:
        made = split_dataset(store(), name, wanted, _by_pattern(pattern) if pattern else by_recording, seed, progress)
    if as_json:
        click.echo(json.dumps([done.model_dump(mode="json") for done in made], indent=1))
        return
    for done in made:
        click.echo(done.summary)


def split_dataset(
    store: Store, name: str, shares: dict[str, float], group: Group, seed: int, progress: data.Progress
) -> list[data.Import]:
    """Store the splits of a dataset as datasets; their clips are there already, and near-duplicates stay together.

    Raises:
        UsageError: no such dataset, or a split that cannot be.
    """
    parts = data.resolve_data(store, name, name, progress)
    questions, clips = read_rows(store, parts)
    for side in shares:
        data.check_name(f"{name}-{side}", "--into", "choose another")
    dealt = split(questions, clips, shares, seed=seed, group=joined(group, clips.values()))
    return [_store(store, f"{name}-{side}", rows, clips, progress) for side, rows in dealt.items()]


def _store(
    store: Store, name: str, rows: list[Question], clips: dict[str, Clip], progress: data.Progress
) -> data.Import:
    held = {question.clip for question in rows}
    return data.store_dataset(store, name, Imported(rows, {digest: clips[digest] for digest in sorted(held)}), progress)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise UsageError(f"--into: {text!r} is no NAME=SHARE, such as train=0.8") from None


def _by_pattern(pattern: str) -> Group:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--pattern: {pattern!r} is no regular expression: {error}") from error

    def recording(clip: Clip) -> str:
        match = compiled.search(clip.name)
        name = match and (match[1] if compiled.groups else match[0])
        if not name:
            raise UsageError(f"--pattern: {pattern!r} does not match clip {clip.name!r}")
        return name

    return recording
