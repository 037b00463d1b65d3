"""A run: the tasks of its plan, their keys, and where they stand.

A node becomes *tasks* once its sources are complete: one task, or one for each shard of its
fan-out input. A task's key is `<recipe hash>/<input hash>`, so equal work has one key in every run.
"""

import hashlib
import json
from collections.abc import Container, Mapping
from datetime import datetime
from typing import Any

from shared.contracts import STAGES, seen_inputs
from shared.errors import NotInStoreError, UsageError
from shared.pipeline import HASH_CHARS, Made, Node, Plan
from shared.schema import Frozen
from shared.store import Store, canonical


class Task(Frozen):
    """One piece of work: a stage, a recipe and artifacts."""

    stage: str
    version: int
    recipe: dict[str, Any]
    recipe_hash: str
    inputs: dict[str, tuple[str, ...]]

    @property
    def key(self) -> str:
        digest = hashlib.sha256(canonical(self.inputs)).hexdigest()[:HASH_CHARS]
        return f"{self.recipe_hash}/{digest}"


class Result(Frozen):
    """What `results/<key>` points at. `facts` are what the verb told of its work."""

    artifact: str
    stage: str
    facts: dict[str, Any]
    seconds: float
    attempt: int


class Dead(Frozen):
    """A task that used up its attempts."""

    stage: str
    cause: str
    attempts: int


def expand(node: Node, outputs: Mapping[str, tuple[str, ...]]) -> list[Task] | None:
    """The node's tasks, or None while a source node is not in `outputs` (not complete)."""
    resolved: dict[str, tuple[str, ...]] = {}
    for name, sources in node.inputs.items():
        artifacts: list[str] = []
        for source in sources:
            if source.artifact is not None:
                artifacts.append(source.artifact)
            elif source.node is not None and source.node in outputs:
                artifacts += outputs[source.node]
            else:
                return None
        resolved[name] = tuple(sorted(artifacts))
    contract = STAGES[node.stage]
    shards = resolved[contract.fan_out] if contract.fan_out else ()
    each = [resolved | {contract.fan_out: (shard,)} for shard in shards] if contract.fan_out else [resolved]
    return [
        Task(stage=node.stage, version=node.version, recipe=node.recipe, recipe_hash=node.recipe_hash, inputs=i)
        for i in each
    ]


def made(store: Store, model: str) -> Made:
    """How a model in the store was made, back to its base."""
    lineage = store.manifest(model).lineage
    if lineage is None:
        return Made()
    own = [part for name in seen_inputs(lineage.stage, lineage.recipe) for part in lineage.inputs.get(name, ())]
    before = [part for parent in lineage.inputs.get("model", ()) for part in made(store, parent).trained_on]
    return Made(tuple(dict.fromkeys([*own, *before])), lineage.recipe.get("scheme"))


class NodeState(Frozen):
    """Where a node stands. Results and dead tasks are by task key."""

    node: Node
    tasks: tuple[Task, ...] | None  #: None while its sources are not complete
    results: dict[str, Result] = {}
    dead: dict[str, Dead] = {}

    @property
    def complete(self) -> bool:
        return self.tasks is not None and len(self.results) == len({task.key for task in self.tasks})

    @property
    def open(self) -> list[Task]:
        """Tasks that have neither a result nor died."""
        return [t for t in self.tasks or () if t.key not in self.results and t.key not in self.dead]

    @property
    def artifacts(self) -> tuple[str, ...]:
        return tuple(self.results[task.key].artifact for task in self.tasks or ())


class RunState(Frozen):
    """Where a run stands, derived from the store alone."""

    nodes: tuple[NodeState, ...]
    cancelled: bool = False
    paused: bool = False  #: at its limit: what costs money waits

    @property
    def complete(self) -> bool:
        return all(state.complete for state in self.nodes)

    @property
    def open(self) -> list[Task]:
        """Tasks that have neither a result nor died, in the order of the plan."""
        return [task for state in self.nodes for task in state.open]

    @property
    def workable(self) -> list[Task]:
        """Tasks that can be worked on now."""
        return [task for task in self.open if not (self.paused and STAGES[task.stage].costs(task.recipe))]

    @property
    def stuck(self) -> bool:
        """Nothing is left to do, yet not all is done: something died."""
        return not self.complete and not self.open

    def node(self, name: str) -> NodeState:
        return next(state for state in self.nodes if state.node.name == name)


class Paused(Frozen):
    """A run that may spend no more."""

    limit: float  #: US dollars


class Runs:
    """Runs in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._results: dict[str, Result] = {}

    def submit(self, run: str, plan: Plan) -> None:
        self._store.write(f"runs/{run}/plan", plan.model_dump_json().encode())

    def times(self, run: str) -> tuple[datetime, datetime | None]:
        """When the run was submitted and when it ended, by the store's clock."""
        began = self._store.modified(f"runs/{run}/plan")
        if began is None:
            raise UsageError(f"no run is called {run!r}; `roadqa status` lists them")
        return began, self._store.modified(f"runs/{run}/ended")

    def plan(self, run: str) -> Plan:
        try:
            return Plan.model_validate_json(self._store.read(f"runs/{run}/plan"))
        except NotInStoreError as error:
            raise UsageError(f"no run is called {run!r}; `roadqa status` lists them") from error

    def marks(self) -> dict[str, set[str]]:
        """For each run, which of `plan`, `cancelled`, `ended` exist: one listing, oldest run first."""
        marks: dict[str, set[str]] = {}
        for key in self._store.keys("runs/"):
            _, run, mark = key.split("/", 2)
            marks.setdefault(run, set()).add(mark)
        return marks

    def cancel(self, run: str) -> None:
        self._store.write(f"runs/{run}/cancelled", b"")

    def end(self, run: str, state: str) -> None:
        self._store.write(f"runs/{run}/ended", state.encode())

    def ended(self, run: str) -> str | None:
        """`complete`, `failed` or `cancelled`; None while it is live."""
        found = self._store.find(f"runs/{run}/ended")
        return found.decode() if found is not None else None

    def reopen(self, run: str) -> None:
        """Let a cancelled or failed run go on."""
        for mark in ("cancelled", "ended"):  # in this order: a live run must not look cancelled
            self._store.delete(f"runs/{run}/{mark}")

    def state(self, run: str, plan: Plan | None = None) -> RunState:
        """Compare what should exist with what does."""
        plan = plan or self.plan(run)
        outputs: dict[str, tuple[str, ...]] = {}
        states: list[NodeState] = []
        for node in plan.nodes:
            tasks = expand(node, outputs)
            if tasks is None:
                states.append(NodeState(node=node, tasks=None))
                continue
            keys = {task.key for task in tasks}
            results = self._found(f"results/{node.recipe_hash}/", keys)
            dead = self._dead(node.recipe_hash, keys - results.keys())
            states.append(NodeState(node=node, tasks=tuple(tasks), results=results, dead=dead))
            if states[-1].complete:
                outputs[node.name] = states[-1].artifacts
        cancelled = self._store.exists(f"runs/{run}/cancelled")
        return RunState(nodes=tuple(states), cancelled=cancelled, paused=self.paused(run))

    # --- money -----------------------------------------------------------------------------------

    def limit(self, run: str) -> float | None:
        """US dollars that the run's teacher may cost: the pipeline file's limit, or what it was changed to."""
        changed = self._store.find(f"runs/{run}/limit")
        return float(changed) if changed is not None else self.plan(run).limits.teacher_usd

    def set_limit(self, run: str, usd: float) -> None:
        """Change the limit, and let a paused run try again."""
        self._store.write(f"runs/{run}/limit", repr(usd).encode())
        self._store.delete(f"runs/{run}/paused")

    def pause(self, run: str, limit: float) -> None:
        self._store.write(f"runs/{run}/paused", Paused(limit=limit).model_dump_json().encode())

    def paused(self, run: str) -> bool:
        """Whether the run has reached its limit, and that has not been raised since."""
        found = self._store.find(f"runs/{run}/paused")
        if found is None:
            return False
        limit = self.limit(run)
        return limit is not None and limit <= Paused.model_validate_json(found).limit

    def spent(self, run: str, without: Container[str] = ()) -> float:
        """US dollars that the run's tasks have cost, whichever run asked for them first; `without` some owners'."""
        nodes = [n for n in self.state(run).nodes if STAGES[n.node.stage].costs(n.node.recipe)]
        tasks = {task.key: n.node.recipe_hash for n in nodes for task in n.tasks or ()}
        names = {name for recipe in set(tasks.values()) for name in self._store.keys(f"spent/{recipe}/")}
        parts = {name: name.removeprefix("spent/").rsplit("/", 1) for name in names}
        wanted = [name for name, (task, owner) in parts.items() if task in tasks and owner not in without]
        return sum(float(json.loads(self._store.read(name))["usd"]) for name in wanted)

    def keep_spent(self, task: str, owner: str, usd: float) -> None:
        """What one attempt has paid so far."""
        self._store.write(f"spent/{task}/{owner}", canonical({"usd": usd}))

    def _found(self, prefix: str, keys: set[str]) -> dict[str, Result]:
        present = {key.removeprefix("results/") for key in self._store.keys(prefix)} & keys
        for key in present - self._results.keys():
            self._results[key] = Result.model_validate_json(self._store.read(f"results/{key}"))
        return {key: self._results[key] for key in sorted(present)}

    def _dead(self, recipe_hash: str, keys: set[str]) -> dict[str, Dead]:
        if not keys:
            return {}
        present = {key.removeprefix("dead/") for key in self._store.keys(f"dead/{recipe_hash}/")} & keys
        return {key: Dead.model_validate_json(self._store.read(f"dead/{key}")) for key in sorted(present)}

    def attempts(self, key: str) -> list[dict[str, Any]]:
        """Every attempt at a task, in order; each with `outcome` and `cause` where it ended in the open."""
        ends: dict[str, dict[str, Any]] = {}
        for name in self._store.keys(f"attempts/{key}/"):
            number = name.rsplit("/", 1)[1]
            if number.endswith(".end"):
                ends[number.removesuffix(".end")] = json.loads(self._store.read(name))
            else:
                ends.setdefault(number, {})
        return [ends[number] for number in sorted(ends)]

    def bury(self, task: Task, cause: str, attempts: int) -> None:
        dead = Dead(stage=task.stage, cause=cause, attempts=attempts)
        self._store.write_if_absent(f"dead/{task.key}", dead.model_dump_json().encode())

    def revive(self, key: str) -> None:
        """Forget a task's death and its attempts."""
        for name in [*self._store.keys(f"attempts/{key}/"), f"dead/{key}"]:  # a task with attempts left is not buried
            self._store.delete(name)
