"""`roadqa doctor`: is everything there that a run needs, and if not, what to do."""

import shutil
from collections.abc import Callable, Iterator
from typing import Literal

import redis

from services.local.stack import SANDBOX_KEY
from shared.errors import BrokerError, RoadQAError, StoreError
from shared.lease import board
from shared.schema import Frozen
from shared.settings import settings
from shared.store import store

_ENOUGH_DISK = 20_000_000_000  # bytes: an 8B checkpoint, its cache and a margin


class Finding(Frozen):
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "warning", "error"]
    detail: str

    @property
    def exit_code(self) -> int:
        if self.state != "error":
            return 0
        return {"broker": BrokerError.exit_code, "store": StoreError.exit_code}.get(self.what, 1)


def examine() -> list[Finding]:
    """Look at broker, store, teacher and disk."""
    return [finding for look in (_broker, _store, _teacher, _disk) for finding in look()]


def _attempt(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, state="ok", detail=look())
    except RoadQAError as error:
        return Finding(what=what, state="error", detail=str(error))


def _broker() -> Iterator[Finding]:
    def ping() -> str:
        board().ping()
        return "Redis answers"

    yield (found := _attempt("broker", ping))
    if found.state == "ok":
        yield from _redis_settings()


def _redis_settings() -> Iterator[Finding]:
    for name, wanted in (("maxmemory-policy", "noeviction"), ("appendonly", "yes")):
        try:
            have = dict(board().redis.config_get(name)).get(name)
        except redis.RedisError:  # managed servers forbid CONFIG
            yield Finding(what=f"redis {name}", state="warning", detail=f"cannot be read here; it should be {wanted}")
            continue
        good = have == wanted
        detail = str(have) if good else f"is {have}, should be {wanted}: offers and leases may vanish early"
        yield Finding(what=f"redis {name}", state="ok" if good else "warning", detail=detail)


def _store() -> Iterator[Finding]:
    def prepare() -> str:
        store().prepare()
        return f"bucket {settings().s3_bucket!r}; conditional put holds (one winner of eight writers)"

    yield _attempt("store", prepare)


def _teacher() -> Iterator[Finding]:
    key, server = settings().gemini_api_key.get_secret_value(), settings().gemini_base_url
    if not key:
        detail = "no ROADQA_GEMINI_API_KEY: label steps will fail (the local stack's sandbox needs none of yours)"
        yield Finding(what="teacher", state="warning", detail=detail)
    elif key == SANDBOX_KEY:
        detail = f"knows only drawn scenes ({server}); for other clips set ROADQA_GEMINI_API_KEY, then `make down up`"
        yield Finding(what="the sandbox's teacher", state="warning", detail=detail)
    else:
        yield Finding(what="teacher", state="ok", detail=f"key set; server: {server or 'Gemini'}")


def _disk() -> Iterator[Finding]:
    folder = settings().cache_dir
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    state: Literal["ok", "warning"] = "ok" if free > _ENOUGH_DISK else "warning"
    yield Finding(what="disk", state=state, detail=f"{free / 1e9:.0f} GB free for the cache in {folder}")
