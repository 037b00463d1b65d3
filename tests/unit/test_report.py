"""The report says no more than the figures allow, and the page carries nothing foreign."""

import html.parser
import json
import re
from typing import Any

import pytest

from services.cli import page, words
from services.cli.report import ReportInput, RowView, StepView, build, label_line, marks, merge_facts, verdicts

HOSTILE = "<script>alert(1)</script>"


def scores(accuracy: float, low: float, high: float, n: int = 240, **more: Any) -> dict[str, Any]:
    return {
        "n": n, "recordings": n // 4, "unanswered": 0, "accuracy": accuracy, "ci95": [low, high],
        "ci_method": f"bootstrap over {n // 4} recordings", "majority": 0.3, "chance": 0.25, "claim": None,
        "by_category": {"sign": {"n": n, "accuracy": accuracy}}, "by_language": {"en": {"n": n, "accuracy": accuracy}},
        "parent": None, "leaked": {"questions": 0, "recordings": 0, "accuracy_without": accuracy},
        "transductive": {"questions": 0, "rows": 0},
        "seconds_per_question": 0.02, "prompt_tokens": 96.0,
    } | more  # fmt: skip


def against(accuracy: float, difference: float, p: float) -> dict[str, Any]:
    ends = [difference - 0.05, difference + 0.05]
    return {"n": 240, "accuracy": accuracy, "difference": difference, "ci95": ends, "p": p}


def a_row(name: str, found: dict[str, Any] | None, parent: str | None = None, **more: Any) -> RowView:
    fields = {"model": name, "engine": "vllm", "system_prompt": "short", "size_bytes": 3_000_000} | more
    return RowView(name=name, parent=parent, scores=found, **fields)


def a_view(*rows: RowView, **more: Any) -> ReportInput:
    return ReportInput(**{"run": "run-1", "name": "sandbox", "state": "complete", "seconds": 60.0, "rows": rows} | more)


CLEAR = (
    a_row("baseline", scores(0.40, 0.34, 0.46)),
    a_row("prompt", scores(0.42, 0.36, 0.48, parent=against(0.40, 0.02, 0.6)), "baseline"),
    a_row("fine-tuned B", scores(0.85, 0.80, 0.90, parent=against(0.42, 0.43, 1e-9)), "prompt"),
    a_row("B awq", scores(0.84, 0.79, 0.89, parent=against(0.85, -0.01, 0.5)), "fine-tuned B", size_bytes=2_200_000),
)


def kept(state: str, why: str) -> dict[str, Any]:
    """A verdict, as the evaluate stage tells it."""
    return {
        "state": state, "why": why, "n": 240, "recovery": {"is": 0.988, "ci95": [0.95, 1.02]},
        "flips": {"n": 240, "flipped": 9, "won": 3, "lost": 6}, "logprobs": {"mean": 0.0123, "max": 0.9},
    }  # fmt: skip


class Links(html.parser.HTMLParser):
    """Every tag, and every attribute that could fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetches: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetches += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]


def test_report_json_has_the_shape_that_scripts_read() -> None:
    report = json.loads(json.dumps(build(a_view(*CLEAR))))
    assert (report["run"], report["seconds"]) == ("run-1", 60.0)
    assert [row["name"] for row in report["rows"]] == ["baseline", "prompt", "fine-tuned B", "B awq"]
    fields = {"name", "parent", "engine", "accuracy", "n", "ci95", "p", "size_bytes", "seconds_per_question"}
    assert all(fields <= row.keys() for row in report["rows"])
    assert (report["rows"][0]["p"], report["rows"][1]["p"]) == (None, 0.6)


def test_a_clear_gain_is_told_with_both_intervals() -> None:
    headline = build(a_view(*CLEAR))["headline"]
    assert headline["kind"] == "gain"
    assert headline["text"] == "fine-tuned B gets 85.0% of 240 questions right; baseline gets 40.0%."
    assert "80.0–90.0 and 34.0–46.0, do not overlap" in headline["details"][0]
    assert "B awq is 0.73 of the size of fine-tuned B: −1.0 points" in headline["details"][1]


def test_a_comparison_with_another_row_is_told_whatever_it_is() -> None:
    beside = scores(0.85, 0.80, 0.90, parent=against(0.83, 0.02, 0.4) | {"wins": 9, "losses": 4, "p_mcnemar": 0.3})
    tuned = a_row("A", scores(0.85, 0.80, 0.90, parent=against(0.42, 0.43, 1e-9)), "prompt", against={"B": beside})
    report = build(a_view(CLEAR[0], tuned, a_row("C", None, against={"B": None})))
    found, waiting = report["comparisons"]
    assert (found["row"], found["against"], found["n"], found["verdict"]) == ("A", "B", 240, "no difference shown")
    assert (found["difference"], found["p"]) == (0.02, 0.4)
    assert found["difference_ci95"] == pytest.approx([-0.03, 0.07])
    assert (waiting["difference"], waiting["verdict"]) == (None, "not measured yet")
    line = "A against B: +2.0 points (95% interval −3.0 to +7.0, paired test p = 0.40, n 240): no difference shown."
    shown = page.html(report)
    assert line in shown
    assert "9 questions right that B gets wrong, 4 the other way round" in shown
    assert "C against B: not measured yet." in shown


def test_overlapping_intervals_are_not_called_a_gain() -> None:
    rows = a_row("baseline", scores(0.60, 0.50, 0.70)), a_row("tuned", scores(0.66, 0.56, 0.76), "other")
    headline = build(a_view(*rows))["headline"]
    assert headline["kind"] == "open"
    assert headline["text"] == "No row is clearly better than baseline."
    assert "overlap, so chance may explain it" in headline["details"][0]


def test_a_paired_test_may_tell_what_overlapping_intervals_hide() -> None:
    better = scores(0.66, 0.56, 0.76, parent=against(0.60, 0.06, 0.004))
    headline = build(a_view(a_row("baseline", scores(0.60, 0.50, 0.70)), a_row("tuned", better, "baseline")))[
        "headline"
    ]
    assert headline["kind"] == "gain"
    assert "paired test p = 0.004" in headline["details"][0]


def test_ten_questions_claim_nothing() -> None:
    few = "n = 10: too few to claim anything"
    first = scores(0.4, 0.17, 0.69, n=10, claim=few)
    second = scores(0.9, 0.60, 0.98, n=10, claim=few, parent=against(0.4, 0.5, 0.06))
    report = build(a_view(a_row("baseline", first), a_row("tuned", second, "baseline")))
    assert report["headline"]["kind"] == "small"
    assert report["headline"]["text"] == f"{few}."
    assert "tuned answered 9 of 10, baseline answered 4 of 10" in report["headline"]["details"][0]
    assert report["rows"][1]["verdict"] == "too few to tell"
    assert "better" not in page.html(report)


@pytest.mark.parametrize(
    ("difference", "p", "expected"),
    [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.2, "no difference shown")],
)
def test_the_verdict_follows_the_paired_test(difference: float, p: float, expected: str) -> None:
    row = a_row("tuned", scores(0.6, 0.5, 0.7, parent=against(0.5, difference, p)), "baseline")
    assert build(a_view(row))["rows"][0]["verdict"] == expected


def test_a_score_on_clips_that_were_trained_on_is_marked() -> None:
    leaked = {"questions": 12, "recordings": 3, "accuracy_without": 0.7}
    tuned = a_row("tuned", scores(0.85, 0.80, 0.90, leaked=leaked, transductive={"questions": 0, "rows": 40}), "other")
    report = build(a_view(a_row("baseline", scores(0.40, 0.34, 0.46)), tuned))
    assert any(
        "12 of its 240 questions are on recordings that tuned was trained or calibrated on" in d
        for d in _details(report)
    )
    assert any(
        "trained or calibrated on 3 recordings of the test set (12 questions); on the others" in c
        for c in report["caveats"]
    )
    assert any("40 rows drawn from another test set" in c for c in report["caveats"])
    assert "<strong>leaked</strong>" in page.html(report)


def test_a_score_on_a_test_that_a_teacher_labelled_is_called_transductive() -> None:
    tuned = a_row("tuned", scores(0.85, 0.80, 0.90, transductive={"questions": 40, "rows": 44}), "other")
    report = build(a_view(a_row("baseline", scores(0.40, 0.34, 0.46)), tuned))
    assert any("tuned is transductive" in d and "40" in d for d in _details(report))
    assert any("teacher's answers on clips or recordings of 40 questions" in c for c in report["caveats"])
    assert "<strong>transductive</strong>" in page.html(report)


def test_an_unfinished_run_has_a_report_too() -> None:
    rows = (a_row("baseline", None, size_bytes=None), a_row("tuned", None, "baseline", size_bytes=None))
    report = build(a_view(*rows, state="failed", problems=("train B: dead: out of memory",)))
    assert report["headline"]["kind"] == "waiting"
    shown = page.html(report)
    assert "has failed" in shown
    assert "train B: dead: out of memory" in shown
    assert shown.count("not measured yet") == 2
    assert page.html(build(a_view()))


def test_hostile_names_are_shown_not_run() -> None:
    tables = {"by_category": {HOSTILE: {"n": 5, "accuracy": 0.5}, "b": {"n": 5, "accuracy": 0.5}}}
    card = {"made_by": "train", "training": {"losses": [1.0, 0.5]}, "note": HOSTILE}
    label = {"accepted": 3, "flagged": {HOSTILE: 1}, "teacher": HOSTILE}
    view = a_view(
        a_row("baseline", scores(0.4, 0.3, 0.5, **tables)),
        a_row(HOSTILE, scores(0.8, 0.7, 0.9, **tables), "baseline", model=HOSTILE, card=card, artifacts={"m": HOSTILE}),
        name=HOSTILE,
        problems=(HOSTILE,),
        steps=(StepView(name=HOSTILE, stage="label", state="complete", facts=label),),
    )
    shown = page.html(build(view))
    seen = Links()
    seen.feed(shown)
    assert "script" not in seen.tags
    assert shown.count("&lt;script&gt;") > 5


def test_a_label_step_tells_what_became_of_its_questions_and_what_they_cost() -> None:
    facts = {
        "questions": 60, "accepted": 50, "flagged": {"votes disagree": 8, "too few usable votes": 2},
        "problems": {"blocked": 3}, "calls": 400, "tokens_in": 9000, "tokens_out": 800, "usd": 2.0, "replayed": 12,
    }  # fmt: skip
    steps = (StepView(name="labels", stage="label", state="complete", facts=facts),)
    report = build(a_view(*CLEAR, steps=steps))
    (labels,) = report["labels"]
    assert labels["usd_per_accepted"] == pytest.approx(0.04)
    assert label_line(labels) == (
        "labels: 50 of 60 questions accepted; votes disagree 8; too few usable votes 2; no usable answer: blocked 3; "
        "400 calls; $2.00, $0.04 an accepted label."
    )
    shown = page.html(json.loads(json.dumps(report)))
    assert "9,000 in, 800 out" in shown
    assert "blocked 3" in shown
    unpriced = build(a_view(*CLEAR, steps=(steps[0].model_copy(update={"facts": facts | {"usd": None}}),)))["labels"][0]
    assert label_line(unpriced).endswith("400 calls.")


def test_the_page_asks_the_network_for_nothing() -> None:
    shown = page.html(build(a_view(*CLEAR)))
    seen = Links()
    seen.feed(shown)
    assert seen.fetches == []
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    assert not re.search(r"https?://|@import|url\(", shown)
    assert "default-src 'none'" in shown


def test_the_page_can_be_drawn_from_report_json() -> None:
    report = build(a_view(*CLEAR))
    assert page.html(json.loads(json.dumps(report))) == page.html(report)


def test_the_facts_of_shards_add_up() -> None:
    merged = merge_facts([{"accepted": 3, "flagged": {"tie": 1}, "model": "m"}, {"accepted": 4, "flagged": {"tie": 2}}])
    assert merged == {"accepted": 7, "flagged": {"tie": 3}, "model": "m"}
    assert verdicts(merged) == [("accepted", 7), ("tie", 3)]


def test_what_is_no_sum_is_not_added_up() -> None:
    shards = [
        {"n": n, "questions_per_second": 2.5, "prompt_tokens": {"min": low, "mean": 90.5, "max": low + 20}, "gpu": True}
        for n, low in ((8, 80), (4, 70), (2, 95))
    ]
    empty = {"n": 0, "questions_per_second": 0.0, "prompt_tokens": None, "gpu": True}
    assert merge_facts([empty, *shards]) == {"n": 14, "prompt_tokens": {"min": 70, "max": 115}, "gpu": True}


def test_the_facts_of_one_shard_stay_as_they_are() -> None:
    facts = {"n": 8, "questions_per_second": 2.5, "prompt_tokens": {"min": 80, "mean": 90.5, "max": 100}, "card": None}
    assert merge_facts([facts]) == facts
    assert merge_facts([]) == {}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.percent(0.875), "87.5%"),
        (words.percent(None), "–"),
        (words.points(-0.031), "−3.1"),
        (words.points_interval([-0.03, 0.05]), "−3.0 to +5.0"),
        (words.p_value(0.00002), "< 0.001"),
        (words.size(3_400_000), "3.4 MB"),
        (words.size(999), "999 B"),
        (words.duration(125), "2 min 5 s"),
        (words.duration(7260), "2 h 1 min"),
        (words.per_question(0.0123), "12 ms"),
        (words.counted(1, "recording"), "1 recording"),
    ],
)
def test_figures_in_words(said: str, expected: str) -> None:
    assert said == expected


def _details(report: dict[str, Any]) -> list[str]:
    details: list[str] = report["headline"]["details"]
    return details


@pytest.mark.parametrize(
    ("state", "why", "said"),
    [
        ("promoted", "it keeps what the gate asks", "Promoted: it keeps what the gate asks."),
        ("refused", "max_drop 0.01: difference -0.0100", "Refused: max_drop 0.01"),
        ("measured", "no gate was set", "No gate was set."),
    ],
)
def test_what_a_quantised_row_kept_and_its_gates_word_stand_below_the_table(state: str, why: str, said: str) -> None:
    found = scores(0.84, 0.79, 0.89, parent=against(0.85, -0.01, 0.5), verdict=kept(state, why))
    report = build(a_view(*CLEAR[:3], a_row("B awq", found, "fine-tuned B", size_bytes=2_200_000)))
    line = next(line for line in report["headline"]["details"] if line.startswith("B awq keeps"))
    assert "keeps 98.8% (95.0–102.0) of fine-tuned B's accuracy; 9 of 240 answers are others (3 won, 6 lost)" in line
    assert "0.012 apart on average, 0.90 at most" in line
    assert said in line
    row = report["rows"][-1]
    assert row["kept"]["state"] == state
    assert ("refused" in marks(row)) == (state == "refused")
    assert line.replace("'", "&#39;") in page.html(report)


def test_questions_that_a_row_did_not_see_are_told_and_mark_its_score() -> None:
    made = build(a_view(a_row("baseline", scores(0.4, 0.3, 0.5, unseen={"questions": 3}))))
    assert marks(made["rows"][0]) == ["unseen"]
    (line,) = [line for line in made["caveats"] if "did not see" in line]
    assert line.startswith("baseline did not see 3 questions, whose clips do not decode")
    clean = build(a_view(a_row("baseline", scores(0.4, 0.3, 0.5, unseen={"questions": 0}))))
    assert marks(clean["rows"][0]) == []
    assert not [line for line in clean["caveats"] if "did not see" in line]
