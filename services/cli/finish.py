"""Runs that a command submits and waits for."""

from services.cli import runs, show
from services.cli.collect import collect
from shared.errors import RoadQAError
from shared.lease import Board
from shared.pipeline import Plan
from shared.store import Store


def finish(store: Store, board: Board, plan: Plan) -> str:
    """Submit a plan and show it until it is complete; returns the run.

    Raises:
        RoadQAError: it ended otherwise; says the causes.
    """
    run = runs.submit(store, board, plan)
    with show.live(run) as update:
        ended = runs.watch(store, board, run, update)
    if ended == "paused":
        raise RoadQAError(f"run {run} is at its limit: `roadqa limit {run} USD` raises it, and `roadqa watch {run}`")
    if ended != "complete":
        raise RoadQAError(f"run {run} {ended}: {'; '.join(collect(store, run).problems)}")
    return run
