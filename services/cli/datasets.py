"""`roadqa import FORMAT` for each data format, and `roadqa datasets`: what is in the store, and out of it again."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from services.cli import data, duplicates, insight, insightview, show, splitting
from services.cli.collect import read_rows
from shared.errors import UsageError
from shared.formats import registry
from shared.schema import Clip, Question
from shared.store import Store, store

_FILE = click.Path(dir_okay=False, path_type=Path)


# --- import ----------------------------------------------------------------------------------------


def add_imports(group: click.Group, tell: Callable[[data.Import, bool], None]) -> None:
    """A command of `group` for each format; `tell(done, as_json)` says what was done."""
    for name, format_ in registry.FORMATS.items():
        group.add_command(_command(name, format_, tell))


def _command(name: str, format_: registry.Format, tell: Callable[[data.Import, bool], None]) -> click.Command:
    def run(as_json: bool, **given: Any) -> None:
        if given["name"] is None:
            given["name"] = given["file"].stem
        with show.progress() as progress:
            done = data.import_file(store(), data.FileData.model_validate({"import": name, **given}), progress)
        tell(done, as_json)

    here = click.Path(exists=True, dir_okay=False, path_type=Path)
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    params: list[click.Parameter] = [
        click.Argument(["file"], type=here),
        click.Option(["--videos"], required=True, type=folder, help=f"Folder that {format_.videos}."),
        click.Option(["--name"], help="Name of the dataset; by default the file's own."),
        click.Option(["--answers"], type=here, help="CSV (id,answer) with the answers that the file itself lacks, "
                     "to score with."),
        click.Option(["--test/--no-test"], default=None, help="Whether the clips are a test set's; by default as the "
                     "file's name, or a row's split, says."),
        click.Option(["--strict"], is_flag=True, help="Any unusable row is an error; nothing is imported."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print what was done as JSON."),
    ]  # fmt: skip
    example = show.example(f"roadqa import {name} {format_.example}")
    return click.Command(name, params=params, callback=run, help=f"Import {format_.what}.", epilog=example)


# --- datasets --------------------------------------------------------------------------------------


@click.group("datasets")
def group() -> None:
    """Datasets in the store: list, look at, write out."""


group.add_command(splitting.command)
group.add_command(duplicates.command)


@group.command("list", epilog=show.example("roadqa datasets list"))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """Every dataset by name, with its size."""
    at = store()
    found = {name: insight.size(at, artifact) for name, artifact in sorted(at.names("datasets").items())}
    if as_json:
        _as_json({name: size.model_dump(mode="json") for name, size in found.items()})
        return
    show.table(insightview.sizes(found) if found else "no datasets yet; see `roadqa import --help`")


@group.command(
    "show", epilog=show.example("roadqa datasets show train", "roadqa datasets show train --html train.html --clips 48")
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--html", type=_FILE, help="Write a page that needs no network, with a contact sheet of clips.")
@click.option("--clips", default=24, show_default=True, type=click.IntRange(0, 200),
              help="With --html: clips on the contact sheet at the most, spread over the recordings.")  # fmt: skip
def show_(name: str, as_json: bool, html: Path | None, clips: int) -> None:
    """Count a dataset's questions and clips, every way they can be told apart."""
    at = store()
    artifact, parts = _dataset(at, name)
    with show.progress() as progress:
        found = insight.look(name, artifact, _rows(at, parts, progress))
        if html is not None:
            sheet = insight.sheet(at, _all_clips(at, parts), clips, progress)
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(insightview.html(found, sheet), encoding="utf-8")
    if as_json:
        _as_json(found.model_dump(mode="json"))
    elif html is None:
        show.table(insightview.tables(found))
    else:
        click.echo(f"{html}: {found.questions} questions, {len(sheet)} of {found.clips} clips on the contact sheet")


@group.command(
    "export",
    epilog=show.example(
        "roadqa datasets export train --to sharegpt -o train-sharegpt",
        "roadqa datasets export train --to huggingface -o train-hf --clips none",
    ),
)
@click.argument("name")
@click.option("--to", "format_", required=True, type=click.Choice(registry.EXPORTS), help="The format.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder to write; what of it is there already stays, but for the files of the format.")  # fmt: skip
@click.option("--clips", type=click.Choice(["copy", "none"]), default="copy", show_default=True,
              help="copy: the clips too, where the rows name them.")  # fmt: skip
def export(name: str, format_: str, output: Path, clips: str) -> None:
    """Write a dataset as files that other tools read, and that `roadqa import` reads back."""
    at = store()
    _, parts = _dataset(at, name)
    questions, known = read_rows(at, parts)
    problems = registry.write(format_, output, questions, known)
    for problem in problems:
        click.echo(f"left out: {problem}", err=True)
    if clips == "copy":
        with show.progress() as progress:
            data.write_clips(at, registry.layout(known.values()), output, progress)
    left = len(questions) - len(problems)
    click.echo(f"{output}: {left} questions on {len(known)} clips, as {registry.FORMATS[format_].writes}")


def _dataset(at: Store, name: str) -> tuple[str, tuple[str, ...]]:
    """(artifact, its parts) of a dataset's name."""
    artifact = at.named("datasets", name)
    if artifact is None:
        known = ", ".join(sorted(at.names("datasets"))) or "none"
        raise UsageError(f"no dataset is called {name[:80]!r}; there are: {known}")
    return artifact, at.manifest(artifact).parts


def _rows(at: Store, parts: tuple[str, ...], progress: data.Progress) -> Iterator[tuple[list[Question], list[Clip]]]:
    """The questions and clips of each part: no more than one is held."""
    for number, part in enumerate(parts, 1):
        questions, clips = read_rows(at, (part,))
        yield questions, list(clips.values())
        progress("read", number, len(parts))


def _all_clips(at: Store, parts: tuple[str, ...]) -> list[Clip]:
    return [clip for part in parts for clip in read_rows(at, (part,))[1].values()]


def _as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))
