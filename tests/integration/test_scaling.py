"""KEDA's loop without a cluster: a real conductor's metrics in, real worker processes started and stopped.

Sources of the arithmetic: keda.sh/docs/latest/reference/scaledobject-spec (KEDA scales from and to zero, after
`cooldownPeriod`; between 1 and N its HorizontalPodAutoscaler does, by ceil(metric / target)), and
…/reference/scaledjob-spec (strategy `default`: min(maxReplicaCount, ceil(metric / target)) - running Jobs).
A metric that cannot be read changes nothing in either: KEDA's pkg/scaling/executor, kubernetes/kubernetes#99514.
"""

import math
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.lease import Board
from shared.pipeline import make_plan, parse_pipeline
from shared.run import Runs
from shared.settings import Settings
from shared.store import Store
from tests.integration.processes import OwnRedis, Processes, age, beats, metric
from tests.integration.taught import sandbox_teacher, write_scene_rows
from tests.waiting import wait_for

Process = subprocess.Popen[bytes]
POLL_SECONDS = 0.2
GRACE = 6  #: seconds; a labeler asks on for half of them, and ends a task that is nearer to its end than that
LABELS = "{stage: label, data: [train], teacher: {provider: gemini, model: sandbox-teacher}}"
VARIATIONS = "{stage: augment, data: [train]}"


class ScaledObject:
    """A Deployment under KEDA. Who began a task last is stopped first: the worst that a ReplicaSet can choose."""

    def __init__(
        self, start: Callable[[], Process], began: Callable[[Process], float], target: float, most: int, cooldown: float
    ) -> None:
        self._start, self._began, self._target, self._most, self._cooldown = start, began, target, most, cooldown
        self._active = -math.inf
        self._up: list[Process] = []
        self.stopped: list[Process] = []
        self.history = [0]

    def poll(self, value: float | None) -> None:
        if value is None:
            return
        if value > 0:
            self._active = time.monotonic()
        cooled = time.monotonic() - self._active > self._cooldown
        self._scale(0 if cooled else max(1, min(self._most, math.ceil(value / self._target))))

    def _scale(self, replicas: int) -> None:
        while len(self._up) < replicas:
            self._up.append(self._start())
        while len(self._up) > replicas:
            victim = max(self._up, key=self._began)
            self._up.remove(victim)
            self.stopped.append(victim)
            victim.send_signal(signal.SIGTERM)
        if self.history[-1] != replicas:
            self.history.append(replicas)


class ScaledJob:
    """One-shot workers under KEDA."""

    def __init__(self, start: Callable[[], Process], target: float, most: int) -> None:
        self._start, self._target, self._most = start, target, most
        self.jobs: list[Process] = []
        self.history = [0]

    def poll(self, value: float | None) -> None:
        running = sum(job.poll() is None for job in self.jobs)
        if value is not None:
            more = max(0, min(self._most, math.ceil(value / self._target)) - running)
            self.jobs += [self._start() for _ in range(more)]
            running += more
        if self.history[-1] != running:
            self.history.append(running)


def keda(scaled: ScaledObject | ScaledJob, url: str, queue: str, seconds: float = 180) -> None:
    """Poll until everything that was scaled up is down again."""
    deadline = time.monotonic() + seconds
    while len(scaled.history) < 2 or scaled.history[-1]:
        assert time.monotonic() < deadline, scaled.history
        scaled.poll(metric(url, "roadqa_work", queue=queue))
        time.sleep(POLL_SECONDS)


class Deployed:
    """A run of one stage on drawn scenes, and what became of its tasks."""

    def __init__(self, store: Store, folder: Path, step: str, shards: int, questions: int = 2) -> None:
        self.store, self.runs = store, Runs(store)
        parts = []
        for seed in range(shards):
            write_scene_rows(folder / f"part-{seed}", recordings=1, clips=1, per_clip=questions, seed=seed)
            parts.append(store.put_artifact("rows", folder / f"part-{seed}"))
        pipeline = f"name: scaled\ndata: {{train: train}}\nmodels: {{}}\nsteps: {{only: {step}}}"
        self.plan = make_plan(parse_pipeline(pipeline, "test"), {"train": tuple(parts)}, {})
        self.runs.submit("run", self.plan)
        self.keys = [task.key for task in self.runs.state("run", self.plan).open]

    @property
    def done(self) -> int:
        return len(self.runs.state("run", self.plan).nodes[0].results)

    def outcomes(self, key: str) -> list[str | None]:
        """How each attempt ended; the one that committed has no end of its own."""
        return [attempt.get("outcome") for attempt in self.runs.attempts(key)]

    def answers(self) -> int:
        """Of the teacher, kept so far."""
        return sum(1 for name in self.store.keys("scratch/") if "/journal/" in name)


@pytest.fixture
def labeler(processes: Processes) -> Iterator[Callable[..., Process]]:
    """Starts a labeler whose teacher takes its time: a shard is some seconds of work."""
    with sandbox_teacher("--latency", "0.12") as url:
        teacher = {"gemini_api_key": "k", "gemini_base_url": url, "teacher_in_flight": 1, "grace_seconds": GRACE}
        yield lambda **changed: processes.start("labeler", **teacher, **changed)


def test_workers_go_from_none_to_three_to_none_and_what_is_put_down_on_the_way_is_done_by_others(
    processes: Processes, labeler: Callable[..., Process], store: Store, tmp_path: Path
) -> None:
    deployed = Deployed(store, tmp_path, LABELS, shards=6, questions=8)  # longer than a labeler asks on
    scaled = ScaledObject(labeler, processes.began, target=2, most=3, cooldown=1)
    keda(scaled, processes.conductor(tick_seconds=1), "labeler")
    print(f"\nreplicas: {scaled.history}")
    assert max(scaled.history) == 3
    assert [worker.wait(20) for worker in scaled.stopped] == [0] * len(scaled.stopped)
    assert deployed.runs.ended("run") == "complete"
    assert deployed.done == len(deployed.keys) == 6
    outcomes = {key: deployed.outcomes(key) for key in deployed.keys}
    print(f"attempts: {sorted(outcomes.values(), key=len)}")
    assert all(ended == ["released"] * (len(ended) - 1) + [None] for ended in outcomes.values())
    assert any(len(ended) > 1 for ended in outcomes.values()), "no worker was stopped in the middle"


def test_jobs_take_a_task_each_and_none_is_lost(processes: Processes, store: Store, tmp_path: Path) -> None:
    deployed = Deployed(store, tmp_path, VARIATIONS, shards=5)
    scaled = ScaledJob(lambda: processes.start("augmenter", one_shot_seconds=4), target=1, most=3)
    keda(scaled, processes.conductor(tick_seconds=1), "augmenter")
    print(f"\njobs: {len(scaled.jobs)}; running: {scaled.history}")
    assert max(scaled.history) == 3
    assert {job.returncode for job in scaled.jobs} == {0}
    assert [deployed.outcomes(key) for key in deployed.keys] == [[None]] * 5
    assert deployed.done == 5
    assert deployed.runs.ended("run") == "complete"


def test_a_one_shot_worker_that_is_stopped_in_the_middle_gives_its_task_back_and_another_goes_on(
    processes: Processes, labeler: Callable[..., Process], store: Store, board: Board, tmp_path: Path
) -> None:
    deployed = Deployed(store, tmp_path, LABELS, shards=2)
    processes.conductor(tick_seconds=1)
    heartbeat = tmp_path / "heartbeat"
    first = labeler(one_shot_seconds=30, heartbeat_file=heartbeat)
    wait_for(deployed.answers, seconds=40)
    (task,) = board.leased(deployed.keys)
    assert age(heartbeat) < 3, "the heart beats while it works"

    asked = time.monotonic()
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    print(f"\nput down after {time.monotonic() - asked:.1f} s, with {deployed.answers()} answers")
    assert deployed.outcomes(task) == ["released"]
    assert deployed.done == 0
    assert not board.leased(deployed.keys)

    others = [labeler(one_shot_seconds=30) for _ in range(2)]
    assert [other.wait(60) for other in others] == [0, 0]
    assert deployed.done == 2
    assert deployed.outcomes(task) == ["released", None]
    result = deployed.runs.state("run", deployed.plan).nodes[0].results[task]
    assert result.facts["replayed"] > 0, "what was paid for is not asked again"


def test_a_one_shot_worker_that_loses_its_broker_in_the_middle_goes_on_and_still_takes_no_second_offer(
    processes: Processes,
    labeler: Callable[..., Process],
    store: Store,
    own_redis: OwnRedis,
    config: Settings,
    tmp_path: Path,
) -> None:
    deployed = Deployed(store, tmp_path, LABELS, shards=2, questions=8)
    processes.conductor(redis_url=own_redis.url, tick_seconds=1)
    heartbeat = tmp_path / "heartbeat"
    worker = labeler(one_shot_seconds=30, heartbeat_file=heartbeat, redis_url=own_redis.url)
    wait_for(deployed.answers, seconds=40)
    own_redis.stop()
    own_redis.start()  # and remembers nothing
    beats(heartbeat)  # a new connection
    board = Board(config.model_copy(update={"redis_url": own_redis.url}))
    wait_for(lambda: board.waiting("labeler"))
    assert deployed.done == 0, "the task was too short: another offer was to wait before it ended"
    assert worker.wait(60) == 0
    assert sorted(deployed.outcomes(key) for key in deployed.keys) == [[], [None]]
    assert deployed.done == 1
