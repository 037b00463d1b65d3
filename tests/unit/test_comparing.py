"""Models beside one another: each figure stands with its own model, and what is asked is understood."""

from typing import Any

import pytest
from rich.console import Console

from services.cli import comparing
from services.cli.predictions import asking
from services.cli.report import build
from shared.errors import UsageError
from tests.unit.test_report import a_row, a_view, against, scores


def figures(accuracy: float, **more: Any) -> dict[str, Any]:
    ends = [accuracy - 0.1, accuracy + 0.1]
    groups = {"signs": {"n": 240, "accuracy": accuracy, "ci95": ends}}
    return scores(accuracy, *ends, by_category=groups, **more)


REPORT = build(
    a_view(
        a_row("small", figures(0.5), memory_bytes=2_000_000_000),
        a_row("large", figures(0.7, parent=against(0.5, 0.2, 0.001)), "small", memory_bytes=None, size_bytes=9_000_000),
        test="dev",
    )
)


def test_each_models_figures_are_its_own() -> None:
    found = comparing.figures(REPORT)
    small, large = found["models"]
    assert (found["dataset"], small["name"], large["name"]) == ("dev", "small", "large")
    assert (small["memory_bytes"], large["memory_bytes"]) == (2_000_000_000, None)
    assert (small["size_bytes"], large["size_bytes"]) == (3_000_000, 9_000_000)
    assert (small["p"], large["p"]) == (None, 0.001)
    assert small["by_category"]["signs"] == {"n": 240, "accuracy": 0.5, "ci95": [0.4, 0.6]}
    assert large["by_category"]["signs"]["accuracy"] == 0.7


def test_the_best_stands_first_with_its_interval_and_memory() -> None:
    console = Console(width=160)
    with console.capture() as shown:
        console.print(comparing.view(REPORT))
    lines = [line.split() for line in shown.get().splitlines() if line.strip()]
    assert [line[0] for line in lines[1:3]] == ["large", "small"]
    assert "against small" in shown.get()
    assert {"50.0%", "40.0–60.0", "20", "ms", "2.0", "GB", "3.0", "MB"} <= set(lines[2])
    assert lines[4][:2] == ["signs", "240"]


@pytest.mark.parametrize("models", [["one"], ["one", "one"]])
def test_fewer_than_two_models_are_refused_before_anything_is_read(models: list[str]) -> None:
    with pytest.raises(UsageError, match="two models"):
        comparing.plan(None, models, "dev", "auto", None, {}, lambda *_: None)  # type: ignore[arg-type]


def test_a_way_of_asking_that_would_do_nothing_is_told_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^samples: without reasoning") as caught:
        asking({"samples": 3})
    assert "\n" not in str(caught.value)
