"""An empty store and an empty board for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared.lease import Board
from shared.settings import Settings
from shared.store import Store
from tests.conftest import settings_of
from tests.integration.commands import Roadqa
from tests.integration.processes import OwnRedis, Processes

#: Redis keys that may live for ever.
PERMANENT = {"epoch"}


@pytest.fixture
def config(servers: dict[str, str], tmp_path: Path) -> Settings:
    return settings_of(
        servers,
        s3_bucket="integration",
        cache_dir=tmp_path / "cache",
        lease_seconds=1.5,
        heartbeat_seconds=0.3,
        offer_seconds=5,
    )


@pytest.fixture
def store(config: Settings) -> Store:
    made = Store(config)
    made.prepare()
    for key in list(made.keys("")):
        made.delete(key)
    return made


@pytest.fixture
def board(config: Settings) -> Iterator[Board]:
    """Empty before; afterwards every key must have a TTL or be on the short list."""
    made = Board(config)
    made.redis.flushall()
    yield made
    try:
        keys = [key for key in made.redis.scan_iter("*") if made.redis.type(key) != "none"]
    except redis.RedisError:
        return
    forever = {key for key in keys if made.redis.ttl(key) == -1 and not key.startswith("_kombu") and key not in QUEUES}
    assert forever <= PERMANENT, f"keys that never expire: {forever - PERMANENT}"


@pytest.fixture
def processes(config: Settings, store: Store, board: Board, tmp_path: Path) -> Iterator[Processes]:
    """On an empty store and board. Leases are long: many start at once on few cores."""
    made = Processes(config.model_copy(update={"lease_seconds": 9.0, "heartbeat_seconds": 1.0}), tmp_path)
    yield made
    made.end()


@pytest.fixture
def roadqa(servers: dict[str, str], store: Store, tmp_path: Path) -> Roadqa:
    return Roadqa(servers, tmp_path)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.stop()


#: Celery's own lists: bounded by the conductor, and their messages expire.
QUEUES = {"labeler", "augmenter", "trainer", "quantizer", "inference"}
