"""`roadqa`: import, run, watch, report. The commands; what they do lives in the modules beside this one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import redis
from pydantic import ValidationError

from services.cli import (
    ask,
    comparing,
    data,
    datasets,
    detail,
    doctor,
    estimate,
    forecast,
    labelling,
    memory,
    modelfiles,
    page,
    predictions,
    prompting,
    report,
    runs,
    serve,
    show,
    tracing,
    verify,
)
from services.cli.collect import collect
from services.cli.finish import finish
from services.cli.rejected import turned_away
from services.cli.show import example as _example
from shared import prompts, verdicts
from shared.errors import BrokerError, RoadQAError, StoreError, UsageError
from shared.lease import board
from shared.pipeline import Pipeline
from shared.prompts import SystemPrompt
from shared.run import Runs
from shared.settings import settings
from shared.store import store


class Roadqa(click.Group):
    """Errors in one line that say what to do, and an exit status for each kind."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RoadQAError as error:
            click.echo(f"roadqa: {error}", err=True)
            ctx.exit(error.exit_code)
        except redis.RedisError as error:
            click.echo(f"roadqa: Redis does not answer ({type(error).__name__}); check ROADQA_REDIS_URL", err=True)
            ctx.exit(BrokerError.exit_code)
        except OSError as error:
            click.echo(f"roadqa: {error}", err=True)
            ctx.exit(1)
        except ValidationError as error:
            first = error.errors()[0]
            click.echo(f"roadqa: {'.'.join(map(str, first['loc']))}: {first['msg']}", err=True)
            ctx.exit(UsageError.exit_code)


def _ways_of_asking(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that has models answer."""
    for option in reversed(
        (
            click.option("--engine", type=click.Choice(["auto", "vllm", "transformers"]), default="auto",
                         show_default=True, help="auto: vLLM, unless it has no kernel here for the model's format."),
            click.option("--system-prompt", type=click.Choice(prompts.names()),
                         help="By default the one that the model was trained with."),
            click.option("--rotate", default=1, show_default=True,
                         help="Orders of the choices, whose probabilities are averaged."),
            click.option("--reasoning", is_flag=True, help="The model writes what it sees before it answers."),
            click.option("--reasoning-tokens", default=256, show_default=True, help="Tokens of that, at most."),
            click.option("--samples", default=1, show_default=True, help="Reasonings for each order."),
            click.option("--temperature", default=0.0, show_default=True, help="Of the reasoning."),
            click.option("--vote", type=click.Choice(["mean", "majority"]), default="mean", show_default=True,
                         help="Of several answers: their mean probabilities, or the most frequent one."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _as_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


@click.group(cls=Roadqa, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=None, version="0.1.0", prog_name="roadqa")
def main() -> None:
    """Traffic videos with multiple-choice questions in; a fine-tuned, quantised, served Qwen3-VL out."""


# --- import ----------------------------------------------------------------------------------------


@main.group("import")
def import_() -> None:
    """Bring questions and clips into the store."""


@import_.command("sandbox", epilog=_example("roadqa import sandbox --split train --recordings 40 --seed 1"))
@click.option("--split", required=True, type=click.Choice(["train", "public-test", "held-out"]))
@click.option("--recordings", default=10, show_default=True)
@click.option("--clips", "clips_per_recording", default=4, show_default=True, help="Clips of each recording.")
@click.option("--questions", "questions_per_clip", default=4, show_default=True, help="Questions on each clip.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def import_sandbox(as_json: bool, **wanted: Any) -> None:
    """Draw traffic scenes with exact answers, and import them."""
    with show.progress() as progress:
        done = data.import_sandbox(store(), data.SandboxData.model_validate(wanted), progress)
    _tell_import(done, as_json)


def _tell_import(done: data.Import, as_json: bool) -> None:
    if as_json:
        _as_json(done.model_dump(mode="json"))
        return
    data.tell_problems(done)
    click.echo(done.summary)


datasets.add_imports(import_, _tell_import)
main.add_command(datasets.group)


@main.group()
def models() -> None:
    """Checkpoints in the store."""


@models.command(
    "pull", epilog=_example("roadqa models pull Qwen/Qwen3-VL-8B-Instruct", "roadqa models pull ./my-model")
)
@click.argument("source")
@click.option("--name", help="Name in the store; by default the source's last part.")
def models_pull(source: str, name: str | None) -> None:
    """Store a checkpoint: a Hugging Face id, a local folder, or sandbox-tiny. Safetensors only."""
    with show.progress() as progress:
        known_as, artifact = data.pull_model(store(), source, name, progress)
    click.echo(f"{known_as}: {artifact}")


@models.command(
    "compare",
    epilog=_example(
        "roadqa models compare Qwen3-VL-4B-Instruct Qwen3-VL-8B-Instruct roadbuddy-dev",
        "roadqa models compare A B C roadbuddy-dev --system-prompt none --json",
    ),
)
@click.argument("models", nargs=-1, required=True)
@click.argument("dataset")
@_ways_of_asking
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def models_compare(
    models: tuple[str, ...], dataset: str, engine: str, system_prompt: str | None, as_json: bool, **asking: Any
) -> None:
    """Ask models of the store a dataset's questions: accuracy by category, time, memory, size.

    All are asked in the same way, and each is compared with the first. What was asked before, in any run, is not asked
    again.
    """
    board().ping()
    with show.progress() as progress:
        plan = comparing.plan(store(), models, dataset, engine, system_prompt, asking, progress)
    made = report.build(collect(store(), finish(store(), board(), plan)))
    if as_json:
        _as_json(comparing.figures(made))
        return
    show.table(comparing.view(made))
    for caveat in made["caveats"]:
        click.echo(caveat)


@models.command("export", epilog=_example("roadqa models export Qwen3-VL-8B-Instruct -o model"))
@click.argument("model")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new folder.")
def models_export(model: str, output: Path) -> None:
    """Copy a model's files into a folder, with SHA256SUMS: for machines without a store."""
    with show.progress() as progress:
        artifact = data.resolve_model(store(), "base", model, progress)
        size = modelfiles.export(store(), artifact, output, progress)
    if why := verdicts.refusal(store(), artifact):
        click.echo(f"roadqa: {model} is exported, though {why}", err=True)
    click.echo(f"{output}: {model} ({artifact[:12]}), {size / 1e9:.2f} GB")


main.add_command(labelling.group)
main.add_command(prompting.group)


# --- runs ------------------------------------------------------------------------------------------


@main.command(
    epilog=_example(
        "roadqa run pipeline.yaml --watch",
        "roadqa run --preset sandbox --watch",
        "roadqa run --preset seed --plan --devices 8x80GB",
    )
)
@click.argument("pipeline", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--preset", help="A pipeline that ships with the package: seed, sandbox.")
@click.option("--watch", "watching", is_flag=True, help="Show the run until it ends, then its table.")
@click.option("--dry-run", is_flag=True, help="Import the data, say what the teachers will cost, and start nothing.")
@click.option("--plan", "planning", is_flag=True, help="Say what the run will take, and refuse what cannot fit.")
@click.option("--devices", help="With --plan: what trains, such as 8x80GB; without an accelerator 2xCPU.")
@click.option("--json", "as_json", is_flag=True, help="With --plan or --dry-run: print as JSON.")
def run(
    pipeline: Path | None,
    preset: str | None,
    watching: bool,
    dry_run: bool,
    planning: bool,
    devices: str | None,
    as_json: bool,
) -> None:
    """Start a run. What was done before, in any run, is not done again.

    --plan imports and starts nothing, and needs neither data nor models in the store: memory on each device, storage,
    the teachers' calls and cost, and hours where a pace has been measured.
    """
    parsed = runs.read_pipeline(pipeline, preset)
    data.check(parsed)
    if devices and not planning:
        raise UsageError("--devices is for --plan; a worker trains on all that it has")
    if planning:
        _plan(parsed, devices, as_json)
        return
    if not dry_run:
        board().ping()
    with show.progress() as progress:
        plan = runs.resolve(store(), parsed, progress)
    if dry_run:
        found = estimate.estimate(store(), plan)
        _as_json([step.model_dump(mode="json") for step in found]) if as_json else show.estimates(found, plan.limits)
        return
    started = runs.submit(store(), board(), plan)
    click.echo(started)
    if watching:
        _watch(started)


def _plan(parsed: Pipeline, devices: str | None, as_json: bool) -> None:
    where = memory.parse_devices(devices) if devices else memory.Devices(settings().trainer_processes or 1, None)
    try:
        found = forecast.forecast(store(), parsed, where, devices)
    except StoreError as error:  # memory can be told all the same
        found = forecast.forecast(None, parsed, where, devices, missing=(f"the store: {error}",))
    _as_json(found.model_dump(mode="json")) if as_json else show.forecast(found, parsed.limits)
    forecast.check(found)


@main.command(epilog=_example("roadqa status", "roadqa status sandbox-20261123-041900-1f3a --json"))
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def status(run: str | None, as_json: bool) -> None:
    """All runs, or the steps of one."""
    known = Runs(store())
    if run is None:
        listed = {name: runs.standing(known, name) for name, marks in known.marks().items() if "plan" in marks}
        _as_json(listed) if as_json else show.run_list(listed)
        return
    steps = runs.view(known.state(run), board())
    state, spent, limit = runs.standing(known, run), known.spent(run), known.limit(run)
    if as_json:
        money = {"spent_usd": spent, "limit_usd": limit}
        _as_json({"run": run, "state": state, **money, "steps": [step.model_dump(mode="json") for step in steps]})
    else:
        show.steps(run, state, steps)
        show.money(spent, limit)


@main.command(epilog=_example("roadqa watch sandbox-20261123-041900-1f3a"))
@click.argument("run")
def watch(run: str) -> None:
    """Show a run until it ends, then its table."""
    _watch(run)


_REMEDIES = {
    "failed": "mend the cause, then `roadqa retry {}`",
    "cancelled": "`roadqa retry {}` goes on",
    "paused": "its teachers have cost what they may: `roadqa limit {} USD` raises that, and it goes on",
}


def _watch(run: str) -> None:
    with show.live(run) as update:
        ended = runs.watch(store(), board(), run, update)
    made = report.build(collect(store(), run))
    show.report(made)
    if ended != "complete":
        for problem in made["problems"]:
            click.echo(f"dead: {problem}", err=True)
        raise RoadQAError(f"run {run} {ended}; {_REMEDIES[ended].format(run)}")


@main.command(epilog=_example("roadqa limit sandbox-20261123-041900-1f3a 25"))
@click.argument("run")
@click.argument("usd", type=click.FloatRange(min=0, min_open=True))
def limit(run: str, usd: float) -> None:
    """Change what a run's teachers may cost, in US dollars. A paused run goes on."""
    spent = runs.set_limit(store(), board(), run, usd)
    click.echo(f"run {run}: ${spent:.2f} of ${usd:.2f} spent")


@main.command(epilog=_example("roadqa retry sandbox-20261123-041900-1f3a"))
@click.argument("run")
def retry(run: str) -> None:
    """Give dead tasks new attempts and let a failed or cancelled run go on."""
    click.echo(f"{runs.retry(store(), board(), run)} dead tasks revived; run {run} goes on")


@main.command(epilog=_example("roadqa cancel sandbox-20261123-041900-1f3a"))
@click.argument("run")
def cancel(run: str) -> None:
    """Stop a run. Work that another live run wants goes on; what is finished stays."""
    runs.cancel(store(), board(), run)
    click.echo(f"run {run} is being cancelled")


# --- results ---------------------------------------------------------------------------------------


@main.command("report", epilog=_example("roadqa report RUN --html report.html", "roadqa report RUN --details"))
@click.argument("run")
@click.option("--details", is_flag=True, help="Accuracy by groups, calibration, letters, and answers that changed.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page that needs no network.")
@click.option(
    "--frames/--no-frames",
    default=True,
    show_default=True,
    help="Whether the page shows frames of clips, faces and plates in them too.",
)
@click.option("--submission", type=click.Path(dir_okay=False, path_type=Path), help="Write the run's submission.csv.")
def report_(
    run: str, details: bool, as_json: bool, html: Path | None, frames: bool, submission: Path | None
) -> None:  # fmt: skip
    """What each step of a run gained, with its error bars."""
    made = report.build(collect(store(), run))
    if html:
        html.parent.mkdir(parents=True, exist_ok=True)
        with show.progress() as progress:
            taken = detail.frames(store(), made["rows"], progress) if frames else None
        html.write_text(page.html(made, taken), encoding="utf-8")
    if submission:
        submission.parent.mkdir(parents=True, exist_ok=True)
        predictions.write_run_submission(store(), run, submission)
        if answering := predictions.submitting(store(), run):
            _warn_of(*answering)
    if as_json:
        _as_json(made)
    elif details or not (html or submission):
        show.report(made, details)


@main.command(
    epilog=_example(
        "roadqa predict public-test --model sandbox-tiny -o submission.csv",
        "roadqa predict public-test --model MODEL -o out.csv --rotate 4",
        "roadqa predict public-test --model MODEL -o out.csv --reasoning --samples 5 --temperature 0.7",
    )
)
@click.argument("dataset")
@click.option("--model", required=True, help="A model's name or artifact.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@_ways_of_asking
def predict(
    dataset: str, model: str, output: Path, engine: str, system_prompt: str | None, **asking: int | float | str
) -> None:
    """Answer a dataset's questions; writes a submission.csv (id,answer)."""
    board().ping()
    with show.progress() as progress:
        plan = predictions.plan(store(), dataset, model, engine, system_prompt, asking, progress)
    _warn_of(plan.models[model], model)
    started = finish(store(), board(), plan)
    count = predictions.write_run_submission(store(), started, output)
    click.echo(f"{output}: {count} answers")


def _warn_of(model: str, name: str) -> None:
    """Say what speaks against the model that answers."""
    if why := verdicts.refusal(store(), model):
        click.echo(f"roadqa: {name} answers, though {why}", err=True)


@main.command(
    "serve", epilog=_example("roadqa serve sandbox-tiny", "roadqa serve MODEL --port 8001 -- --max-model-len 8192")
)
@click.argument("model")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="On loopback.")
@click.option("--force", is_flag=True, help="Serve it even where its gate refused it.")
@click.argument("vllm_options", nargs=-1, type=click.UNPROCESSED)
def serve_(model: str, port: int, force: bool, vllm_options: tuple[str, ...]) -> None:
    """Serve a model by vLLM's OpenAI-compatible server, until Ctrl-C. Options after -- are vLLM's own."""
    with show.progress() as progress:
        artifact = data.resolve_model(store(), "base", model, progress)
    verdicts.check(store(), artifact, model, force)  # the server says it too: it may be started without this command

    prompt = predictions.asked_as(store(), artifact).get("system_prompt", "expert")

    def ready(url: str) -> None:
        click.echo(f"{model} answers at {url}/v1, its metrics at {url}/metrics. To ask it:")
        click.echo(f'roadqa ask CLIP.mp4 "Is the light red?" --choices yes no --url {url} --system-prompt {prompt}')
        click.echo("Without this program:")
        click.echo(serve.example(url, model))

    try:
        serve.serve(artifact, model, port, (*(["--force"] if force else []), *vllm_options), ready)
    except KeyboardInterrupt:
        click.echo(f"{model} is no longer served", err=True)


@main.command("verify", epilog=_example("roadqa verify sandbox-tiny held-out", "roadqa verify MODEL DATASET --fps 1"))
@click.argument("model")
@click.argument("dataset")
@click.option("--limit", default=32, show_default=True, type=click.IntRange(0),
              help="Questions, spread evenly over the dataset; 0: all.")  # fmt: skip
@click.option("--fps", type=float, help="Frames a second the engine is asked at, instead of the training's.")
@click.option("--tokens-per-patch", type=int, help="Cap of visual tokens that the engine is asked at.")
@click.option("--system-prompt", type=click.Choice(prompts.names()), help="What the engine is asked with.")
@click.option("--http/--no-http", default=True, help="Whether a server is started and asked as well.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify_(model: str, dataset: str, limit: int, http: bool, as_json: bool, **changed: Any) -> None:
    """Compare what trainer and engine show the model.

    In bulk and over HTTP: token ids, visual grids, timestamps and pixels must be equal, the choices' log-probabilities
    within a bound. What differs is shown side by side, and the exit status is 1.
    """
    with show.progress() as progress:
        found = verify.verify(store(), model, dataset, changed, limit, http, progress)
    _as_json({"equal": found.equal, **found.model_dump(mode="json")}) if as_json else show.verified(found)
    sys.exit(0 if found.equal else 1)


@main.command(
    "ask",
    epilog=_example(
        'roadqa ask clip.mp4 "Is the light red?" --choices yes no',
        'roadqa ask clip.mp4 "Which sign?" --choices stop yield --url http://host:8000 --json',
    ),
)
@click.argument("clip", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("question")
@click.argument("choices", nargs=-1, required=True)
@click.option("--choices", "_marked", is_flag=True, help="The words after it are the choices.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="A server of OpenAI's protocol.")
@click.option("--model", help="By default the one that is served.")
@click.option("--system-prompt", type=click.Choice(prompts.names()), default="expert", show_default=True,
              help="The one that the model was trained with; `roadqa serve` says which.")  # fmt: skip
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Seconds to wait for the answer.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ask_(
    clip: Path,
    question: str,
    choices: tuple[str, ...],
    _marked: bool,
    url: str,
    model: str | None,
    system_prompt: SystemPrompt,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask a served model about a clip; prints a letter, and how probable each choice is to it.

    The clip goes to the server inside the request, and so does ROADQA_SERVE_API_KEY where it is set.
    """
    asked = ask.question(question, choices)
    server = ask.Server(url, timeout)
    found = server.ask(asked, clip, model or server.model(), system_prompt)
    _as_json(found._asdict()) if as_json else show.reply(asked, found)


@main.command(epilog=_example("roadqa rejected RUN", "roadqa rejected RUN --step augmented --json"))
@click.argument("run")
@click.option("--step", help="One augment step; by default all of the run's.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def rejected(run: str, step: str | None, as_json: bool) -> None:
    """Variations that the gates of augmentation turned away, beside their parents."""
    found = list(turned_away(store(), run, step))
    if as_json:
        _as_json([{"step": away.step, **away.row.model_dump(), "was": away.parent.model_dump(mode="json")}
                  for away in found])  # fmt: skip
    else:
        show.rejected(found)


@main.command(epilog=_example("roadqa trace 3f2a…", "roadqa trace RUN --question test_0001"))
@click.argument("artifact")
@click.option("--question", help="With a predictions artifact or a run: walk from this question's answer.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def trace(artifact: str, question: str | None, as_json: bool) -> None:
    """Walk from an artifact back to all that it came from."""
    found = tracing.trace(store(), artifact, question)
    _as_json(found) if as_json else show.trace(found)


@main.command("doctor", epilog=_example("roadqa doctor"))
def doctor_() -> None:
    """Check broker, store and settings, and say what to mend."""
    findings = doctor.examine()
    show.findings(findings)
    worst: Callable[[doctor.Finding], int] = lambda finding: finding.exit_code  # noqa: E731
    sys.exit(max(map(worst, findings)))


if __name__ == "__main__":
    main()
