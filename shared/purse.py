"""What a run may spend on its teacher: a request is reserved before it is made, and settled by what it cost.

All workers of a run draw on one sum, which lives in Redis so that no two of them spend the same dollar. What each
attempt at a task has paid is kept in the store, and the sum is made from that wherever Redis has lost it.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property

import redis

from shared.errors import LimitReachedError, Stopped
from shared.lease import Board
from shared.run import Runs

log = logging.getLogger(__name__)

_KEEP_SECONDS = 2.0  # between two writes of what was paid: what a kill can make the store forget
_REDIS_SECONDS = 1.0  # between two tries of a Redis that does not answer


class RunPurse:
    """`shared.context.Purse` of one attempt at a run's task."""

    def __init__(self, runs: Runs, board: Board, run: str, task: str, owner: str, stopping: Callable[[], bool]) -> None:
        self._runs, self._board, self._run, self._task, self._owner = runs, board, run, task, owner
        self._stopping = stopping
        self._lock = threading.Lock()
        self._paid, self._kept, self._kept_at = 0.0, 0.0, 0.0

    def reserve(self, usd: float) -> None:
        """Wait for a Redis that does not answer: a limit that cannot be asked is not a limit that holds.

        Raises:
            LimitReachedError: the run is at its limit, and is marked as paused.
            Stopped: asked to stop while Redis did not answer.
        """
        with self._lock:
            while self._limit is not None and not self._reserved(usd, self._limit):
                self._limit = self._raised(self._limit)

    @cached_property
    def _limit(self) -> float | None:
        return self._runs.limit(self._run)

    def _reserved(self, usd: float, limit: float) -> bool:
        while True:
            try:
                answer = self._board.reserve(self._run, usd, limit)
                if answer is not None:
                    return answer
                self._keep()
                self._board.seed_spent(self._run, self._runs.spent(self._run))
            except redis.RedisError as error:
                if self._stopping():
                    raise Stopped("asked to stop while Redis did not answer") from error
                log.warning("Redis does not answer (%s): nothing is spent meanwhile", type(error).__name__)
                time.sleep(_REDIS_SECONDS)

    def _raised(self, limit: float) -> float | None:
        """The run's limit where it has been raised meanwhile; otherwise the run is paused."""
        now = self._runs.limit(self._run)
        if now is None or now > limit:
            return now
        self._runs.pause(self._run, limit)
        raise LimitReachedError(
            f"run {self._run} is at its limit of ${limit:g}; `roadqa limit {self._run} USD` raises it"
        )

    def settle(self, reserved: float, usd: float) -> None:
        with self._lock:
            self._paid += usd
            if self._limit is not None:
                try:
                    self._board.settle(self._run, usd - reserved)
                except redis.RedisError as error:  # the reservation stands for it until the sum is made anew
                    log.warning("%s: $%.4f not told", type(error).__name__, usd)
            if time.monotonic() - self._kept_at >= _KEEP_SECONDS:
                self._keep()

    def __enter__(self) -> "RunPurse":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._keep()

    def _keep(self) -> None:
        self._kept_at = time.monotonic()
        if self._paid > self._kept:
            self._runs.keep_spent(self._task, self._owner, self._paid)
            self._kept = self._paid
