"""The terminal shows where a run stands, and data cannot command the terminal."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from services.cli.detailview import details
from services.cli.render import fraction, plain, report_table, run_line, run_view, seconds_left
from services.cli.report import ReportInput, RowView, build
from services.cli.runs import Step
from services.cli.traceview import trace_view
from tests.unit.test_report import CLEAR, a_view
from tests.unit.test_report_details import with_details

STEP = {"name": "train B", "stage": "train", "state": "running", "done": 0, "total": 1}


def shown(what: RenderableType) -> str:
    console = Console(file=StringIO(), width=160, color_system=None)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def a_task(done: float, total: float, rate: float | None = None, **facts: Any) -> dict[str, object]:
    return {"stage": "train", "done": done, "total": total, "unit": "steps", "rate": rate, "facts": facts, "seconds": 1}


def test_a_step_at_work_shows_share_pace_time_left_and_loss() -> None:
    step = Step(**STEP, progress=(a_task(40, 100, 2.0, loss=0.51234),))
    line = run_line([step], 125)
    assert line == "2 min 5 s, 0/1 steps | train B: 40%, 2 steps/s, 30 s left, loss 0.5123"
    assert "loss 0.5123" in shown(run_view("run-1", [step], 125))


def test_what_a_training_tells_is_shown_in_its_units() -> None:
    facts = {
        "loss": 0.5, "learning_rate": 2.5e-05, "samples_per_second": 33.61, "tokens_per_second": 3849.2,
        "memory_bytes": 34_600_000_000, "data_wait": 0.0123, "stop_costs": "120 GB, 300 s",
    }  # fmt: skip
    line = run_line([Step(**STEP, progress=(a_task(40, 100, 2.0, **facts),))], 125)
    assert line.endswith(
        "loss 0.5, learning rate 2.5e-05, 33.61 samples/s, 3849 tokens/s, memory 34.6 GB, data wait 1.2%,"
        " stop costs 120 GB, 300 s"
    )


def test_finished_shards_set_the_pace_of_those_that_wait() -> None:
    step = Step(**STEP | {"done": 2, "total": 5, "seconds": 20.0, "progress": (a_task(5, 10),)})
    assert fraction(step) == pytest.approx(0.5)
    assert seconds_left(step) == pytest.approx(25)


def test_without_a_pace_no_time_is_promised() -> None:
    assert seconds_left(Step(**STEP, progress=(a_task(0, 100),))) is None
    assert seconds_left(Step(**STEP)) is None
    assert fraction(Step(**STEP | {"total": None})) == 0


def test_a_dead_step_says_why_without_commanding_the_terminal() -> None:
    step = Step(**STEP | {"state": "dead", "causes": ("bad \x1b[2Jclip",)})
    assert run_line([step], 1).endswith("train B: dead: bad  [2Jclip")
    assert "\x1b" not in shown(run_view("run-1", [step], 1))
    assert plain("a\x1b\x07b\nc") == "a  b c"


def test_an_unmeasured_row_is_listed() -> None:
    row = RowView(name="B fp4", model="B fp4", engine="transformers", system_prompt="short")
    view = ReportInput(run="run-1", name="sandbox", state="running", seconds=1, rows=(row,))
    assert "not yet" in shown(report_table(build(view)))


def test_details_are_tables_of_what_was_measured() -> None:
    report = build(a_view(*with_details("What\x1b may it do?")))
    text = shown(details(report))
    for part in (
        "By category", "85.0% 78.0–92.0", "overconfident", "A +8.0", "fine-tuned B: right ↓ chosen →", "29",
        "fine-tuned B against prompt: 110 questions from wrong to right, 7 from right to wrong",
        "A 60.0% → C 90.0%  What  may it do? (q1, clip1.mp4)",
    ):  # fmt: skip
        assert part in text, part
    assert "\x1b" not in text
    assert "A fair guess gets 25.0%, always giving the most frequent letter 30.0%." in shown(report_table(report))


def test_an_older_evaluation_has_no_details_and_no_fault() -> None:
    text = shown(details(build(a_view(*CLEAR))))
    assert "By category" in text
    assert "Calibration" not in text


def test_a_comparison_has_a_line_below_the_table() -> None:
    row = RowView(name="A", model="A", engine="vllm", system_prompt="short", against={"B": None})
    view = ReportInput(run="run-1", name="sandbox", state="running", seconds=1, rows=(row,))
    assert "A against B: not measured yet." in shown(report_table(build(view)))


def test_an_answer_is_traced_to_votes_and_sources() -> None:
    clip = "c" * 64
    vote = {"prompt": "law.v1", "round": 0, "choice": 1, "reasoning": "the \x1b[31mlight is red"}
    label = {"question": "q1", "status": "accepted", "answer": 1, "reason": "consensus", "agreement": 1.0}
    question = {"id": "q1", "clip": clip, "text": "Go?", "origin": {"answer": "teacher"}, "answer": 1}
    question |= {"choices": [{"label": "A", "text": "Yes"}, {"label": "B", "text": "No"}]}
    base = {"stage": None, "recipe": {}, "inputs": {}, "size_bytes": 10}
    graph = {
        "p" * 64: base
        | {"kind": "predictions", "stage": "predict", "inputs": {"model": ["m" * 64], "data": ["d" * 64]}},
        "m" * 64: base | {"kind": "model", "stage": "train", "recipe": {"epochs": 2}, "inputs": {"data": ["d" * 64]}},
        "d" * 64: base | {"kind": "rows"},
    }
    rows = [
        {"artifact": "d" * 64, "table": "questions.jsonl", "row": question},
        {"artifact": "l" * 64, "table": "labels.jsonl", "row": label | {"votes": [vote]}},
    ]
    text = shown(trace_view({"roots": ["p" * 64], "artifacts": graph, "question": rows}))
    for part in ("q1: Go?", "B. No  ← answer", "law.v1, round 0: B", "model: model mmmm", "made by train", "epochs=2"):
        assert part in text
    assert "\x1b" not in text


def test_shared_sources_are_spelled_out_once() -> None:
    base = {"kind": "rows", "stage": "label", "recipe": {}, "size_bytes": 1}
    graph = {
        "r": base | {"inputs": {"a": ["x"], "b": ["x"]}},
        "x": base | {"inputs": {"data": ["leaf"]}},
        "leaf": base | {"inputs": {}},
    }
    text = shown(trace_view({"roots": ["r"], "artifacts": graph, "question": []}))
    assert text.count("leaf") == 1
    assert text.count("shown above") == 1
