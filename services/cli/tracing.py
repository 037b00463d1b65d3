"""Walking back: from an answer or an artifact to all that it came from."""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from shared.errors import NotInStoreError, UsageError
from shared.run import Runs
from shared.store import Store


def trace(store: Store, artifact: str, question: str | None) -> dict[str, Any]:
    """The lineage below an artifact (or what a run has made so far), as `{"roots", "artifacts", "question"}`.

    Raises:
        UsageError: there is neither an artifact nor a run of that name, the run has made nothing yet, or
            no such question is in it.
    """
    roots = _roots(store, artifact)
    graph: dict[str, dict[str, Any]] = {}
    for root in roots:
        _walk(store, root, graph)
    rows = _rows_on(store, graph, question) if question else []
    if question and not rows:
        raise UsageError(f"{artifact}: nothing in its lineage speaks of question {question!r}")
    return {"roots": roots, "artifacts": graph, "question": rows}


def _roots(store: Store, name: str) -> list[str]:
    runs = Runs(store)
    if "plan" in runs.marks().get(name, ()):
        made = [result.artifact for node in runs.state(name).nodes for result in node.results.values()]
        if not made:
            raise UsageError(f"run {name!r} has no result yet; `roadqa watch {name}`")
        return made
    matches = [key.removeprefix("artifacts/") for key in store.keys(f"artifacts/{name}")]
    if len(matches) != 1:
        found = "none" if not matches else f"{len(matches)}; write more of it"
        raise UsageError(f"{name!r} is no run, and the artifacts that begin so are: {found}")
    return matches


def _walk(store: Store, artifact: str, graph: dict[str, dict[str, Any]]) -> None:
    pending = [artifact]
    while pending:
        current = pending.pop()
        if current in graph:
            continue
        manifest = store.manifest(current)
        lineage = manifest.lineage
        inputs = lineage.inputs if lineage else {"parts": manifest.parts} if manifest.parts else {}
        graph[current] = {
            "kind": manifest.kind,
            "stage": lineage.stage if lineage else None,
            "recipe": lineage.recipe if lineage else {},
            "inputs": {name: list(artifacts) for name, artifacts in inputs.items()},
            "size_bytes": manifest.size,
        }
        pending += [each for artifacts in inputs.values() for each in artifacts]


_TABLES = ("predictions.jsonl", "labels.jsonl", "questions.jsonl", "calibration.jsonl")


def _rows_on(store: Store, graph: dict[str, dict[str, Any]], question: str) -> list[dict[str, Any]]:
    """Every row of the lineage about the question, and about what it was augmented from."""
    artifacts = [artifact for artifact, facts in graph.items() if facts["kind"] in ("rows", "predictions", "model")]
    wanted = _with_parents(question, _parents(store, artifacts))  # first: a lineage may not fit in memory
    return [
        {"artifact": artifact, "table": table, "row": row}
        for artifact in artifacts
        for table in _TABLES
        for row in _table(store, artifact, table)
        if (row.get("question") or row.get("id")) in wanted
    ]


def _parents(store: Store, artifacts: list[str]) -> dict[str, str]:
    """The question each augmented one was made from."""
    rows = (row for artifact in artifacts for row in _table(store, artifact, "questions.jsonl"))
    return {row["id"]: row["origin"]["parent"] for row in rows if row["origin"]["parent"] is not None}


def _with_parents(question: str, parents: dict[str, str]) -> set[str]:
    wanted: set[str] = set()
    name: str | None = question
    while name is not None and name not in wanted:
        wanted.add(name)
        name = parents.get(name)
    return wanted


def _table(store: Store, artifact: str, path: str) -> Iterator[dict[str, Any]]:
    """The rows of an artifact's table, none where it has no such table."""
    try:
        table = store.read_file(artifact, path)
    except NotInStoreError:
        return
    for line in BytesIO(table):
        yield json.loads(line)
