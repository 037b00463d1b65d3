"""What the store knows of a run, as the report's input."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services.cli.report import DataView, ReportInput, RowView, StepView, merge_facts
from shared.errors import NotInStoreError
from shared.pipeline import Plan, PlannedRow
from shared.run import NodeState, Runs, RunState
from shared.schema import Clip, Question
from shared.store import Store


def collect(store: Store, run: str) -> ReportInput:
    """Everything the report of `run` is drawn from. Works on an unfinished run too."""
    runs = Runs(store)
    plan = runs.plan(run)
    state = runs.state(run, plan)
    began, ended = runs.times(run)
    return ReportInput(
        run=run,
        name=plan.name,
        state=runs.ended(run) or "running",
        seconds=((ended or datetime.now(UTC)) - began).total_seconds(),
        test=plan.test,
        rows=tuple(_row(store, plan, state, row) for row in plan.rows),
        steps=tuple(_step(node) for node in state.nodes),
        data=tuple(_data(store, name, parts) for name, parts in plan.datasets.items()),
        problems=tuple(f"{node.node.name}: {dead.cause}" for node in state.nodes for dead in node.dead.values()),
    )


def _step(node: NodeState) -> StepView:
    return StepView(
        name=node.node.name,
        stage=node.node.stage,
        state="complete" if node.complete else "dead" if node.dead else "waiting" if node.tasks is None else "running",
        seconds=sum(result.seconds for result in node.results.values()) if node.results else None,
        tasks=len(node.tasks) if node.tasks is not None else None,
        facts=merge_facts(result.facts for result in node.results.values()),
    )


def _row(store: Store, plan: Plan, state: RunState, row: PlannedRow) -> RowView:
    model = _model(plan, state, row.model)
    evaluated = state.node(row.evaluate)
    artifacts = {"scores": evaluated.artifacts[0]} if evaluated.complete else {}
    if model:
        artifacts["model"] = model
    return RowView(
        name=row.name,
        parent=row.parent,
        model=row.model,
        engine=row.engine,
        system_prompt=row.system_prompt,
        scores=_scores(evaluated),
        parent_same_engine=_scores(state.node(row.parent_evaluate)) if row.parent_evaluate else None,
        against={other: _scores(state.node(node)) for other, node in row.against.items()},
        size_bytes=_weights(store, model) if model else None,
        memory_bytes=_memory(state.node(row.predict)),
        card=_card(store, model) if model else {},
        artifacts=artifacts,
    )


def _scores(node: NodeState) -> dict[str, Any] | None:
    return next(iter(node.results.values())).facts if node.complete else None


def _memory(predicted: NodeState) -> int | None:
    """Bytes that the model took while it answered; None before that, and in results of older versions."""
    facts = merge_facts(result.facts for result in predicted.results.values())
    found = facts.get("memory_bytes") or {}
    return found.get("max")


def _model(plan: Plan, state: RunState, name: str) -> str | None:
    if name in plan.models:
        return plan.models[name]
    node = state.node(name)
    return node.artifacts[0] if node.complete else None


def _weights(store: Store, model: str) -> int:
    """Bytes of the weights alone: what a server has to load."""
    return sum(file.size for file in store.manifest(model).files if file.path.endswith(".safetensors"))


def _card(store: Store, model: str) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(store.read_file(model, "card.json"))
    except NotInStoreError:
        return {}
    return card


def read_rows(store: Store, parts: tuple[str, ...]) -> tuple[list[Question], dict[str, Clip]]:
    """The questions and clips of a dataset's parts, without the clips' bytes."""
    questions = [q for part in parts for q in _lines(store, part, "questions.jsonl", Question.model_validate_json)]
    clips = [c for part in parts for c in _lines(store, part, "clips.jsonl", Clip.model_validate_json)]
    return questions, {clip.digest: clip for clip in clips}


def _lines(store: Store, part: str, path: str, parse: Callable[[bytes], Any]) -> list[Any]:
    return [parse(line) for line in store.read_file(part, path).splitlines() if line.strip()]


def _data(store: Store, name: str, parts: tuple[str, ...]) -> DataView:
    questions, clips = read_rows(store, parts)
    return DataView(
        name=name,
        questions=len(questions),
        answered=sum(question.answer is not None for question in questions),
        clips=len(clips),
        recordings=len({clip.recording for clip in clips.values()}),
        test_derived=sum(question.origin.test_derived for question in questions),
        languages=tuple(sorted({question.language for question in questions})),
    )
