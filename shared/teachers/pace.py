"""How fast a teacher is asked: a bound on requests in flight, and one pause that all of them keep."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """Requests in flight, and the moment before which none may start.

    A 429 speaks for the whole account, so its wait holds back every request, not only the one
    that met it. Waits end a little apart, or all would return in the same instant.
    """

    def __init__(self, in_flight: int, requests_per_minute: float | None = None) -> None:
        self._slots = asyncio.Semaphore(in_flight)
        self._spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._earliest = 0.0  # on the event loop's monotonic clock
        self._next = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the slots, once the pause is over."""
        async with self._slots:
            loop = asyncio.get_running_loop()
            while (wait := self._earliest - loop.time()) > 0:
                await asyncio.sleep(wait + random.uniform(0, 0.1) * wait)
            if self._spacing:
                start = max(self._next, loop.time())
                self._next = start + self._spacing
                await asyncio.sleep(start - loop.time())
            yield

    def hold(self, seconds: float) -> None:
        """Let nothing start for `seconds` from now."""
        self._earliest = max(self._earliest, asyncio.get_running_loop().time() + seconds)


def backoff(attempt: int, base: float, cap: float) -> float:
    """Seconds to wait after the failed `attempt` (0, 1, …): full jitter over a doubling bound.

    Source: "Exponential backoff and jitter", AWS Architecture Blog.
    """
    bound: float = min(cap, base * 2**attempt)
    return random.uniform(0.1, 1.0) * bound
