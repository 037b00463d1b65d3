"""Workers as processes: the heartbeat file, and one-shot workers."""

import re
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from pydantic import SecretStr

from services.local.stack import free_port
from shared.lease import Board
from shared.settings import Settings
from shared.store import Store
from tests.integration.processes import OwnRedis, Processes, age, beats, metric
from tests.integration.test_core import World
from tests.waiting import wait_for

BEAT = 0.3  #: seconds


@pytest.mark.parametrize("name", ["augmenter", "conductor"])
def test_the_heartbeat_file_is_fresh_while_the_broker_is_there_and_only_then(
    name: str, processes: Processes, own_redis: OwnRedis, tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    port = free_port(0)
    processes.start(
        name, redis_url=own_redis.url, heartbeat_file=file, heartbeat_seconds=BEAT, tick_seconds=BEAT, metrics_port=port
    )
    beats(file)
    own_redis.stop()
    wait_for(lambda: age(file) > 10 * BEAT)
    shown = metric(f"http://127.0.0.1:{port}/metrics", "roadqa_work", queue="augmenter")
    assert shown is None, "a conductor that sees nothing says nothing, and a worker has no metrics"
    own_redis.start()
    beats(file)


def test_a_worker_takes_the_next_offer_at_once(
    processes: Processes, store: Store, board: Board, config: Settings, tmp_path: Path
) -> None:
    """Celery's loop would look for it once a second."""
    w = World(config.model_copy(update={"offer_seconds": 60}), store, board, tmp_path, 8)
    w.tick()
    processes.start("augmenter")
    wait_for(lambda: len(list(store.keys("results/"))) == 8, seconds=60)
    (log,) = tmp_path.glob("*-augmenter.log")
    told = re.findall(r"^\[(\S+ \S+): .* Task augment\S* (received|succeeded)", log.read_text(), re.MULTILINE)
    times = [(datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f"), what) for when, what in told]
    gaps = [(after - before).total_seconds() for (before, what), (after, _) in pairwise(times) if what == "succeeded"]
    assert len(gaps) == 7
    assert median(gaps) < 0.25


# --- one-shot ----------------------------------------------------------------------------------------


def test_one_shot_workers_take_one_offer_each_and_leave_the_others(
    processes: Processes, store: Store, board: Board, config: Settings, tmp_path: Path
) -> None:
    w = World(config.model_copy(update={"offer_seconds": 60}), store, board, tmp_path, 8)
    w.tick()
    workers = [processes.start("augmenter", one_shot_seconds=60) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert len(list(store.keys("results/"))) == 3
    assert board.waiting("augmenter") == 5
    assert not board.redis.exists("unacked"), "none was taken and not begun"


def test_an_offer_of_what_another_does_already_is_the_one_offer(
    processes: Processes, store: Store, board: Board, config: Settings, tmp_path: Path
) -> None:
    w = World(config.model_copy(update={"offer_seconds": 60}), store, board, tmp_path, 2)
    w.tick()
    long = Board(config.model_copy(update={"lease_seconds": 90.0}))
    assert all(long.claim(task.key, "another worker") for task in w.runs.state("run").open)
    worker = processes.start("augmenter", one_shot_seconds=60)
    assert worker.wait(60) == 0
    assert board.waiting("augmenter") == 1
    assert not list(store.keys("attempts/"))


@pytest.mark.parametrize("there", [True, False], ids=["an empty queue", "no broker"])
def test_a_one_shot_worker_without_an_offer_ends_in_time(processes: Processes, config: Settings, there: bool) -> None:
    nowhere = SecretStr(f"redis://127.0.0.1:{free_port(0)}/0")
    started = time.monotonic()
    worker = processes.start("augmenter", one_shot_seconds=2, redis_url=config.redis_url if there else nowhere)
    assert worker.wait(60) == 0
    assert time.monotonic() - started > 2
