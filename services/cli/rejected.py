"""What the gates of augmentation turned away, to be looked at."""

from collections.abc import Iterator
from typing import NamedTuple

from services.cli.collect import read_rows
from shared.errors import NotInStoreError, UsageError
from shared.run import Runs
from shared.schema import Question, Rejected
from shared.store import Store


class TurnedAway(NamedTuple):
    """A variation that may not stand, and what it was made from."""

    step: str
    row: Rejected
    parent: Question


def turned_away(store: Store, run: str, step: str | None = None) -> Iterator[TurnedAway]:
    """Those of a run's augment steps, as far as they are done.

    Raises:
        UsageError: no such run, or no such augment step.
    """
    nodes = [node for node in Runs(store).state(run).nodes if node.node.stage == "augment"]
    chosen = [node for node in nodes if step in (None, node.node.name)]
    if not chosen:
        known = ", ".join(node.node.name for node in nodes) or "none"
        raise UsageError(f"run {run} has no augment step{f' {step!r}' if step else ''}; its augment steps: {known}")
    for node in chosen:
        for task in node.tasks or ():
            if result := node.results.get(task.key):
                yield from _of_shard(store, node.node.name, task.inputs["data"], result.artifact)


def _of_shard(store: Store, step: str, parts: tuple[str, ...], artifact: str) -> Iterator[TurnedAway]:
    try:
        rows = [Rejected.model_validate_json(line) for line in store.read_file(artifact, "rejected.jsonl").splitlines()]
    except NotInStoreError:  # made before these were kept
        return
    parents = {question.id: question for question in read_rows(store, parts)[0]} if rows else {}
    yield from (TurnedAway(step, row, parents[row.parent]) for row in rows)
