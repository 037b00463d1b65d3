"""A limit in money holds: over all workers, over a lost Redis, and a paused run goes on once it is raised."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.cli import estimate, runs
from shared.errors import LimitReachedError, UsageError
from shared.lease import Board
from shared.pipeline import Plan, make_plan, parse_pipeline
from shared.purse import RunPurse
from shared.run import Runs
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


def purse(store: Store, board: Board, owner: str) -> RunPurse:
    return RunPurse(Runs(store), board, "run", f"recipe/{owner}", owner, lambda: False)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Runs:
    """A run with a limit of one dollar."""
    found = Runs(store)
    found.submit("run", planned(store, tmp_path, 1.0))
    return found


def test_purses_of_many_workers_never_pass_the_limit_together(store: Store, board: Board, run: Runs) -> None:
    def spend(owner: str) -> int:
        bought = 0
        with purse(store, board, owner) as own:
            try:
                while True:
                    own.reserve(0.01)
                    own.settle(0.01, 0.007)
                    bought += 1
            except LimitReachedError:
                return bought

    with ThreadPoolExecutor(8) as pool:
        bought = sum(pool.map(spend, "abcdefgh"))
    assert 1.0 - 8 * 0.01 <= bought * 0.007 <= 1.0
    assert run.paused("run")
    runs.set_limit(store, board, "run", 2.0)
    assert not run.paused("run")


def test_what_redis_forgets_is_known_from_the_store(store: Store, board: Board, run: Runs) -> None:
    (node,) = run.state("run").nodes
    assert node.tasks
    task = node.tasks[0].key
    with RunPurse(run, board, "run", task, "a", lambda: False) as first:
        first.reserve(0.9)
        first.settle(0.9, 0.9)
    assert run.spent("run") == pytest.approx(0.9)
    board.redis.flushall()
    with RunPurse(run, board, "run", task, "b", lambda: False) as second:
        with pytest.raises(LimitReachedError, match="roadqa limit run USD"):
            second.reserve(0.2)
        second.reserve(0.1)


def test_a_limit_that_is_raised_meanwhile_is_seen(store: Store, board: Board, run: Runs) -> None:
    with purse(store, board, "a") as own:
        own.reserve(0.9)
        runs.set_limit(store, board, "run", 2.0)
        own.reserve(0.9)


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
