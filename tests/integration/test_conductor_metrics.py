"""What a conductor's tick saw, as Prometheus and KEDA read it."""

from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.conductor.metrics import QUEUES, Metrics
from shared.errors import InputError
from shared.lease import Board
from shared.pipeline import make_plan, parse_pipeline
from shared.settings import Settings
from shared.store import Store
from tests.integration.test_core import World, passing
from tests.waiting import wait_for

LABELLED = """
name: labelled
data: {train: train}
models: {}
steps:
  labels: {stage: label, data: [train]}
  more: {stage: augment, data: [labels]}
"""


class Watched(World):
    """A world whose ticks are shown."""

    def __init__(self, config: Settings, store: Store, board: Board, folder: Path, parts: int) -> None:
        super().__init__(config, store, board, folder, parts)
        self.metrics = Metrics()

    def seen(self) -> dict[tuple[str, ...], float]:
        """The metrics after one more tick: value by name and label values."""
        wait_for(lambda: not self.board.quiet())
        self.metrics.show(self.conductor.tick())
        return self.shown()

    def shown(self) -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(generate_latest(self.metrics.registry).decode())
        return {(s.name, *(s.labels[k] for k in sorted(s.labels))): s.value for f in families for s in f.samples}

    def counts(self, queue: str = "augmenter") -> tuple[float, float, float]:
        """Ready, running, and what to scale by."""
        seen = self.seen()
        return (
            seen["roadqa_tasks", queue, "ready"],
            seen["roadqa_tasks", queue, "running"],
            seen["roadqa_work", queue],
        )


def test_a_task_is_ready_then_running_then_gone(config: Settings, store: Store, board: Board, tmp_path: Path) -> None:
    w = Watched(config, store, board, tmp_path, 3)
    assert w.counts() == (3, 0, 3)
    assert w.counts() == (3, 0, 3), "what is on offer is still ready"
    during: list[tuple[float, float, float]] = []

    def watched(*given: Any) -> dict[str, Any]:
        during.append(w.counts())
        return passing(*given)

    first, second, third = w.offers()
    w.worker().perform(watched, **first)
    w.worker().perform(watched, **second)
    w.worker().perform(watched, **third)
    assert during == [(2, 1, 3), (1, 1, 2), (0, 1, 1)]
    assert w.counts() == (0, 0, 0)


def test_every_queue_is_shown_and_a_task_that_two_runs_want_counts_once(
    config: Settings, store: Store, board: Board, tmp_path: Path
) -> None:
    w = Watched(config, store, board, tmp_path, 2)
    w.runs.submit("again", w.plan)
    seen = w.seen()
    assert {queue: seen["roadqa_work", queue] for queue in QUEUES} == dict.fromkeys(QUEUES, 0) | {"augmenter": 2}
    assert seen["roadqa_runs", "live"] == 2


def test_what_waits_for_its_sources_is_no_work_yet(
    config: Settings, store: Store, board: Board, tmp_path: Path
) -> None:
    w = Watched(config, store, board, tmp_path, 2)
    w.runs.submit("labelled", make_plan(parse_pipeline(LABELLED, "test"), {"train": w.parts}, {}))
    w.runs.cancel("run")
    w.seen()
    assert w.counts("labeler") == (2, 0, 2)
    assert w.counts("augmenter") == (0, 0, 0)


def test_what_a_cancelled_run_has_not_put_down_still_runs_and_the_rest_is_no_work(
    config: Settings, store: Store, board: Board, tmp_path: Path
) -> None:
    w = Watched(config, store, board, tmp_path, 2)
    w.seen()
    first, _ = w.offers()
    assert board.claim(first["task"], "a worker")
    w.runs.cancel("run")
    assert w.counts() == (0, 1, 1)
    board.release(first["task"], "a worker")
    assert w.counts() == (0, 0, 0)


def test_runs_count_by_how_they_ended_also_after_a_retry(
    config: Settings, store: Store, board: Board, tmp_path: Path
) -> None:
    def refused(*_: Any) -> dict[str, Any]:
        raise InputError("mend me")

    w = Watched(config, store, board, tmp_path, 1)
    w.seen()
    w.work(refused)
    w.seen()  # buries
    seen = w.seen()
    assert (seen["roadqa_runs", "live"], seen["roadqa_dead_tasks", "augmenter"]) == (1, 1)
    seen = w.seen()
    assert (seen["roadqa_runs", "live"], seen["roadqa_runs", "failed"]) == (0, 1)
    for key in list(w.store.keys("dead/")):
        w.runs.revive(key.removeprefix("dead/"))
    w.runs.reopen("run")
    w.seen()
    w.work(passing)
    w.seen()
    seen = w.seen()
    assert (seen["roadqa_runs", "complete"], seen["roadqa_runs", "failed"]) == (1, 0)
    assert seen["roadqa_dead_tasks", "augmenter"] == 0


def test_labels_and_tokens_are_those_in_the_results_of_live_runs(
    config: Settings, store: Store, board: Board, tmp_path: Path
) -> None:
    def labelling(*given: Any) -> dict[str, Any]:
        passing(*given)
        return {"accepted": 5, "flagged": {"inconsistent": 1, "blocked": 2}, "tokens_in": 100, "tokens_out": 10}

    w = Watched(config, store, board, tmp_path, 2)
    w.runs.submit("labelled", make_plan(parse_pipeline(LABELLED, "test"), {"train": w.parts}, {}))
    w.seen()
    w.worker().perform(labelling, **w.offers("labeler")[0])
    seen = w.seen()
    assert (seen["roadqa_labels", "accepted"], seen["roadqa_labels", "flagged"]) == (5, 3)
    assert (seen["roadqa_label_tokens", "in"], seen["roadqa_label_tokens", "out"]) == (100, 10)


def test_nothing_is_said_of_tasks_while_ticks_fail(
    config: Settings, store: Store, board: Board, tmp_path: Path
) -> None:
    w = Watched(config, store, board, tmp_path, 1)
    assert not [name for name, *_ in w.shown() if name == "roadqa_work"], "not before the first tick either"
    w.seen()
    succeeded = w.shown()["roadqa_conductor_last_tick_timestamp_seconds",]
    assert succeeded > 0
    w.metrics.show(None)
    assert not [name for name, *_ in w.shown() if name in ("roadqa_work", "roadqa_tasks", "roadqa_runs")]
    assert w.shown()["roadqa_conductor_last_tick_timestamp_seconds",] == succeeded
