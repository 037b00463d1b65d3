"""`roadqa labels`: how far to trust a teacher's labels, and the way of the doubtful ones to people and back."""

import json
from pathlib import Path
from typing import Any

import click

from services.cli import data, labels, show, trust, trustview
from services.cli.collect import read_rows
from services.cli.finish import finish
from shared.errors import UsageError
from shared.formats.label_studio import CONFIG
from shared.lease import board
from shared.store import Store, store

_FILE = click.Path(dir_okay=False, path_type=Path)
_HERE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("labels")
def group() -> None:
    """How far to trust a teacher's labels; doubtful ones to people and back."""


@group.command(
    epilog=show.example(
        "roadqa labels evaluate train --teacher gemini-2.5-pro --questions 300 --target-precision 0.95",
        "roadqa labels evaluate --run seed-20261123-041900-1f3a --answers public-test-answered --picture trust.svg",
    )
)
@click.argument("dataset", required=False)
@click.option("--teacher", help="The model to ask.")
@click.option("--provider", help="Whose protocol it speaks, as in a pipeline file.  [default: gemini]")
@click.option("--fps", type=float, help="Frames a second the teacher looks at.")
@click.option("--min-agreement", type=float, help="Share of usable votes that must agree.")
@click.option("--questions", type=click.IntRange(min=1), help="Ask about so many only, spread over the recordings.")
@click.option("--limit", type=click.FloatRange(min=0, min_open=True), help="Pause where the teacher has cost so many "
              "US dollars.")  # fmt: skip
@click.option("--run", "run_", metavar="RUN", help="Measure the labels that a run has made already.")
@click.option("--step", help="With --run: its label step, where it has several.")
@click.option("--answers", metavar="DATASET", help="With --run: where people's answers to its questions are.")
@click.option("--target-precision", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Choose the loosest threshold whose lower 95% bound reaches it.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
              help="Write the figures as JSON; - prints them instead of the tables.")  # fmt: skip
@click.option("--picture", type=_FILE, help="Draw precision over coverage: a .svg or a .html.")
def evaluate(
    dataset: str | None, teacher: str | None, run_: str | None, step: str | None, answers: str | None,
    target_precision: float | None, json_file: Path | None, picture: Path | None, **wanted: Any,
) -> None:  # fmt: skip
    """Measure a teacher's labels on questions that people have answered. It is asked them blind.

    Agreement is no proof: what all prompts get wrong alike is unanimous. Only answered questions show how often.
    """
    if picture is not None and picture.suffix not in (".svg", ".html"):
        raise UsageError(f"--picture {picture}: must end in .svg or .html")
    if (dataset is None) == (run_ is None):
        raise UsageError("give a DATASET and --teacher, or --run; see `roadqa labels evaluate --help`")
    if run_ is not None:
        found = _of_run(run_, step, answers, [*filter(None, [teacher, *wanted.values()])])
    else:
        if teacher is None:
            raise UsageError("say which --teacher to measure, such as gemini-2.5-pro")
        if step is not None or answers is not None:
            raise UsageError("--step and --answers go with --run; a DATASET has its own answers")
        found = _of_dataset(str(dataset), teacher, **wanted)
    chosen = trust.choose(found, target_precision) if target_precision is not None else None
    _write(found, target_precision, chosen, json_file, picture)


def _of_run(run: str, step: str | None, answers: str | None, asked: list[Any]) -> trust.Trust:
    if asked:
        raise UsageError("with --run nothing is asked anew: leave out --teacher and what goes with it")
    at = store()
    labelled = _labelled(at, run, step)
    return labels.trust(labelled, _answers(at, answers) if answers is not None else None)


def _answers(at: Store, dataset: str) -> list[Any]:
    with show.progress() as progress:
        return read_rows(at, data.resolve_data(at, dataset, dataset, progress))[0]


def _of_dataset(
    dataset: str, teacher: str, provider: str | None, fps: float | None, min_agreement: float | None,
    questions: int | None, limit: float | None,
) -> trust.Trust:  # fmt: skip
    about = {"provider": provider, "model": teacher, "fps": fps}
    recipe = {"min_agreement": min_agreement}
    wanted = labels.Wanted(dataset, _given(about), _given(recipe), questions, limit)
    board().ping()
    with show.progress() as progress:
        plan = labels.plan(store(), wanted, progress)
    run = finish(store(), board(), plan)
    return labels.trust(_labelled(store(), run, None))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _labelled(at: Store, run: str, step: str | None) -> labels.Labelled:
    found = labels.of_run(at, run, step)
    if found.open:
        click.echo(f"step {found.step!r} has {found.open} tasks to do: these are the labels so far", err=True)
    return found


def _write(
    found: trust.Trust, target: float | None, chosen: trust.Point | None, json_file: Path | None, picture: Path | None
) -> None:
    if picture is not None:
        draw = trustview.svg if picture.suffix == ".svg" else trustview.html
        _put(picture, draw(found, target, chosen))
    if json_file is not None:
        target_said = {"precision": target, "min_agreement": chosen.min_agreement if chosen else None}
        figures = found.model_dump(mode="json") | ({"target": target_said} if target is not None else {})
        text = json.dumps(figures, indent=1, ensure_ascii=False)
        if str(json_file) == "-":
            click.echo(text)
            return
        _put(json_file, text + "\n")
    show.trust(found, target, chosen)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@group.command(
    epilog=show.example(
        "roadqa labels export seed-20261123-041900-1f3a --flagged -o tasks.json --clips clips --config labels.xml",
        "roadqa labels export RUN --flagged -o tasks.json --clips /srv/www/clips --url https://media.example.com/clips/",
    )
)
@click.argument("run")
@click.option("--step", help="The run's label step, where it has several.")
@click.option("--flagged", is_flag=True, help="Only labels that were not accepted; otherwise all.")
@click.option("-o", "--output", required=True, type=_FILE)
@click.option("--clips", type=click.Path(file_okay=False, path_type=Path),
              help="Write the clips there. Without --url, Label Studio is told to read them from its local files, "
              "of which this folder's parent is the root.")  # fmt: skip
@click.option("--url", metavar="PREFIX", help="Where an annotator's browser finds what --clips has written.")
@click.option("--config", type=_FILE, help="Write the labelling interface (XML) that the tasks are made for.")
def export(
    run: str, step: str | None, flagged: bool, output: Path, clips: Path | None, url: str | None, config: Path | None
) -> None:
    """Write Label Studio tasks of a run's labels, for people to answer.

    The teacher's leading answer is each task's prediction. A project that shows predictions leads its annotators.
    """
    if clips is None and url is None:
        raise UsageError("annotators must see the clips: give --clips DIR, or --url where they are served, or both")
    at = store()
    labelled = _labelled(at, run, step)
    made = labels.tasks(labelled, labels.prefix(clips, url), flagged)
    if clips is not None:
        wanted = {task["data"]["clip"] for task in made}
        with show.progress() as progress:
            labels.write_clips(at, [labelled.clips[digest] for digest in sorted(wanted)], clips, progress)
    _put(output, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    if config is not None:
        _put(config, CONFIG)
    click.echo(f"{output}: {len(made)} tasks on {len({task['data']['clip'] for task in made})} clips")


@group.command(
    "import", epilog=show.example("roadqa labels import export.json --run seed-20261123-041900-1f3a --name answered")
)
@click.argument("file", type=_HERE)
@click.option("--run", "run_", metavar="RUN", required=True, help="The run that the tasks were made from.")
@click.option("--step", help="Its label step, where it has several.")
@click.option("--name", required=True, help="Name of the new dataset.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def import_(file: Path, run_: str, step: str | None, name: str, as_json: bool) -> None:
    """Import what people answered in Label Studio (its JSON or JSON-MIN export) as a dataset.

    In a training mix a person's answer outranks a teacher's to the same question.
    """
    at = store()
    labelled = labels.of_run(at, run_, step)
    with show.progress() as progress:
        done = labels.import_answers(at, file, labelled, name, progress)
    if as_json:
        click.echo(json.dumps(done.model_dump(mode="json"), indent=1, ensure_ascii=False))
        return
    data.tell_problems(done)
    click.echo(done.summary)
