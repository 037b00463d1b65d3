"""Who works on what, in Redis: leases, offers, progress, wake-ups. All of it may vanish at any time.

Keys (every one has a TTL but `epoch`):
    lease:<task>     the owner's token, kept alive by its heartbeat
    offer:<task>     a message for this task is out
    stop:<task>      nobody wants this task any more
    progress:<task>  how far the owner is (JSON)
    spent:<run>      what each attempt has paid and reserved for its teacher, in US dollars, and when it said so
    dirty            list that wakes the conductor
    teacher:hold:<server>                    a teacher's server asked for a pause: nothing starts until it ends
    teacher:v1:gcra:requests|tokens:<server>  when the next request or token at it is due (`shared/teachers/limit.py`)
    epoch            lost when Redis lost its memory
    quiet            Redis lost its memory a moment ago
"""

import json
import math
import threading
import uuid
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from shared.errors import BrokerError
from shared.settings import REDIS_SECONDS, Settings, settings

_DIRTY_SECONDS = 60
_PROGRESS_SECONDS = 120
_SPENT_SECONDS = 600

#: Keeps the lease alive: renews ours, re-creates a vanished one, leaves another owner's alone.
_RENEW = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
#: Says what an owner has paid and reserved, and reserves more where there is room; answers whether there was, how many
#: others there are, and their sums. What the others have reserved counts only while they say it: one that was killed
#: reserves nothing.
_SAY_SPENDING = """
local now, owners, paid, reserved = tonumber(redis.call('TIME')[1]), 0, 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] ~= ARGV[1] then
    local p, r, t = string.match(all[i + 1], '(%S+) (%S+) (%S+)')
    owners, paid = owners + 1, paid + tonumber(p)
    if now - tonumber(t) <= tonumber(ARGV[7]) then reserved = reserved + tonumber(r) end
  end
end
local mine, more = tonumber(ARGV[3]), tonumber(ARGV[4])
local fits = tonumber(ARGV[2]) + mine + more + paid + reserved <= tonumber(ARGV[5])
if fits then mine = mine + more end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.17g', mine) .. ' ' .. now)
redis.call('EXPIRE', KEYS[1], ARGV[6])
return {fits and 1 or 0, owners, tostring(paid)}
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end"


class Spending(NamedTuple):
    """US dollars of one owner."""

    paid: float
    reserved: float


class Others(NamedTuple):
    """The owners beside one."""

    fits: bool  #: what the one wanted to reserve is reserved
    owners: int
    paid: float  #: US dollars


class Board:
    """What is under way right now."""

    def __init__(self, config: Settings) -> None:
        """Raises BrokerError where the URL cannot be read."""
        self._config = config
        try:
            self.redis: redis.Redis = redis.Redis.from_url(
                config.redis_url.get_secret_value(),
                decode_responses=True,
                socket_timeout=REDIS_SECONDS,
                socket_connect_timeout=5,
                socket_keepalive=True,
                health_check_interval=15,
                retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
            )
        except ValueError:  # whose text may hold the password's start
            raise BrokerError(
                "ROADQA_REDIS_URL is no redis://:password@host:port/0;"
                " percent-encode special characters of the password (/ is %2F, # is %23)"
            ) from None
        self._renew = self.redis.register_script(_RENEW)
        self._release = self.redis.register_script(_RELEASE)
        self._say_spending = self.redis.register_script(_SAY_SPENDING)

    def ping(self) -> None:
        """Raises BrokerError with what to do."""
        try:
            self.redis.ping()
        except redis.RedisError as error:
            raise BrokerError(f"Redis does not answer ({type(error).__name__}); check ROADQA_REDIS_URL") from error

    # --- leases ----------------------------------------------------------------------------------

    def _lease_ms(self) -> int:
        return int(self._config.lease_seconds * 1000)

    def claim(self, task: str, owner: str) -> bool:
        """Take the lease if nobody has it."""
        return bool(self.redis.set(f"lease:{task}", owner, nx=True, px=self._lease_ms()))

    def renew(self, task: str, owner: str) -> bool:
        """Keep the lease, or take it back if it vanished; False where another owner has it."""
        return bool(self._renew(keys=[f"lease:{task}"], args=[owner, self._lease_ms()]))

    def release(self, task: str, owner: str) -> None:
        self._release(keys=[f"lease:{task}"], args=[owner])

    def leased(self, tasks: Iterable[str]) -> set[str]:
        return self._present("lease", list(tasks))

    # --- offers ----------------------------------------------------------------------------------

    def offer(self, task: str) -> bool:
        """Mark the task as on offer; False where it already is."""
        return bool(self.redis.set(f"offer:{task}", "1", nx=True, ex=self._config.offer_seconds))

    def withdraw(self, task: str) -> None:
        self.redis.delete(f"offer:{task}")

    def offered(self, tasks: Iterable[str]) -> set[str]:
        return self._present("offer", list(tasks))

    def waiting(self, queue: str) -> int:
        """Messages in a queue."""
        return int(self.redis.llen(queue))

    # --- stops, progress -------------------------------------------------------------------------

    def stop(self, task: str) -> None:
        """Ask the owner to put the task down."""
        self.redis.set(f"stop:{task}", "1", ex=int(self._config.lease_seconds * 2 + self._config.offer_seconds))

    def unstop(self, tasks: Iterable[str]) -> None:
        keys = [f"stop:{task}" for task in tasks]
        if keys:
            self.redis.delete(*keys)

    def must_stop(self, task: str) -> bool:
        return bool(self.redis.exists(f"stop:{task}"))

    def report(self, task: str, progress: dict[str, Any]) -> None:
        self.redis.set(f"progress:{task}", json.dumps(progress), ex=_PROGRESS_SECONDS)

    def progress(self, tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
        tasks = list(tasks)
        if not tasks:
            return {}
        found = cast(list[str | None], self.redis.mget([f"progress:{task}" for task in tasks]))
        return {task: json.loads(value) for task, value in zip(tasks, found, strict=True) if value}

    # --- money -----------------------------------------------------------------------------------

    def say_spending(self, run: str, owner: str, mine: Spending, more: float = 0.0, room: float = math.inf) -> Others:
        """Say what this owner has paid and reserved for a run, and reserve `more` if all of it stays within `room`."""
        ends = [_SPENT_SECONDS, int(self._config.lease_seconds * 2)]
        sums = [repr(mine.paid), repr(mine.reserved), repr(more), "1e300" if room == math.inf else repr(room)]
        fits, owners, paid = self._say_spending(keys=[f"spent:{run}"], args=[owner, *sums, *ends])
        return Others(bool(fits), int(owners), float(paid))

    def spending(self, run: str) -> dict[str, float]:
        """US dollars paid by owner, as far as Redis knows."""
        found = cast(dict[str, str], self.redis.hgetall(f"spent:{run}"))
        return {owner: float(text.split()[0]) for owner, text in found.items()}

    # --- waking the conductor ----------------------------------------------------------------------

    def wake(self, run: str) -> None:
        with self.redis.pipeline() as pipe:
            pipe.lpush("dirty", run)
            pipe.expire("dirty", _DIRTY_SECONDS)
            pipe.execute()

    def sleep(self, seconds: float) -> None:
        """Wait until something is dirty, or `seconds` (fewer than REDIS_SECONDS) have passed; takes all wake-ups."""
        if self.redis.brpop(["dirty"], timeout=seconds):
            self.redis.delete("dirty")

    def quiet(self) -> bool:
        """True for two heartbeats after Redis lost its memory (or was never seen): leases are coming back."""
        if self.redis.set("epoch", uuid.uuid4().hex, nx=True):
            self.redis.set("quiet", "1", px=int(self._config.heartbeat_seconds * 2000))
        return bool(self.redis.exists("quiet"))

    def _present(self, kind: str, tasks: list[str]) -> set[str]:
        if not tasks:
            return set()
        found = cast(list[str | None], self.redis.mget([f"{kind}:{task}" for task in tasks]))
        return {task for task, value in zip(tasks, found, strict=True) if value}


class Heartbeat:
    """Keeps one lease alive from a thread and tells when the task must stop. Outlives Redis failures."""

    def __init__(self, board: Board, task: str, owner: str, every: float, on_stop: Callable[[], None]) -> None:
        self._board, self._task, self._owner, self._every = board, task, owner, every
        self._on_stop = on_stop
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{task[:8]}", daemon=True)
        self.missed = 0  #: heartbeats that Redis did not answer

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._every):
            try:
                self._board.renew(self._task, self._owner)
                if self._board.must_stop(self._task):
                    self._on_stop()
            except redis.RedisError:
                self.missed += 1  # the lease may lapse: that costs doubled work, never a wrong result


@lru_cache(maxsize=1)
def board() -> Board:
    """The process's board."""
    return Board(settings())
