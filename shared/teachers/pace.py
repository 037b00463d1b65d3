"""How fast a teacher is asked: requests in flight, a limit that all processes share, and pauses that all keep."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from shared.prices import expected_tokens
from shared.teachers.teacher import Reply, Request, TeacherError
from shared.teachers.tries import Tries


class Limit(Protocol):
    """What the processes that ask one teacher share."""

    async def turn(self, tokens: int) -> None:
        """Wait until one more request, which is expected to cost `tokens`, may start."""
        ...

    def spent(self, expected: int, tokens: int) -> None:
        """Say what a request did cost."""
        ...

    async def held(self) -> float:
        """Seconds for which no process may start a request."""
        ...

    async def hold(self, seconds: float) -> None:
        """Let no process start a request for `seconds`."""
        ...

    async def aclose(self) -> None: ...


class Pace:
    """Bounds what this process has in flight, and keeps to the shared limit where there is one.

    A 429 speaks for the whole account, so its wait holds back every request, not only the one
    that met it. Waits end a little apart, or all would return in the same instant.
    """

    def __init__(self, in_flight: int, limit: Limit | None = None) -> None:
        self._slots = asyncio.Semaphore(in_flight)
        self._limit = limit
        self._earliest = 0.0  # on the event loop's monotonic clock

    async def persist(self, tries: Tries, once: Callable[[], Awaitable[Reply]]) -> Reply:
        """Call `once` until it gives a reply or another try cannot help; wait as the service or `tries` says.

        Raises:
            TeacherError: no usable answer after all tries.
        """
        while True:
            try:
                return tries.reply(await once())
            except TeacherError as error:
                if (taken := tries.failed(error)) is not None:
                    return taken
                if error.retry_after is not None:
                    await self.hold(error.retry_after)
                else:
                    await asyncio.sleep(tries.wait_s(error))

    async def paced(self, request: Request, once: Callable[[], Awaitable[Reply]]) -> Reply:
        """Call `once` when it is the request's turn, and count what it cost."""
        expected = sum(expected_tokens(request.seconds, request.teacher, len(request.prompt)))
        async with self._slots:
            await self._ready(expected)
            spent = 0
            try:
                reply = await once()
                spent = reply.usage.tokens_in + reply.usage.tokens_out
            except TeacherError as error:
                spent = error.usage.tokens_in + error.usage.tokens_out
                raise
            finally:
                if self._limit is not None:
                    self._limit.spent(expected, spent)
            return reply

    async def _ready(self, tokens: int) -> None:
        while True:
            if self._limit is not None:
                await self._limit.turn(tokens)
            wait = await self._held()  # after the turn: a pause may have begun meanwhile
            if wait <= 0:
                return
            await asyncio.sleep(wait * random.uniform(1, 1.1))

    async def _held(self) -> float:
        own = self._earliest - asyncio.get_running_loop().time()
        return max(own, await self._limit.held()) if self._limit is not None else own

    async def hold(self, seconds: float) -> None:
        """Let nothing start for `seconds` from now, here and in the other processes."""
        self._earliest = max(self._earliest, asyncio.get_running_loop().time() + seconds)
        if self._limit is not None:
            await self._limit.hold(seconds)

    async def aclose(self) -> None:
        if self._limit is not None:
            await self._limit.aclose()
