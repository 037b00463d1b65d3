"""Submitting runs, watching them, reviving and cancelling them."""

import logging
import secrets
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import redis

from services.cli import bases, leaks
from services.cli.data import Progress, resolve_data, resolve_model
from services.cli.estimate import check_limit
from shared.errors import UsageError
from shared.lease import Board
from shared.pipeline import Limits, Pipeline, Plan, make_plan, parse_pipeline
from shared.run import NodeState, Runs, RunState, made
from shared.schema import Frozen
from shared.settings import settings
from shared.store import Store

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def read_pipeline(file: Path | None, preset: str | None) -> Pipeline:
    """A pipeline file, or one that ships with the package."""
    if (file is None) == (preset is None):
        raise UsageError("give a pipeline file, or --preset with one of: " + ", ".join(presets()))
    if file is not None:
        try:
            return parse_pipeline(file.read_text(encoding="utf-8-sig"), str(file))
        except UnicodeDecodeError as error:
            raise UsageError(f"{file}: not UTF-8: {error}") from error
    folder = resources.files("services.cli.presets")
    if preset not in presets():
        raise UsageError(f"no preset is called {preset!r}; there are: {', '.join(presets())}")
    return parse_pipeline((folder / f"{preset}.yaml").read_text(encoding="utf-8"), f"preset {preset}")


def presets() -> list[str]:
    names = (item.name for item in resources.files("services.cli.presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def resolve(store: Store, pipeline: Pipeline, progress: Progress) -> Plan:
    """Import what the pipeline asks for, and lay out its graph."""
    # a wrong step or row should be told before gigabytes are imported
    check_limit(make_plan(pipeline, dict.fromkeys(pipeline.data, ("",)), dict.fromkeys(pipeline.models, "")))
    datasets = {name: resolve_data(store, name, source, progress) for name, source in pipeline.data.items()}
    models = {name: resolve_model(store, name, source, progress) for name, source in pipeline.models.items()}
    known = {model: made(store, model) for model in models.values()}
    plan = make_plan(pipeline, datasets, models, known, settings().lacking)
    bases.check(store, plan)
    leaks.check(store, plan)
    return plan


def submit(store: Store, board: Board, plan: Plan) -> str:
    """Put the run into the store and wake the conductor; returns the run's id.

    Work that died in an earlier run gets new attempts.
    """
    run = f"{plan.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    runs = Runs(store)
    _revive(runs, runs.state(run, plan))
    runs.submit(run, plan)
    _wake(board, run)
    return run


def _revive(runs: Runs, state: RunState) -> int:
    """Give dead tasks new attempts; returns how many."""
    dead = [key for node in state.nodes for key in node.dead]
    for key in dead:
        runs.revive(key)
    return len(dead)


def _wake(board: Board, run: str) -> None:
    """A hint that may be lost: the conductor looks by itself too."""
    try:
        board.wake(run)
    except redis.RedisError as error:
        log.warning("Redis does not answer (%s); %s waits until the conductor looks", type(error).__name__, run)


class Step(Frozen):
    """One step of a run, as people see it."""

    name: str
    stage: str
    state: str  #: waiting, ready, running, paused, done, dead
    done: int  #: finished tasks
    total: int | None  #: tasks; None while not known
    progress: tuple[dict[str, object], ...] = ()  #: of the tasks under way
    causes: tuple[str, ...] = ()  #: why tasks died
    seconds: float = 0.0  #: of work, summed over finished tasks


def view(state: RunState, board: Board) -> list[Step]:
    """Every step of a run with what is under way."""
    under_way = board.progress(task.key for task in state.open)
    leased = board.leased(task.key for task in state.open)
    workable = {task.key for task in state.workable}
    return [_step(node, under_way, leased, workable) for node in state.nodes]


def _step(node: NodeState, under_way: dict[str, dict[str, object]], leased: set[str], workable: set[str]) -> Step:
    running = {task.key for task in node.open} & leased
    if node.complete:
        state = "done"
    elif node.tasks is None:
        state = "waiting"
    elif running:
        state = "running"
    elif node.dead and not node.open:
        state = "dead"
    elif not any(task.key in workable for task in node.open):
        state = "paused"
    else:
        state = "ready"
    return Step(
        name=node.node.name,
        stage=node.node.stage,
        state=state,
        done=len(node.results),
        total=None if node.tasks is None else len({task.key for task in node.tasks}),
        progress=tuple(under_way[key] for key in sorted(running) if key in under_way),
        causes=tuple(dead.cause for dead in node.dead.values()),
        seconds=sum(result.seconds for result in node.results.values()),
    )


def watch(store: Store, board: Board, run: str, show: Callable[[list[Step], float], None]) -> str:
    """Show the run until it ends; returns how: complete, failed or cancelled; or paused, where only money helps on."""
    runs = Runs(store)
    plan = runs.plan(run)
    started = time.monotonic()
    while True:
        ended = runs.ended(run)
        try:
            state = runs.state(run, plan)
            steps = view(state, board)
            show(steps, time.monotonic() - started)
            if not ended and state.paused and not state.workable and not any(s.state == "running" for s in steps):
                return "paused"
        except redis.RedisError:  # progress is not to be seen for a while; the run goes on
            log.warning("Redis does not answer; looking again")
        if ended:
            return ended
        time.sleep(_POLL_SECONDS)


def retry(store: Store, board: Board, run: str) -> int:
    """Revive the run's dead tasks and let it go on; returns how many."""
    runs = Runs(store)
    if runs.ended(run) == "complete":
        raise UsageError(f"run {run} is complete: there is nothing to retry")
    revived = _revive(runs, runs.state(run))
    runs.reopen(run)
    _wake(board, run)
    return revived


def set_limit(store: Store, board: Board, run: str, usd: float) -> float:
    """Change what the run's teacher may cost, and let a paused run go on; returns what it has cost so far."""
    runs = Runs(store)
    if ended := runs.ended(run):
        raise UsageError(f"run {run} has ended: {ended}")
    plan = runs.plan(run)
    check_limit(plan.model_copy(update={"limits": Limits(teacher_usd=usd)}))
    spent = runs.spent(run)
    runs.set_limit(run, usd)
    _wake(board, run)
    return spent


def standing(runs: Runs, run: str) -> str:
    """complete, failed or cancelled; otherwise paused or live."""
    return runs.ended(run) or ("paused" if runs.paused(run) else "live")


def cancel(store: Store, board: Board, run: str) -> None:
    """Stop the run; what it finished stays."""
    runs = Runs(store)
    runs.plan(run)
    if runs.ended(run):
        raise UsageError(f"run {run} has ended: {runs.ended(run)}")
    runs.cancel(run)
    _wake(board, run)
