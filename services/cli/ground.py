"""What a plan can stand on before its run: the rows, models and finished trainings that the store has already."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from services.cli.collect import read_rows
from services.cli.data import SANDBOX_FOLDER, SANDBOX_MODEL, dataset_name, find_model
from shared import families, geometry, published
from shared.errors import NotInStoreError
from shared.pipeline import Made, Pipeline, Plan, make_plan
from shared.run import NodeState, Result, Runs, made
from shared.schema import Clip, Question
from shared.settings import settings
from shared.store import Store

ABSENT = ""  #: stands in a plan for what is not in the store


class Found(NamedTuple):
    """A dataset in the store."""

    parts: tuple[str, ...]
    questions: tuple[Question, ...]
    clips: Mapping[str, Clip]


class Past(NamedTuple):
    """A finished training or quantisation, whose figures another may be judged by."""

    run: str
    node: str
    recipe: dict[str, Any]
    config: published.Config
    result: Result


class Ground(NamedTuple):
    """What is there, and what is not."""

    plan: Plan
    data: dict[str, Found]  #: by the pipeline's names; those not in the store are left out
    configs: dict[str, published.Config]  #: config.json of the pipeline's models, where known
    missing: tuple[str, ...]  #: in words
    done: frozenset[str]  #: nodes that an earlier run has finished


def survey(store: Store | None, pipeline: Pipeline, missing: tuple[str, ...] = ()) -> Ground:
    """Look at what a pipeline would stand on. Nothing is imported, pulled or started.

    Args:
        store: None where there is none; `missing` says why.

    Raises:
        UsageError: the pipeline names a step or row that does not exist, or a recipe is wrong.
    """
    lacks = list(missing)
    data: dict[str, Found] = {}
    for name, source in pipeline.data.items():
        known_as = dataset_name(name, source)
        artifact = store.named("datasets", known_as) if store else None
        if store and artifact:
            parts = store.manifest(artifact).parts
            questions, clips = read_rows(store, parts)
            data[name] = Found(parts, tuple(questions), clips)
        else:
            how = "`roadqa import` brings it" if isinstance(source, str) else "the run imports it first"
            lacks.append(f"data.{name}: {known_as!r} is not in the store yet; {how}")
    artifacts, configs = {}, {}
    for name, source in pipeline.models.items():
        artifacts[name] = (find_model(store, source) if store else None) or ABSENT
        config = _config(store, source, artifacts[name])
        if config and config.get("model_type") in families.TRAINABLE.keys() - {geometry.MODEL_TYPE}:
            lacks.append(f"models.{name}: the memory of a {config['model_type']} is not reckoned; try a short run")
            config = None
        if config:
            configs[name] = config
        if not artifacts[name] and source != SANDBOX_MODEL:
            sizes = "; its published sizes are used" if config else ""
            lacks.append(f"models.{name}: {source!r} is not in the store yet; `roadqa models pull` brings it{sizes}")
    known = {artifact: made(store, artifact) for artifact in artifacts.values() if store and artifact}
    inputs = {name: data[name].parts if name in data else (ABSENT,) for name in pipeline.data}
    plan = make_plan(pipeline, inputs, artifacts, {ABSENT: Made()} | known, settings().lacking)
    done = _done(store, plan, frozenset(pipeline.data) - data.keys()) if store else frozenset()
    return Ground(plan, data, configs, tuple(lacks), done)


def _config(store: Store | None, source: str, artifact: str) -> published.Config | None:
    if source == SANDBOX_MODEL:
        return _read((SANDBOX_FOLDER / "config.json").read_bytes())
    if store and artifact:
        return _read(store.read_file(artifact, "config.json"))
    return published.find(source)


def _read(raw: bytes) -> published.Config:
    config: dict[str, Any] = json.loads(raw)
    return config


def _done(store: Store, plan: Plan, absent: frozenset[str]) -> frozenset[str]:
    """Nodes with a result. What rests on absent data has none: its inputs are not known."""
    if absent:
        return frozenset()
    return frozenset(state.node.name for state in Runs(store).state("", plan).nodes if state.complete)


def past(store: Store, stage: str) -> Iterator[Past]:
    """Finished work of a stage, over all runs."""
    runs, seen = Runs(store), set[str]()
    for run, marks in runs.marks().items():
        if "plan" not in marks:
            continue
        plan = runs.plan(run)
        for state in runs.state(run, plan).nodes:
            if state.node.stage == stage and state.complete:
                yield from _pasts(store, run, state, seen)


def _pasts(store: Store, run: str, state: NodeState, seen: set[str]) -> Iterator[Past]:
    for task in state.tasks or ():
        if task.key in seen:  # another run's, memoised
            continue
        seen.add(task.key)
        (base,) = task.inputs["model"]
        try:
            config = _read(store.read_file(base, "config.json"))
        except NotInStoreError:  # forgotten since
            continue
        yield Past(run, state.node.name, state.node.recipe, config, state.results[task.key])
