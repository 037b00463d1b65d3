"""Many pieces of work that ask a teacher at the same time, and how they end together."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from shared.errors import RoadQAError, Stopped
from shared.teachers.teacher import Teacher, TeacherError

PUT_DOWN = "the work was put down; the answers so far are kept"
LOOK_S = 0.5  #: seconds between looks at whether it is to end
IN_A_JOB = 10_000  #: pieces of work, and requests, that are waited for at once in batch mode
OUTAGE = 20  #: requests in a row, each after all its tries, without any answer from the service

Item = TypeVar("Item")


def at_once(teacher: Teacher, in_flight: int) -> int:
    """How much is asked at the same time: a batch job holds what is, and how much of it waits costs nothing."""
    return IN_A_JOB if teacher.batched else in_flight


class Crew:
    """One failure ends it, as a stop does: nothing more is begun, but what is in flight is paid for and may arrive."""

    def __init__(self, stopping: Callable[[], bool], patience_s: float) -> None:
        """`patience_s`: how long what is in flight is waited for."""
        self._stopping, self._patience = stopping, patience_s
        self._failed = False
        self._unanswered = 0

    def answered(self) -> None:
        """Say that the service answered a request."""
        self._unanswered = 0

    def unanswered(self, error: TeacherError) -> None:
        """Say that it did not.

        Raises:
            TeacherError: this one, where the service answers nothing any more.
        """
        self._unanswered = self._unanswered + 1 if error.transient else 0
        if self._unanswered >= OUTAGE:
            raise error

    def ending(self) -> bool:
        return self._failed or self._stopping()

    def fail(self) -> None:
        """End it because of a failure that is being raised."""
        self._failed = True

    async def all(self, items: Iterable[Item], do: Callable[[Item], Awaitable[None]], at_once: int) -> None:
        """Do every item, `at_once` at a time.

        Raises:
            Stopped: the work is to be put down.
            Exception: what failed first by itself.
        """
        waiting = iter(items)
        tasks = [asyncio.create_task(self._some(waiting, do)) for _ in range(at_once)]
        watch = asyncio.create_task(self._end(tasks))
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in [*tasks, watch]:
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)
        raise_cause(results)

    async def _some(self, waiting: Iterator[Item], do: Callable[[Item], Awaitable[None]]) -> None:
        for item in waiting:
            if self.ending():
                raise Stopped(PUT_DOWN)
            try:
                await do(item)
            except BaseException:
                self.fail()
                raise

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        while not self.ending():
            await asyncio.sleep(LOOK_S)
        await asyncio.wait(tasks, timeout=self._patience)
        for task in tasks:
            task.cancel()


class TeacherOutageError(RoadQAError):
    """Too much could not be asked; another attempt goes on from the journal."""


class TeacherRefusalError(RoadQAError):
    """The service refuses every request, and would again."""

    permanent = True


def raise_cause(results: Iterable[object]) -> None:
    """Raise the failure among `results` that came first by itself; `Stopped` where all were only put down."""
    failures = [result for result in results if isinstance(result, BaseException)]
    causes = [failure for failure in failures if not isinstance(failure, Stopped | asyncio.CancelledError)]
    if causes:
        raise causes[0]
    if failures:
        raise Stopped(PUT_DOWN)
