"""The conductor: looks at every live run and offers what is ready. It never computes, and may die or be doubled."""

import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterable

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import ValidationError

from services.conductor.metrics import Metrics, Snapshot, snapshot
from shared.broker import make_app
from shared.contracts import STAGES
from shared.errors import StoreError
from shared.lease import Board, board
from shared.pipeline import Plan
from shared.run import Runs, RunState, Task
from shared.settings import Settings, settings
from shared.stage import offer_of, request_of
from shared.store import Store, store

log = logging.getLogger("conductor")

_VANISHED = "the worker vanished (killed, or out of memory)"


class Conductor:
    """One look at the world is `tick()`; everything it knows it can learn again."""

    def __init__(self, config: Settings, store: Store, board: Board, app: Celery) -> None:
        self._config, self._store, self._board, self._app = config, store, board, app
        self._runs = Runs(store)
        self._plans: dict[str, Plan] = {}
        self._requested: set[str] = set()
        self._endings: dict[str, str] = {}

    def tick(self) -> Snapshot:
        """Advance every live run once; returns what was seen."""
        quiet = self._board.quiet()  # Redis lost its leases: every heartbeat is bringing its own back
        marks = self._runs.marks()
        live = [run for run, found in marks.items() if "plan" in found and "ended" not in found]
        states = {run: state for run in live if (state := self._state(run)) is not None}
        wanted = {task.key for state in states.values() if not state.cancelled for task in state.workable}
        leased = self._board.leased({task.key for state in states.values() for task in state.open})
        for run, state in states.items():
            self._advance(run, state, wanted, leased, quiet)
        paused = sum(state.paused for state in states.values())
        ended = self._ended(run for run, found in marks.items() if "ended" in found)
        runs = Counter(live=len(live) - paused, paused=paused) + ended
        return snapshot(states.values(), wanted, leased, runs)

    def _ended(self, runs: Iterable[str]) -> Counter[str]:
        """How these runs ended. Each is read once, and anew after a retry."""
        read = ((run, self._endings.get(run) or self._runs.ended(run)) for run in runs)
        self._endings = {run: ending for run, ending in read if ending}
        return Counter(self._endings.values())

    def _state(self, run: str) -> RunState | None:
        """Where the run stands; None where what is stored of it cannot be read. The other runs go on."""
        try:
            if run not in self._plans:
                self._plans[run] = self._runs.plan(run)
            return self._runs.state(run, self._plans[run])
        except (ValidationError, KeyError) as error:
            log.error("run %s cannot be read: %s", run, " ".join(str(error).split()))
            return None

    def _advance(self, run: str, state: RunState, wanted: set[str], leased: set[str], quiet: bool) -> None:
        if state.cancelled:
            unwanted = {task.key for task in state.open} - wanted
            for key in unwanted:  # an offer that is out may still be taken
                self._board.stop(key)
            if not leased & unwanted:
                self._end(run, "cancelled")
        elif state.complete:
            self._end(run, "complete")
        elif state.stuck:
            self._end(run, "failed")
        elif not quiet:
            offered = self._board.offered(task.key for task in state.workable)
            for task in state.workable:
                if task.key not in leased and task.key not in offered:
                    self._offer(run, task)

    def _end(self, run: str, how: str) -> None:
        self._runs.end(run, how)
        self._plans.pop(run, None)
        log.info("run %s: %s", run, how)

    def _offer(self, run: str, task: Task) -> None:
        current = STAGES[task.stage].version
        if task.version != current:
            cause = f"planned for version {task.version} of {task.stage}, this is {current}: start the run anew"
            self._runs.bury(task, cause, 0)
            return
        queue = STAGES[task.stage].queue
        if self._board.waiting(queue) >= self._config.offers_per_queue or self._spent(task):
            return
        if task.key not in self._requested:
            self._store.write_if_absent(f"requests/{task.key}", request_of(task))
            self._requested.add(task.key)
        if not self._board.offer(task.key):
            return
        self._board.unstop([task.key])
        self._app.send_task(
            task.stage, kwargs=offer_of(task, run), queue=queue, expires=self._config.offer_seconds, retry=False
        )
        log.info("run %s: offered %s %s", run, task.stage, task.key)

    def _spent(self, task: Task) -> bool:
        """Bury a task that used up its attempts, or whose input can never work."""
        attempts = [a for a in self._runs.attempts(task.key) if a.get("outcome") != "released"]
        if not attempts:
            return False
        last = attempts[-1]
        if not last.get("permanent") and len(attempts) < self._config.max_attempts:
            return False
        cause = last.get("cause", _VANISHED)
        self._runs.bury(task, cause, len(attempts))
        log.error("dead after %d attempts: %s %s: %s", len(attempts), task.stage, task.key, cause)
        return True


def serve(stop: threading.Event) -> None:
    """Tick when woken, or every few seconds, until `stop`. A failing store or broker is waited out."""
    config = settings()
    metrics = Metrics()
    if config.metrics_port:
        metrics.serve(config.metrics_host, config.metrics_port)
    conductor = Conductor(config, store(), board(), make_app())
    prepared = False
    while not stop.is_set():
        try:
            if not prepared:
                store().prepare()
                prepared = True
            with metrics.seconds.time():
                seen = conductor.tick()
            metrics.show(seen)
            if config.heartbeat_file:
                config.heartbeat_file.touch()
            board().sleep(config.tick_seconds)
        except (redis.RedisError, OperationalError, StoreError) as error:
            metrics.show(None)
            log.warning("%s: %s; trying again", type(error).__name__, error)
            stop.wait(1.0)


def main() -> None:
    """`python -m services.conductor.main`"""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    serve(stop)


if __name__ == "__main__":
    main()
