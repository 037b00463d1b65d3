"""The one wrapper round every verb: claim → fetch → verb → commit → tell."""

import json
import logging
import threading
import time
import traceback
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

import redis
from celery import signals

from shared.context import LocalPurse, Purse, Scratch, Verb
from shared.contracts import STAGES
from shared.errors import LimitReachedError, RoadQAError, Stopped
from shared.lease import Board, Heartbeat, board
from shared.purse import RunPurse
from shared.run import Result, Runs, Task
from shared.settings import Settings, settings
from shared.store import Lineage, Store, StoreScratch, canonical, store

log = logging.getLogger(__name__)

#: One journal for all that asks a teacher: no part, run or recipe pays again for the same request.
TEACHER_SCRATCH = "teacher"
_PROGRESS_EVERY = 0.5  # seconds between two progress reports

#: Set when the worker process was asked to end; every verb sees it as `ctx.stopping`.
shutting_down = threading.Event()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: object) -> None:
    shutting_down.set()


class StageContext:
    """The context of a verb inside a worker."""

    def __init__(self, task: str, stage: str, board: Board, scratch: Scratch) -> None:
        self.scratch = scratch
        self._task, self._stage, self._board = task, stage, board
        self._started = time.monotonic()
        self._first: tuple[float, float] | None = None  # time and `done` of the first report
        self._last = 0.0
        self.unwanted = threading.Event()
        self.purse: Purse = LocalPurse()

    @property
    def stopping(self) -> bool:
        return shutting_down.is_set() or self.unwanted.is_set()

    def progress(self, done: float, total: float, unit: str, **facts: float | str) -> None:
        """Tell Redis, at most twice a second; the rate is this attempt's own."""
        now = time.monotonic()
        first_time, first_done = self._first = self._first or (now, done)
        if now - self._last < _PROGRESS_EVERY and done < total:
            return
        self._last = now
        rate = (done - first_done) / (now - first_time) if now > first_time else None
        report = {"stage": self._stage, "done": done, "total": total, "unit": unit, "rate": rate, "facts": facts}
        report["seconds"] = now - self._started
        try:
            self._board.report(self._task, report)
        except redis.RedisError as error:
            log.warning("progress of %s not told: %s", self._task, type(error).__name__)


class Worker:
    """Performs tasks against one store and one board."""

    def __init__(self, config: Settings, store: Store, board: Board) -> None:
        self._config, self._store, self._board = config, store, board

    def perform(self, verb: Verb, *, task: str, stage: str, version: int, run: str) -> None:
        """Take an offer: do the task unless it is done, someone has it, or it is of another version."""
        if version != STAGES[stage].version:
            log.warning("declined %s %s: offered version %s, here %s", stage, task, version, STAGES[stage].version)
            return
        owner = uuid.uuid4().hex
        if shutting_down.is_set() or not self._board.claim(task, owner):
            return
        asks = STAGES[stage].asks_teacher
        ctx = StageContext(task, stage, self._board, StoreScratch(self._store, TEACHER_SCRATCH if asks else task))
        try:
            if self._board.must_stop(task):
                return  # nobody wants it any more
            with (
                Heartbeat(self._board, task, owner, self._config.heartbeat_seconds, ctx.unwanted.set),
                RunPurse(Runs(self._store), self._board, run, task, owner, lambda: ctx.stopping) as ctx.purse,
            ):
                self._attempt(verb, task, ctx)
        finally:
            self._tell(task, owner, run)

    def _tell(self, task: str, owner: str, run: str) -> None:
        try:
            self._board.withdraw(task)
            self._board.release(task, owner)
            self._board.wake(run)
        except redis.RedisError as error:  # keys expire by themselves; the conductor looks every few seconds
            log.warning("end of %s not told: %s", task, type(error).__name__)

    def _attempt(self, verb: Verb, key: str, ctx: StageContext) -> None:
        if self._store.exists(f"results/{key}"):
            return
        task = Task.model_validate_json(self._store.read(f"requests/{key}"))
        attempt = self._begin(key)
        log.info("%s %s: attempt %d", task.stage, key, attempt)
        try:
            self._do(verb, task, attempt, ctx)
        except Stopped:
            self._end(key, attempt, "released", "the worker was asked to stop")
        except LimitReachedError as error:
            log.warning("%s %s: %s", task.stage, key, error)
            self._end(key, attempt, "released", str(error))
        except Exception as error:
            permanent = isinstance(error, RoadQAError) and error.permanent
            log.error("%s %s failed: %s", task.stage, key, error, exc_info=not isinstance(error, RoadQAError))
            self._end(key, attempt, "failed", _cause(error), permanent=permanent)

    def _do(self, verb: Verb, task: Task, attempt: int, ctx: StageContext) -> None:
        contract = STAGES[task.stage]
        started = time.monotonic()
        with self._store.workspace() as space:
            inputs: dict[str, list[Path]] = {name: [] for name in contract.inputs}
            for name, artifacts in task.inputs.items():
                wanted = contract.inputs[name]
                for number, artifact in enumerate(artifacts):
                    folder = space / name / f"{number:05d}"
                    folder.mkdir(parents=True)
                    self._store.get_artifact(artifact, folder, clips=wanted.clips, only=wanted.only)
                    inputs[name].append(folder)
            out = space / "out"
            out.mkdir()
            facts = verb(inputs, contract.recipe.model_validate(task.recipe), out, ctx)
            lineage = Lineage(stage=task.stage, version=task.version, recipe=task.recipe, inputs=task.inputs)
            artifact = self._store.put_artifact(contract.output, out, lineage)
        result = Result(
            artifact=artifact, stage=task.stage, facts=facts, seconds=time.monotonic() - started, attempt=attempt
        )
        for model in task.inputs.get(contract.about, ()) if contract.about else ():
            self._store.write(f"about/{model}/{artifact}", b"")
        self._store.write_if_absent(f"results/{task.key}", result.model_dump_json().encode())
        if not contract.asks_teacher:
            StoreScratch(self._store, task.key).clear()

    def _begin(self, key: str) -> int:
        """Record that an attempt begins, before anything can kill it; returns its number."""
        number = sum(not name.endswith(".end") for name in self._store.keys(f"attempts/{key}/")) + 1
        while not self._store.write_if_absent(f"attempts/{key}/{number:04d}", b"{}"):
            number += 1
        return number

    def _end(self, key: str, attempt: int, outcome: str, cause: str, *, permanent: bool = False) -> None:
        body = {"outcome": outcome, "cause": cause, "permanent": permanent}
        self._store.write(f"attempts/{key}/{attempt:04d}.end", canonical(body))


def _cause(error: Exception) -> str:
    if isinstance(error, RoadQAError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


class _Process:
    """This process's worker, made at the first task."""

    @cached_property
    def worker(self) -> Worker:
        store().prepare()
        return Worker(settings(), store(), board())


_process = _Process()


def perform(verb: Verb, offer: dict[str, Any]) -> None:
    """What every Celery task does with the offer it was sent."""
    _process.worker.perform(verb, **offer)


def offer_of(task: Task, run: str) -> dict[str, Any]:
    """The message that offers a task: ids, never content."""
    return {"task": task.key, "stage": task.stage, "version": task.version, "run": run}


def request_of(task: Task) -> bytes:
    """The object at `requests/<key>` that says what a task is to do."""
    return json.dumps(task.model_dump(mode="json"), sort_keys=True).encode()
