"""What a run may spend on its teacher: a request is reserved before it is made, and settled by what it cost.

Each attempt at a task is an owner. Redis holds for every owner what it has paid and what it has reserved, as absolute
sums that the owner says anew every two seconds: so a Redis that forgets, or a reply that is lost, makes nothing count
twice or never. The store holds what every owner has paid, for good; where Redis knows nothing of one, that counts.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

import redis

from shared.errors import LimitReachedError, Stopped, StoreError, UsageError
from shared.lease import Board, Others, Spending
from shared.run import Runs

log = logging.getLogger(__name__)

SAY_SECONDS = 2.0  #: between two times that an owner says what it has paid: what a kill can make the store forget
LOOK_SECONDS = 5.0  #: for which a limit, and what the store knows of others, is taken as read


class RunPurse:
    """`shared.context.Purse` of one attempt at a run's task. Use it as a context manager."""

    def __init__(self, runs: Runs, board: Board, run: str, task: str, owner: str, stopping: Callable[[], bool]) -> None:
        self._runs, self._board, self._run, self._task, self._owner = runs, board, run, task, owner
        self._stopping = stopping
        self._lock = threading.Lock()  # of the sums alone: nobody waits for Redis or the store under it
        self._saying = threading.Lock()  # one at a time says where this owner stands, lest an older word come last
        self._paid, self._reserved, self._kept = 0.0, 0.0, 0.0
        self._used = False
        self._limit: float | None = None
        self._elsewhere = 0.0  # paid by owners that Redis does not know
        self._known = -1  # owners that Redis knew when that was looked up
        self._looked = -LOOK_SECONDS
        self._done = threading.Event()
        self._teller = threading.Thread(target=self._tell, name=f"purse-{owner[:8]}", daemon=True)

    def __enter__(self) -> "RunPurse":
        self._teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._teller.join()
        with self._lock:
            self._reserved = 0.0
        self._say()

    def reserve(self, usd: float | None) -> bool:
        """Set aside what a request is expected to cost; False where others' reservations must settle first.

        Raises:
            LimitReachedError: the run has paid what it may, and is marked as paused.
            Stopped: asked to stop while Redis did not answer.
            UsageError: the run has a limit, and the teacher no price.
        """
        while True:
            if self._stopping():
                raise Stopped("asked to stop before it was paid for")
            try:
                with self._saying:
                    return self._reserve(usd)
            except redis.RedisError as error:  # a limit that cannot be asked is no limit that holds
                log.warning("Redis does not answer (%s): nothing is spent meanwhile", type(error).__name__)
                self._done.wait(1.0)

    def _reserve(self, usd: float | None) -> bool:
        self._look()
        if self._limit is not None and usd is None:
            raise UsageError(
                "the run has a limit and its teacher no price here: name a table that has one in ROADQA_PRICES, for the"
                " workers too"
            )
        wanted = usd or 0.0
        with self._lock:
            self._used = True
            mine = Spending(self._paid, self._reserved)
        if not self._fits(mine, wanted):
            return False
        with self._lock:
            self._reserved += wanted
        return True

    def _fits(self, mine: Spending, wanted: float) -> bool:
        others = self._board.say_spending(self._run, self._owner, mine, wanted, self._room())
        if self._limit is None:
            return True
        if others.owners != self._known or self._over(mine, wanted, others):
            self._look(anew=True)  # an owner came or went, or the limit was raised a moment ago
            others = self._board.say_spending(self._run, self._owner, mine, wanted, self._room())
            if self._over(mine, wanted, others):
                self._pause()
        return others.fits

    def _over(self, mine: Spending, wanted: float, others: Others) -> bool:
        """Whether what is paid already leaves no room, whatever becomes of the reservations."""
        return not others.fits and mine.paid + others.paid + wanted > self._room()

    def _pause(self) -> None:
        assert self._limit is not None
        self._runs.pause(self._run, self._limit)
        raise LimitReachedError(
            f"run {self._run} is at its limit of ${self._limit:g}; `roadqa limit {self._run} USD` raises it"
        )

    def _room(self) -> float:
        """US dollars that the owners whom Redis knows may spend together."""
        return math.inf if self._limit is None else self._limit - self._elsewhere

    def _look(self, anew: bool = False) -> None:
        """The run's limit, and what is paid by owners that Redis does not know; from the store, now and then."""
        if not anew and time.monotonic() - self._looked < LOOK_SECONDS:
            return
        limit = self._runs.limit(self._run)
        if limit is not None:
            known = self._board.spending(self._run)
            self._known = len(known.keys() - {self._owner})
            self._elsewhere = self._runs.spent(self._run, without={*known, self._owner})
        self._limit, self._looked = limit, time.monotonic()

    def settle(self, reserved: float | None, usd: float) -> None:
        """Pay what a request did cost, and give back what was reserved. Touches nothing but memory."""
        with self._lock:
            self._paid += usd
            self._reserved -= reserved or 0.0

    def _tell(self) -> None:
        while not self._done.wait(SAY_SECONDS):
            self._say()

    def _say(self) -> None:
        """Say in the store and in Redis where this owner stands."""
        with self._lock:
            paid, kept, used = self._paid, self._kept, self._used
        if paid > kept:
            try:
                self._runs.keep_spent(self._task, self._owner, paid)
                self._kept = paid
            except StoreError as error:  # kept at the next time
                log.warning("what was paid is not kept yet: %s", error)
        if not used:
            return
        with self._saying:
            with self._lock:
                mine = Spending(self._paid, self._reserved)
            try:
                self._board.say_spending(self._run, self._owner, mine)
            except redis.RedisError as error:  # said again in a moment
                log.warning("Redis does not answer (%s): what is spent is not told yet", type(error).__name__)
