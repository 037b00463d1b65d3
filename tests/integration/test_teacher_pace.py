"""The limit that all who ask a teacher share, with a real Redis."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from shared.contracts import TeacherRecipe
from shared.lease import Board
from shared.settings import Settings
from shared.teachers import Pace, Reply, Request, SharedLimit, TeacherError, Usage
from tests.integration.processes import OwnRedis
from tests.integration.taught import sandbox_teacher
from tests.integration.teaching import clip_in, question, teacher_at

REQUEST = Request(teacher=TeacherRecipe(), prompt_id="p", prompt="?", answer=BaseModel)


def limit_at(url: str, requests: int = 0, tokens: int = 0, server: str = "s") -> SharedLimit:
    return SharedLimit(url, server, requests, tokens)


@pytest.fixture
def url(config: Settings, board: Board) -> str:
    """Of an empty Redis; afterwards every key in it must have a TTL."""
    return config.redis_url.get_secret_value()


async def closing(limits: list[SharedLimit], do: Callable[[], Awaitable[None]]) -> None:
    try:
        await do()
    finally:
        for limit in limits:
            await limit.aclose()


def test_turns_come_at_an_even_pace_whoever_takes_them(url: str) -> None:
    limits = [limit_at(url, 1200) for _ in range(3)]
    starts: list[float] = []

    async def take(limit: SharedLimit) -> None:
        for _ in range(20):
            await limit.turn(0)
            starts.append(time.monotonic())

    async def run() -> None:
        await asyncio.gather(*(take(limit) for limit in limits))

    asyncio.run(closing(limits, run))
    first, last = min(starts), max(starts)
    assert sum(start - first < 0.05 for start in starts) <= 7  # a quarter of a second's worth, and one of 50 ms
    assert last - first >= (60 - 5) / 20 - 0.1
    assert last - first <= 60 / 20 * 1.3


def test_another_server_has_a_limit_of_its_own(url: str) -> None:
    limits = [limit_at(url, 60, server=name) for name in ("a", "b")]

    async def run() -> None:
        start = time.monotonic()
        await asyncio.gather(*(limit.turn(0) for limit in limits))
        assert time.monotonic() - start < 0.5

    asyncio.run(closing(limits, run))


def test_tokens_are_limited_by_what_requests_did_cost(url: str) -> None:
    """6,000 tokens a minute are 100 a second; the ten requests were expected to cost 10 and cost 50 each."""
    limit = limit_at(url, tokens=6000)

    async def run() -> None:
        start = time.monotonic()
        for _ in range(10):
            await limit.turn(10)
            limit.spent(10, 50)
        assert 9 * 50 / 100 * 0.9 <= time.monotonic() - start <= 9 * 50 / 100 * 1.3

    asyncio.run(closing([limit], run))


def test_tokens_that_were_not_spent_are_given_back(url: str) -> None:
    limit = limit_at(url, tokens=6000)

    async def run() -> None:
        start = time.monotonic()
        for _ in range(20):
            await limit.turn(100)
            limit.spent(100, 1)
        assert time.monotonic() - start < 3  # 20 × 100 at once would take 20 s

    asyncio.run(closing([limit], run))


def test_a_pause_holds_back_the_other_workers_too(url: str) -> None:
    limits = [limit_at(url), limit_at(url)]
    paces = [Pace(4, limit) for limit in limits]

    async def once() -> Reply:
        return Reply({}, Usage(1, 1, 1), "m")

    async def run() -> None:
        await paces[0].hold(0.6)
        await paces[0].hold(0.1)  # the longer one stays
        start = time.monotonic()
        await asyncio.gather(*(pace.paced(REQUEST, once) for pace in paces for _ in range(4)))
        assert 0.55 <= time.monotonic() - start <= 1.5

    asyncio.run(closing(limits, run))


def test_the_wait_that_a_429_asks_for_is_kept_by_another_worker(url: str, tmp_path: Path) -> None:
    clip, limits = clip_in(tmp_path), [limit_at(url), limit_at(url)]

    async def run() -> None:
        with sandbox_teacher("--faults", "429=1", "--retry-delay", "1") as limited, sandbox_teacher() as free:
            first, second = teacher_at(limited, limit=limits[0]), teacher_at(free, limit=limits[1])
            refused = asyncio.create_task(first.ask(question(), clip))
            while not first.troubles:
                await asyncio.sleep(0.005)
            start = time.monotonic()
            await second.ask(question(), clip)
            waited = time.monotonic() - start
            refused.cancel()
            await asyncio.gather(refused, return_exceptions=True)
            await first.aclose()
            await second.aclose()
        assert waited > 0.8

    asyncio.run(run())


def test_a_lost_redis_stops_what_is_limited_until_it_is_back(
    own_redis: OwnRedis, caplog: pytest.LogCaptureFixture
) -> None:
    limit = limit_at(own_redis.url.get_secret_value(), 6000)
    took: list[float] = []

    async def run() -> None:
        await limit.turn(0)
        own_redis.stop()
        waiting = asyncio.create_task(limit.turn(0))
        with caplog.at_level(logging.WARNING):
            done, _ = await asyncio.wait([waiting], timeout=1.5)
        assert not done
        own_redis.start()
        start = time.monotonic()
        await asyncio.wait_for(waiting, 10)
        took.append(time.monotonic() - start)

    asyncio.run(closing([limit], run))
    assert took
    assert [record.message for record in caplog.records if "no request starts until it does" in record.message]


def test_a_lost_redis_stops_nothing_that_is_not_limited(own_redis: OwnRedis) -> None:
    limit = limit_at(own_redis.url.get_secret_value())
    own_redis.stop()

    async def run() -> None:
        async def once() -> Reply:
            return Reply({}, Usage(1, 1, 1), "m")

        pace = Pace(2, limit)
        await asyncio.wait_for(pace.paced(REQUEST, once), 5)
        await pace.hold(0.5)  # kept here, if nowhere else
        start = time.monotonic()
        await pace.paced(REQUEST, once)
        assert time.monotonic() - start >= 0.45

    asyncio.run(closing([limit], run))
    own_redis.start()


def test_no_more_are_in_flight_than_may_be(tmp_path: Path) -> None:
    running, most = 0, 0

    async def once() -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Reply({}, Usage(1, 1, 1), "m")

    async def run() -> None:
        pace = Pace(5)
        await asyncio.gather(*(pace.paced(REQUEST, once) for _ in range(40)))

    asyncio.run(run())
    assert most == 5


def test_what_a_failed_try_cost_counts(url: str) -> None:
    limit = limit_at(url, tokens=60)
    pace = Pace(1, limit)

    async def once() -> Reply:
        error = TeacherError("malformed", "?")
        error.usage = Usage(10_000, 0, 1)
        raise error

    async def run() -> None:
        limit.spent(10**6, 0)  # so that the first does not wait
        with pytest.raises(TeacherError):
            await pace.paced(REQUEST, once)
        limit.spent(0, 10**6)
        late = asyncio.create_task(limit.turn(1))
        done, _ = await asyncio.wait([late], timeout=1)
        late.cancel()
        assert not done

    asyncio.run(closing([limit], run))
