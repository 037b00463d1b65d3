"""A limit in money holds: over all workers, over a lost Redis, and a paused run goes on once it is raised."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.cli import estimate, runs
from shared.errors import LimitReachedError, UsageError
from shared.lease import Board, Spending
from shared.pipeline import Plan, make_plan, parse_pipeline
from shared.purse import RunPurse
from shared.run import Runs
from shared.settings import Settings
from shared.store import Store
from shared.teachers import Entry
from tests.integration.processes import Processes, metric
from tests.integration.taught import sandbox_teacher, write_scene_rows
from tests.waiting import wait_for

PIPELINE = """
name: limits
data: {{test: test}}
models: {{}}
steps:
  labels: {{stage: label, data: test, teacher: {{model: {model}, thinking_budget: 0}}}}
limits: {{teacher_usd: {limit}}}
"""


def planned(store: Store, folder: Path, limit: float, model: str = "sandbox-teacher") -> Plan:
    parts = []
    for number in range(2):
        write_scene_rows(folder / str(number), recordings=1, clips=3, seed=number)
        parts.append(store.put_artifact("rows", folder / str(number)))
    return make_plan(parse_pipeline(PIPELINE.format(limit=limit, model=model), "test"), {"test": tuple(parts)}, {})


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Runs:
    """A run with a limit of one dollar."""
    found = Runs(store)
    found.submit("run", planned(store, tmp_path, 1.0))
    return found


@pytest.fixture
def purse(board: Board, run: Runs) -> Iterator[Callable[..., RunPurse]]:
    """Owners of the run's first task; each ends with the test."""
    task = (run.state("run").nodes[0].tasks or ())[0].key
    with ExitStack() as open_:
        yield lambda owner, name="run": open_.enter_context(RunPurse(run, board, name, task, owner, lambda: False))


def test_purses_of_many_workers_never_pass_the_limit_together(
    store: Store, board: Board, run: Runs, purse: Callable[..., RunPurse]
) -> None:
    owners = [purse(name) for name in "abcdefgh"]

    def spend(own: RunPurse) -> int:
        bought = 0
        try:
            while True:
                if own.reserve(0.01):
                    own.settle(0.01, 0.007)
                    bought += 1
        except LimitReachedError:
            return bought

    with ThreadPoolExecutor(8) as pool:
        bought = sum(pool.map(spend, owners))
    assert 1.0 - 0.02 <= bought * 0.007 <= 1.0
    assert run.paused("run")
    runs.set_limit(store, board, "run", 2.0)
    assert not run.paused("run")
    assert owners[0].reserve(0.01)


def test_what_others_have_reserved_is_waited_for_and_pauses_nothing(run: Runs, purse: Callable[..., RunPurse]) -> None:
    first, second = purse("a"), purse("b")
    assert first.reserve(0.9)
    assert not second.reserve(0.2)
    assert not run.paused("run")
    first.settle(0.9, 0.1)
    wait_for(lambda: second.reserve(0.2))


def test_requests_that_one_worker_makes_at_once_do_not_pass_the_limit_together(
    board: Board, run: Runs, purse: Callable[..., RunPurse]
) -> None:
    own = purse("a")
    with ThreadPoolExecutor(16) as pool:
        got = sum(pool.map(lambda _: own.reserve(0.03), range(64)))
    assert got == 33
    assert purse("b").reserve(0.005)
    assert not purse("c").reserve(0.01), "what the first has reserved is all known"


def test_redis_may_forget_at_any_moment(board: Board, run: Runs, purse: Callable[..., RunPurse]) -> None:
    first, second = purse("a"), purse("b")
    for _ in range(90):
        assert first.reserve(0.01)
    board.redis.delete("spent:run")
    wait_for(lambda: "a" in board.spending("run"))  # said again, with what is reserved
    bought = 0
    while second.reserve(0.01):
        second.settle(0.01, 0.01)
        bought += 1
    assert bought <= 10
    for _ in range(90):
        first.settle(0.01, 0.01)
    with pytest.raises(LimitReachedError):
        wait_for(lambda: first.reserve(0.05))


def test_what_was_paid_is_known_from_the_store(board: Board, run: Runs, purse: Callable[..., RunPurse]) -> None:
    task = (run.state("run").nodes[0].tasks or ())[0].key
    with RunPurse(run, board, "run", task, "a", lambda: False) as first:
        assert first.reserve(0.9)
        first.settle(0.9, 0.9)
    assert run.spent("run") == pytest.approx(0.9)
    board.redis.flushall()
    second = purse("b")
    with pytest.raises(LimitReachedError, match="roadqa limit run USD"):
        second.reserve(0.2)
    assert second.reserve(0.09)


def test_what_is_paid_in_one_burst_reaches_the_store_by_itself(run: Runs, purse: Callable[..., RunPurse]) -> None:
    own = purse("a")
    for _ in range(50):
        assert own.reserve(0.01)
    for _ in range(50):
        own.settle(0.01, 0.01)
    wait_for(lambda: run.spent("run") == pytest.approx(0.5))


def test_a_killed_owner_reserves_nothing_for_long(
    config: Settings, board: Board, run: Runs, purse: Callable[..., RunPurse]
) -> None:
    board.say_spending("run", "killed", Spending(0.1, 0.9))
    own = purse("b")
    assert not own.reserve(0.2)
    wait_for(lambda: own.reserve(0.2))
    assert not own.reserve(0.8), "what it has paid counts for good"


def test_a_limit_that_is_changed_reaches_attempts_under_way(
    store: Store, board: Board, run: Runs, purse: Callable[..., RunPurse]
) -> None:
    own = purse("a")
    assert own.reserve(0.9)
    runs.set_limit(store, board, "run", 2.0)
    wait_for(lambda: own.reserve(0.9))
    own.settle(1.8, 1.8)
    runs.set_limit(store, board, "run", 0.5)
    with pytest.raises(LimitReachedError, match=r"limit of \$0.5"):
        wait_for(lambda: not own.reserve(0.0001))


def test_under_a_limit_a_teacher_without_a_price_is_refused(
    store: Store, board: Board, run: Runs, purse: Callable[..., RunPurse], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="ROADQA_PRICES"):
        purse("a").reserve(None)
    run.submit("unpriced", planned(store, tmp_path / "u", 1.0, "somebodys-model"))
    with pytest.raises(UsageError, match="somebodys-model"):
        runs.set_limit(store, board, "unpriced", 5.0)


def test_a_limit_is_refused_where_the_model_has_no_price(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"somebodys-model .*ROADQA_PRICES"):
        estimate.check_limit(planned(store, tmp_path, 1.0, "somebodys-model"))


def test_a_run_pauses_at_its_limit_and_goes_on_when_it_is_raised(
    store: Store, board: Board, processes: Processes, tmp_path: Path
) -> None:
    plan = planned(store, tmp_path, 0.1)
    (before,) = estimate.estimate(store, plan)
    assert before.usd is not None
    assert before.clips == 6
    assert before.calls.low == 6 * before.questions > 100
    known = Runs(store)
    with sandbox_teacher("--latency", "0.02") as url:
        known.submit("run", plan)
        metrics = processes.conductor()
        for _ in range(2):
            processes.start("labeler", gemini_base_url=url, gemini_api_key="k", teacher_in_flight=4)
        assert runs.watch(store, board, "run", lambda *_: None) == "paused"
        assert 0.05 < known.spent("run") <= 0.1
        wait_for(lambda: metric(metrics, "roadqa_runs", state="paused") == 1)
        assert metric(metrics, "roadqa_work", queue="labeler") == 0, "nothing that a worker could do is left"
        assert [step.state for step in runs.view(known.state("run"), board)] == ["paused"]
        asked = _served(url)
        runs.set_limit(store, board, "run", 100.0)
        assert runs.watch(store, board, "run", lambda *_: None) == "complete"
        served = _served(url)
    names = [key for key in store.keys("scratch/teacher/bytes/journal/")]
    entries = [Entry.model_validate_json(store.read(name)) for name in names]
    assert asked < served == len(entries), "nothing was asked twice"
    assert known.spent("run") == pytest.approx(sum(entry.usd or 0.0 for entry in entries))
    attempts = [attempt for task in known.state("run").nodes[0].tasks or () for attempt in known.attempts(task.key)]
    assert {attempt["outcome"] for attempt in attempts if attempt} == {"released"}
    assert any("limit of $0.1" in attempt.get("cause", "") for attempt in attempts)


def _served(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health") as reply:
        return int(json.load(reply)["served"]["generateContent"])
