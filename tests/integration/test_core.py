"""The five decisions at work: leases, offers, attempts and commits, on a real Redis and a real S3 server.

Workers and conductor run in this process so that each can be paused, killed or doubled at will; the
offers go through the real broker.
"""

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.cli import runs
from services.conductor.main import Conductor
from services.local.stack import free_port
from shared.broker import make_app
from shared.context import Context
from shared.contracts import STAGES
from shared.errors import InputError, Stopped
from shared.lease import Board, Heartbeat
from shared.pipeline import Plan, make_plan, parse_pipeline
from shared.run import Runs
from shared.schema import Choice, Clip, Origin, Question, write_rows
from shared.settings import Settings
from shared.stage import Worker
from shared.store import Store
from tests.waiting import wait_for

PIPELINE = """
name: core
data: {train: train}
models: {}
steps:
  more: {stage: augment, data: [train]}
"""


def make_part(store: Store, folder: Path, name: str) -> str:
    folder = folder / name
    folder.mkdir(parents=True)
    (folder / "bytes").write_bytes(name.encode())
    digest = store.put_blob(folder / "bytes").digest
    (folder / "bytes").unlink()
    clip = Clip(digest=digest, name=name, recording=name, size_bytes=len(name), seconds=1, fps=1, width=1, height=1,
                codec="x")  # fmt: skip
    choices = (Choice(label="A", text="a"), Choice(label="B", text="b"))
    question = Question(id=name, clip=digest, text="?", choices=choices, answer=0, origin=Origin(answer="human"))
    write_rows(folder, [question], {digest: clip})
    return store.put_artifact("rows", folder)


def passing(inputs: dict[str, list[Path]], recipe: Any, out: Path, ctx: Context) -> dict[str, Any]:
    """A verb that hands its rows on."""
    for name in ("questions.jsonl", "clips.jsonl"):
        (out / name).write_bytes((inputs["data"][0] / name).read_bytes())
    return {"rows": 1}


class World:
    """A run of `PIPELINE` on some parts, its conductor, and workers at hand."""

    def __init__(self, config: Settings, store: Store, board: Board, folder: Path, parts: int) -> None:
        self.config, self.store, self.board = config, store, board
        self.runs = Runs(store)
        self.app = make_app()
        self.app.conf.broker_url = config.redis_url.get_secret_value()
        self.conductor = Conductor(config, store, board, self.app)
        self.parts = tuple(make_part(store, folder / "parts", f"clip{n}") for n in range(parts))
        self.plan: Plan = make_plan(parse_pipeline(PIPELINE, "test"), {"train": self.parts}, {})
        self.runs.submit("run", self.plan)

    def tick(self) -> None:
        """One look, once the silence after a lost Redis is over."""
        wait_for(lambda: not self.board.quiet())
        self.conductor.tick()

    def offers(self, queue: str = "augmenter") -> list[dict[str, Any]]:
        """Take every message off the queue."""
        taken = []
        while raw := self.board.redis.rpop(queue):
            taken.append(json.loads(base64.b64decode(json.loads(raw)["body"]))[1])
        return taken

    def work(self, verb: Callable[..., dict[str, Any]]) -> int:
        """Perform every offer that is out; returns how many there were."""
        offers = self.offers()
        for offer in offers:
            self.worker().perform(verb, **offer)
        return len(offers)

    def worker(self) -> Worker:
        return Worker(self.config, self.store, self.board)


@pytest.fixture
def world(config: Settings, store: Store, board: Board, tmp_path: Path) -> Callable[[int], World]:
    return lambda parts: World(config, store, board, tmp_path, parts)


def test_a_run_goes_from_offers_to_results_to_complete(world: Callable[[int], World]) -> None:
    w = world(3)
    w.tick()
    assert w.work(passing) == 3
    w.tick()
    assert w.runs.ended("run") == "complete"
    assert len(list(w.store.keys("results/"))) == 3
    assert not list(w.store.keys("scratch/"))


def test_an_equal_run_finds_everything_done(world: Callable[[int], World]) -> None:
    w = world(2)
    w.tick()
    w.work(passing)
    w.runs.submit("again", w.plan)
    w.tick()
    assert w.runs.ended("again") == "complete"
    assert w.offers() == []


def test_a_message_that_was_lost_is_offered_again_once_its_offer_ran_out(world: Callable[[int], World]) -> None:
    w = world(1)
    w.tick()
    (lost,) = w.offers()
    w.tick()
    assert w.offers() == [], "one offer at a time"
    w.board.redis.delete(f"offer:{lost['task']}")  # what its TTL does
    w.tick()
    assert w.work(passing) == 1
    w.tick()
    assert w.runs.ended("run") == "complete"


def test_a_doubled_message_does_the_work_once(world: Callable[[int], World]) -> None:
    w = world(1)
    w.tick()
    (offer,) = w.offers()
    calls: list[int] = []

    def counted(*given: Any) -> dict[str, Any]:
        calls.append(1)
        return passing(*given)

    for _ in range(3):
        w.worker().perform(counted, **offer)
    assert len(calls) == 1


def test_a_paused_owner_cannot_overwrite_the_commit_of_another(world: Callable[[int], World]) -> None:
    w = world(1)
    w.tick()
    (offer,) = w.offers()
    working, go_on = threading.Event(), threading.Event()

    def paused(*given: Any) -> dict[str, Any]:
        working.set()
        assert go_on.wait(20)
        return passing(*given) | {"owner": "paused"}

    # an owner whose heart does not beat: what a frozen process looks like from outside
    frozen_settings = w.config.model_copy(update={"heartbeat_seconds": 1000.0})
    frozen = threading.Thread(target=Worker(frozen_settings, w.store, w.board).perform, args=(paused,), kwargs=offer)
    frozen.start()
    assert working.wait(10)
    w.board.redis.delete(f"lease:{offer['task']}")  # what its TTL does
    w.worker().perform(lambda *given: passing(*given) | {"owner": "second"}, **offer)
    committed = w.store.read(f"results/{offer['task']}")
    go_on.set()
    frozen.join(20)
    assert not frozen.is_alive()
    assert w.store.read(f"results/{offer['task']}") == committed
    assert json.loads(committed)["facts"]["owner"] == "second"


def test_redis_may_forget_everything_in_the_middle(world: Callable[[int], World]) -> None:
    w = world(2)
    w.tick()
    first, second = w.offers()
    working, go_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> dict[str, Any]:
        working.set()
        assert go_on.wait(20)
        return passing(*given)

    owner = threading.Thread(target=w.worker().perform, args=(slow,), kwargs=first)
    owner.start()
    assert working.wait(10)
    w.board.redis.flushall()
    w.conductor.tick()
    assert w.offers() == [], "a conductor that finds Redis empty waits for the heartbeats"
    wait_for(lambda: w.board.leased([first["task"]]))
    w.tick()
    assert [offer["task"] for offer in w.offers()] == [second["task"]], "what is under way is not offered"
    go_on.set()
    owner.join(20)
    w.worker().perform(passing, **second)
    w.tick()
    assert w.runs.ended("run") == "complete"


def test_a_task_that_fails_again_and_again_dies_with_its_cause_and_can_be_retried(
    world: Callable[[int], World],
) -> None:
    w = world(1)

    def poison(*_: Any) -> dict[str, Any]:
        raise RuntimeError("the same every time")

    for _ in range(w.config.max_attempts):
        w.tick()
        assert w.work(poison) == 1
    w.tick()  # buries
    w.tick()  # ends the run
    assert w.runs.ended("run") == "failed"
    (dead,) = w.runs.state("run").nodes[0].dead.values()
    assert "the same every time" in dead.cause
    assert dead.attempts == w.config.max_attempts

    assert runs.retry(w.store, w.board, "run") == 1
    w.tick()
    assert w.work(passing) == 1
    w.tick()
    assert w.runs.ended("run") == "complete"


def test_what_died_in_one_run_is_tried_anew_in_the_next(world: Callable[[int], World]) -> None:
    w = world(1)
    w.tick()

    def refused(*_: Any) -> dict[str, Any]:
        raise InputError("mend me")

    assert w.work(refused) == 1
    w.tick()  # buries
    w.tick()  # ends the run
    assert w.runs.ended("run") == "failed"
    again = runs.submit(w.store, w.board, w.runs.plan("run"))
    w.tick()
    assert w.work(passing) == 1
    w.tick()
    assert w.runs.ended(again) == "complete"


def test_an_attempt_that_vanished_counts(world: Callable[[int], World]) -> None:
    w = world(1)

    class Killed(BaseException):
        """What kill -9 looks like to the store: nothing is written after it."""

    def killed(*_: Any) -> dict[str, Any]:
        raise Killed

    for _ in range(w.config.max_attempts):
        w.tick()
        (offer,) = w.offers()
        with pytest.raises(Killed):
            w.worker().perform(killed, **offer)
        w.board.redis.delete(f"lease:{offer['task']}", f"offer:{offer['task']}")
    w.tick()
    w.tick()
    assert w.runs.ended("run") == "failed"
    assert "vanished" in next(iter(w.runs.state("run").nodes[0].dead.values())).cause


def test_bad_input_dies_at_once_and_says_why(world: Callable[[int], World]) -> None:
    w = world(1)

    def refused(*_: Any) -> dict[str, Any]:
        raise InputError("train.json: row 3: no choices")

    w.tick()
    w.work(refused)
    w.tick()
    w.tick()
    assert w.runs.ended("run") == "failed"
    assert next(iter(w.runs.state("run").nodes[0].dead.values())).cause == "train.json: row 3: no choices"


def test_work_that_was_put_down_is_no_failed_attempt(world: Callable[[int], World]) -> None:
    w = world(1)

    def put_down(*_: Any) -> dict[str, Any]:
        raise Stopped("later")

    for _ in range(w.config.max_attempts + 2):
        w.tick()
        assert w.work(put_down) == 1
    w.tick()
    assert w.work(passing) == 1
    w.tick()
    assert w.runs.ended("run") == "complete"


def test_another_version_declines(world: Callable[[int], World]) -> None:
    w = world(1)
    w.tick()
    (offer,) = w.offers()
    w.worker().perform(passing, **(offer | {"version": STAGES["augment"].version + 1}))
    assert not list(w.store.keys("results/"))
    assert not list(w.store.keys("attempts/"))


def test_cancelling_stops_what_no_other_run_wants(world: Callable[[int], World]) -> None:
    w = world(1)
    w.tick()
    (offer,) = w.offers()
    working = threading.Event()

    def until_stopped(inputs: Any, recipe: Any, out: Path, ctx: Context) -> dict[str, Any]:
        working.set()
        wait_for(lambda: ctx.stopping)
        raise Stopped("cancelled")

    w.runs.submit("other", w.plan)
    owner = threading.Thread(target=w.worker().perform, args=(until_stopped,), kwargs=offer)
    owner.start()
    assert working.wait(10)
    w.runs.cancel("run")
    w.conductor.tick()
    assert w.runs.ended("run") == "cancelled", "its only task goes on for the other run"
    assert not w.board.must_stop(offer["task"])
    w.runs.cancel("other")
    w.conductor.tick()
    owner.join(20)
    assert not owner.is_alive()
    w.conductor.tick()
    assert w.runs.ended("other") == "cancelled"


def test_a_cancelled_run_is_not_begun_by_a_message_that_was_still_out(world: Callable[[int], World]) -> None:
    w = world(1)
    w.tick()
    (offer,) = w.offers()
    w.runs.cancel("run")
    w.tick()
    assert w.runs.ended("run") == "cancelled"
    w.worker().perform(passing, **offer)
    assert not list(w.store.keys("attempts/"))
    assert not list(w.store.keys("results/"))


def test_a_run_planned_for_an_older_version_keeps_its_results_and_dies_clearly(
    world: Callable[[int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world(2)
    w.tick()
    first, _ = w.offers()
    w.worker().perform(passing, **first)
    newer = STAGES["augment"]._replace(version=STAGES["augment"].version + 1)
    monkeypatch.setitem(STAGES, "augment", newer)
    assert len(w.runs.state("run").nodes[0].results) == 1
    w.board.redis.flushall()
    w.tick()
    w.tick()
    assert w.runs.ended("run") == "failed"
    assert "start the run anew" in next(iter(w.runs.state("run").nodes[0].dead.values())).cause


def test_a_run_that_cannot_be_read_does_not_stop_the_others(world: Callable[[int], World]) -> None:
    w = world(1)
    w.store.write("runs/broken/plan", b'{"from": "another version"}')
    w.tick()
    w.work(passing)
    w.tick()
    assert w.runs.ended("run") == "complete"


def test_messages_are_small_and_carry_ids_only(world: Callable[[int], World]) -> None:
    w = world(2)
    w.tick()
    raw = w.board.redis.lrange("augmenter", 0, -1)
    assert len(raw) == 2
    assert all(len(message) < 4096 for message in raw)
    assert set(w.offers()[0]) == {"task", "stage", "version", "run"}


def test_offers_out_are_bounded(world: Callable[[int], World]) -> None:
    w = world(12)
    w.tick()
    assert w.board.waiting("augmenter") == w.config.offers_per_queue
    while w.work(passing):
        w.tick()
    assert w.runs.ended("run") == "complete"


def test_a_lease_is_renewed_recreated_and_left_to_its_owner(board: Board) -> None:
    assert board.claim("t", "me")
    assert not board.claim("t", "you")
    assert not board.renew("t", "you")
    board.redis.delete("lease:t")
    assert board.renew("t", "me"), "a lease that vanished comes back"
    board.release("t", "you")
    assert board.leased(["t"]) == {"t"}
    board.release("t", "me")
    assert board.leased(["t"]) == set()


def test_a_heartbeat_outlives_a_lost_lease(board: Board) -> None:
    board.claim("t", "me")
    with Heartbeat(board, "t", "me", 0.05, lambda: None):
        board.redis.flushall()
        wait_for(lambda: board.leased(["t"]))


def test_a_wake_up_that_is_lost_costs_no_run(world: Callable[[int], World], caplog: pytest.LogCaptureFixture) -> None:
    w = world(1)
    url = SecretStr(f"redis://127.0.0.1:{free_port(0)}/0")  # nobody listens
    deaf = Board(w.config.model_copy(update={"redis_url": url}))
    started = runs.submit(w.store, deaf, w.plan)
    assert started in caplog.text
    assert w.runs.plan(started) == w.plan
    runs.cancel(w.store, deaf, started)
    w.tick()
    assert w.runs.ended(started) == "cancelled"
    assert runs.retry(w.store, deaf, started) == 0
    w.tick()
    assert w.work(passing) == 1
    w.tick()
    assert w.runs.ended(started) == "complete"
