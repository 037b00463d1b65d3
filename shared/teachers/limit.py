"""One limit for all processes that ask a teacher's server, kept in Redis.

The generic cell rate algorithm gives out turns one by one at an even pace, so that no minute's allowance goes in a
burst. It runs inside Redis by Redis' own clock (throttled-py's script): hosts' clocks are not compared. The keys, which
all have a TTL, are listed in `shared/lease.py`.

Where Redis does not answer, nothing starts under a limit until it does: what cannot be counted is not sent. Without a
limit only the pauses of other processes are missed meanwhile. A Redis that lost its memory gives out at most a quarter
of a second's worth of turns twice.
"""

import asyncio
import hashlib
import logging

from redis import RedisError
from redis.asyncio import Redis
from throttled.asyncio import RateLimiterType, RedisStore, RedisStoreBackend, Throttled, per_min
from throttled.exceptions import StoreUnavailableError

log = logging.getLogger(__name__)

_ERRORS = (RedisError, StoreUnavailableError)  # the library hides the first in the second
_AT_ONCE = 240  #: a minute's allowance over what may start in one instant: a quarter of a second's worth
_REDIS_WAIT_S = 1.0  #: between two tries of a Redis that does not answer
_REDIS_TIMEOUT_S = 5.0
_LOOK_S = 0.05  #: between two looks at the others' pauses
#: Keeps the longer of two pauses.
_HOLD = "if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end"


class SharedLimit:
    """Requests and tokens a minute over all processes with the same Redis and server; 0 is no limit.

    A request takes the tokens that it is expected to cost; by how much it did cost more or less, the next takes more
    or less.
    """

    def __init__(self, redis_url: str, server: str, requests_per_minute: int = 0, tokens_per_minute: int = 0) -> None:
        """`server`: names whom the limit is for; it goes into the keys as a digest."""
        name = hashlib.sha256(server.encode()).hexdigest()[:12]
        self._redis: Redis = Redis.from_url(
            redis_url, socket_timeout=_REDIS_TIMEOUT_S, socket_connect_timeout=_REDIS_TIMEOUT_S
        )
        self._keep_hold = self._redis.register_script(_HOLD)
        self._hold_key = f"teacher:hold:{name}"
        self._requests = _meter(self._redis, f"requests:{name}", requests_per_minute)
        self._tokens = _meter(self._redis, f"tokens:{name}", tokens_per_minute)
        self._gate = asyncio.Lock()  # first come, first served, and one contender a process
        self._owed = 0  #: tokens that answers cost beyond what was taken for them; negative where less
        self._lost = False
        self._looking = asyncio.Lock()
        self._looked, self._until = -_LOOK_S, 0.0  # when the pause was looked at, and its end, by the loop's clock

    async def turn(self, tokens: int) -> None:
        if self._requests is None and self._tokens is None:
            return
        async with self._gate:
            if self._tokens is not None:
                due, self._owed = max(0, tokens + self._owed), min(0, tokens + self._owed)
                await self._take(self._tokens, due)
            if self._requests is not None:
                await self._take(self._requests, 1)

    async def _take(self, meter: Throttled, amount: int) -> None:
        """Bit by bit where it is more than may be taken at once."""
        while amount > 0:
            bit = min(amount, meter.limiter.quota.burst)
            while (wait := await self._answer(meter, bit)) > 0:
                await asyncio.sleep(wait)
            amount -= bit

    async def _answer(self, meter: Throttled, amount: int) -> float:
        """Seconds to wait; 0 where the amount was given. Asks until Redis answers."""
        while True:
            try:
                answer = await meter.limit(cost=amount)
            except _ERRORS as error:
                self._tell(error)
                await asyncio.sleep(_REDIS_WAIT_S)
            else:
                self._tell(None)
                return answer.state.retry_after if answer.limited else 0.0

    def spent(self, expected: int, tokens: int) -> None:
        self._owed += tokens - expected

    async def held(self) -> float:
        async with self._looking:  # those who come together look once
            now = asyncio.get_running_loop().time()
            if now - self._looked >= _LOOK_S:
                self._until, self._looked = now + await self._pause(), now
            return max(0.0, self._until - now)

    async def _pause(self) -> float:
        try:
            return max(0, int(await self._redis.pttl(self._hold_key))) / 1000
        except _ERRORS as error:
            self._tell(error)
            return 0.0

    async def hold(self, seconds: float) -> None:
        try:
            await self._keep_hold(keys=[self._hold_key], args=[max(1, round(seconds * 1000))])
        except _ERRORS as error:
            self._tell(error)  # this process keeps the pause all the same

    def _tell(self, error: Exception | None) -> None:
        """Once for each time that Redis goes."""
        if error is not None and not self._lost:
            waits = "no request starts until it does" if self._requests or self._tokens else "pauses are not shared"
            log.warning("Redis does not answer (%s): %s", type(error).__name__, waits)
        self._lost = error is not None

    async def aclose(self) -> None:
        await self._redis.aclose()


def _meter(client: Redis, key: str, per_minute: int) -> Throttled | None:
    """What gives out `per_minute` in any sixty seconds, evenly, over all who use the key."""
    if not per_minute:
        return None

    class Backend(RedisStoreBackend):
        def get_client(self) -> Redis:  # type: ignore[override] # a narrower protocol there
            return client

    class Store(RedisStore):
        _BACKEND_CLASS = Backend

    at_once = max(1, per_minute // _AT_ONCE)
    quota = per_min(per_minute - at_once + 1, burst=at_once)  # what may start at once is in the minute's allowance
    return Throttled(key, using=RateLimiterType.GCRA.value, quota=quota, store=Store(), key_prefix="teacher")
