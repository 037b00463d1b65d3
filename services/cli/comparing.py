"""Models side by side on one dataset: the run that asks and scores them, and its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli import words
from services.cli.data import Progress, resolve_data, resolve_model
from services.cli.detailview import by_group
from services.cli.predictions import asked_as, asking
from services.cli.render import plain
from services.cli.report import Report
from shared.errors import UsageError
from shared.pipeline import Pipeline, Plan, make_plan
from shared.run import made
from shared.settings import settings
from shared.store import Store


def plan(
    store: Store,
    models: Sequence[str],
    dataset: str,
    engine: str,
    system_prompt: str | None,
    how: Mapping[str, Any],
    progress: Progress,
) -> Plan:
    """A run that asks every model the dataset's questions in the same way, and compares each with the first.

    They are asked as the first of them was trained that says so, else by the defaults.

    Raises:
        UsageError: fewer than two models, or one is named twice or does not exist.
    """
    if len(set(models)) < max(2, len(models)):
        raise UsageError("name two models or more, each once, and then the dataset")
    artifacts = {name: resolve_model(store, "base", name, progress) for name in models}
    asked = next((told for artifact in artifacts.values() if (told := asked_as(store, artifact))), {})
    row = {"engine": engine, "asking": asking(how)}
    pipeline = Pipeline.model_validate(
        {
            "name": "compare",
            "data": {dataset: dataset},
            "models": {name: name for name in models},
            "video": asked.get("video", {}),
            "system_prompt": system_prompt or asked.get("system_prompt", "expert"),
            "report": {
                "test": dataset,
                "leaks": "mark",
                "rows": {
                    name: row | ({"parent": models[0]} if name != models[0] else {}) | {"model": name}
                    for name in models
                },
            },
        }
    )
    parts = resolve_data(store, dataset, dataset, progress)
    known = {artifact: made(store, artifact) for artifact in artifacts.values()}
    return make_plan(pipeline, {dataset: parts}, artifacts, known, settings().lacking)


_KEPT = ("name", "engine", "system_prompt", "accuracy", "ci95", "n", "recordings", "claim", "leaked", "difference",
         "difference_ci95", "p", "verdict", "seconds_per_question", "memory_bytes", "size_bytes")  # fmt: skip


def figures(report: Report) -> dict[str, Any]:
    """What is compared, as JSON: each model's figures, and its accuracy with interval in each category."""
    matrix = report["by_category"]
    models = []
    for row in report["rows"]:
        place = matrix["rows"].index(row["name"]) if row["name"] in matrix["rows"] else None
        groups = matrix["groups"] if place is not None else []
        own = {group["name"]: {"n": group["n"], "accuracy": group["accuracy"][place], "ci95": group["ci95"][place]}
               for group in groups}  # fmt: skip
        models.append(
            {key: row[key] for key in _KEPT} | {"artifact": row["artifacts"].get("model"), "by_category": own}
        )
    return {"run": report["run"], "dataset": report["test"], "models": models, "caveats": report["caveats"]}


def view(report: Report) -> Group:
    """The models, best first, and their accuracy by category."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    first = report["rows"][0]["name"]
    names = ("right", "n", "95% interval", f"against {first}", "p", "per question", "peak memory", "size")
    for name in names:
        table.add_column(plain(name), justify="right", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for row in sorted(report["rows"], key=lambda row: row["accuracy"] or 0, reverse=True):
        cells = (
            row["name"], words.percent(row["accuracy"]), str(row["n"]), words.interval(row["ci95"]),
            words.points(row["difference"]), words.p_value(row["p"]), words.per_question(row["seconds_per_question"]),
            words.size(row["memory_bytes"]), words.size(row["size_bytes"]), row["engine"],
        )  # fmt: skip
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return Group(table, Text(), by_group("Category", report["by_category"]))
