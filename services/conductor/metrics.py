"""What the conductor's last tick saw, at `/metrics`: for Prometheus, and for KEDA, which scales the workers by it.

KEDA's metrics-api scaler reads one series out of it (`format: prometheus`, `valueLocation: roadqa_work{queue="…"}`).
Source: keda.sh/docs/latest/scalers/metrics-api; how it is read, KEDA's pkg/scalers/metrics_api_scaler.go.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.contracts import STAGES
from shared.run import RunState

QUEUES = tuple(dict.fromkeys(stage.queue for stage in STAGES.values()))
TASK_STATES = ("ready", "running")
RUN_STATES = ("live", "paused", "complete", "failed", "cancelled")


class Snapshot(NamedTuple):
    """What one tick saw. A task that several runs want counts once."""

    tasks: Counter[tuple[str, str]]  #: by queue and state
    dead: Counter[str]  #: by queue
    labels: Counter[str]  #: by verdict
    tokens: Counter[str]  #: by direction
    usd: float  #: that these labels cost
    runs: Counter[str]  #: by state


def snapshot(states: Collection[RunState], wanted: set[str], leased: set[str], runs: Counter[str]) -> Snapshot:
    """Count what live runs have. What the worker of a cancelled run has not yet put down still runs."""
    nodes = [node for state in states for node in state.nodes]
    counted = wanted | leased
    queues = {task.key: STAGES[task.stage].queue for node in nodes for task in node.open if task.key in counted}
    dead = {key: STAGES[node.node.stage].queue for node in nodes for key in node.dead}
    results = {key: result for node in nodes for key, result in node.results.items()}
    labelled = [result.facts for result in results.values() if result.stage == "label"]
    return Snapshot(
        tasks=Counter((queue, "running" if key in leased else "ready") for key, queue in queues.items()),
        dead=Counter(dead.values()),
        labels=Counter(
            accepted=sum(facts.get("accepted", 0) for facts in labelled),
            flagged=sum(sum(facts.get("flagged", {}).values()) for facts in labelled),
        ),
        tokens=Counter({way: sum(facts.get(f"tokens_{way}", 0) for facts in labelled) for way in ("in", "out")}),
        usd=sum(facts.get("usd") or 0.0 for facts in labelled),
        runs=runs,
    )


class Metrics(Collector):
    """Shows one tick at a time, whole, and nothing of it while ticks fail.

    KEDA takes a series that is missing for an error and leaves the workers as they are; a zero, or a number of an
    hour ago, would have it end busy ones or start idle ones.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.seconds = Histogram("roadqa_conductor_tick_seconds", "How long a tick takes.", registry=self.registry)
        self._last = Gauge(
            "roadqa_conductor_last_tick_timestamp_seconds", "When a tick last succeeded.", registry=self.registry
        )
        self._seen: Snapshot | None = None

    def serve(self, host: str, port: int) -> None:
        """Answer from threads of its own, as long as the process lives."""
        start_http_server(port, host, self.registry)

    def show(self, seen: Snapshot | None) -> None:
        """What the last tick saw; None where it failed."""
        self._seen = seen
        if seen is not None:
            self._last.set_to_current_time()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        seen = self._seen
        if seen is None:
            return
        tasks = GaugeMetricFamily(
            "roadqa_tasks", "Tasks that can be worked on now; running: leased by a worker.", labels=("queue", "state")
        )
        work = GaugeMetricFamily("roadqa_work", "Ready and running tasks: what to scale by.", labels=("queue",))
        dead = GaugeMetricFamily("roadqa_dead_tasks", "Tasks of live runs that are given up.", labels=("queue",))
        for queue in QUEUES:
            counts = [seen.tasks[queue, state] for state in TASK_STATES]
            for state, count in zip(TASK_STATES, counts, strict=True):
                tasks.add_metric((queue, state), count)
            work.add_metric((queue,), sum(counts))
            dead.add_metric((queue,), seen.dead[queue])
        yield from (tasks, work, dead)
        yield _family("roadqa_runs", "Runs.", "state", {state: seen.runs[state] for state in RUN_STATES})
        yield _family("roadqa_labels", "Labels in the results of live runs.", "verdict", seen.labels)
        cost = GaugeMetricFamily("roadqa_label_usd", "US dollars that these labels cost, by the table of prices.")
        cost.add_metric((), seen.usd)
        yield cost
        yield _family("roadqa_label_tokens", "Teacher's tokens that these results tell of.", "direction", seen.tokens)


def _family(name: str, help_text: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family
