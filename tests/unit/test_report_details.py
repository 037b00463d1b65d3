"""The report's details: calibration, letters and changed answers, folded away, and of older scores none."""

import json
from typing import Any

import pytest

from services.cli import detail, page
from services.cli.insight import Pictures
from services.cli.report import RowView, build
from tests.unit.test_report import CLEAR, HOSTILE, Links, a_row, a_view, against, scores


def details(**more: Any) -> dict[str, Any]:
    """What evaluate says beside accuracy, since its version 5."""
    ends = {"ci95": [0.7, 0.9]}
    bins = [{"low": 0.6, "high": 0.7, "n": 40, "confidence": 0.66, "accuracy": 0.8, **ends},
            {"low": 0.9, "high": 1.0, "n": 200, "confidence": 0.97, "accuracy": 0.86, **ends}]  # fmt: skip
    places = [
        {"answer": 0.5, "chosen": 0.58, "expected": 0.5, "excess": 0.08, "ci95": [0.02, 0.14]},
        {"answer": 0.5, "chosen": 0.42, "expected": 0.5, "excess": -0.08, "ci95": [-0.14, 0.01]},
    ]
    group = {"n": 120, "recordings": 30, "accuracy": 0.85, "ci95": [0.78, 0.92]}
    return {
        "calibration": {"ece": 0.115, "floor": 0.02, "confidence": 0.92, "gap": 0.07, "ci95": [0.03, 0.11]}
        | {"bins": bins},
        "positions": {"confusion": [[110, 10], [29, 91]], "places": places, "leaning": [0]},
        "by_choices": {"2": group, "4": group | {"accuracy": None}}, "by_origin": {"human": group},
    } | more  # fmt: skip


def a_change(number: int, text: str = "What may the car do?") -> dict[str, Any]:
    clip = {"digest": f"{number:064x}", "name": f"clip{number}.mp4", "recording": "r", "width": 384, "height": 256}
    return {"question": f"q{number}", "text": text, "choices": ["go", "", "stop"], "category": "rule", "answer": 2,
            "clip": clip, "before": {"choice": 0, "confidence": 0.6},
            "now": {"choice": 2, "confidence": 0.9}}  # fmt: skip


def with_details(text: str = "What may the car do?") -> list[RowView]:
    """CLEAR's rows; the tuned one tells all that evaluate does, the others are of an older version."""
    parent = against(0.42, 0.43, 1e-9) | {"wins": 110, "losses": 7, "p_mcnemar": 1e-20}
    parent["changed"] = {"won": [a_change(1, text), a_change(2)], "lost": []}
    rows = list(CLEAR)
    rows[2] = a_row("fine-tuned B", scores(0.85, 0.80, 0.90, parent=parent, **details()), "prompt")
    return rows


def test_the_page_folds_calibration_letters_and_changed_answers_away() -> None:
    report = build(a_view(*with_details()))
    frames = {
        f"{1:064x}": Pictures(("data:image/jpeg;base64,AAAA",) * 3, None),
        f"{2:064x}": Pictures((), "it is damaged"),
    }
    shown = page.html(report, frames)
    seen = Links()
    seen.feed(shown)
    assert seen.fetches == ["data:image/jpeg;base64,AAAA"] * 3
    assert "img-src data:" in shown
    for part in (
        "overconfident", "letters: A +8.0", "<td class=\"number\">11.5%</td>", "200 questions: 97.0% sure, 86.0% right",
        "110 questions from wrong to right, 7 from right to wrong", "No picture: it is damaged", "C. stop ✓",
        "By number of choices",
    ):  # fmt: skip
        assert part in shown, part
    assert "By origin" not in shown  # one group tells nothing
    assert shown.count('class="reliability"') == 1
    assert seen.tags.count("circle") == len(report["rows"]) + 2


def test_a_mark_stands_where_its_bin_is() -> None:
    (low, high) = detail.reliability(details()["calibration"])
    left, top, right, bottom = detail.EDGES
    assert high.x == pytest.approx(left + 0.97 * (right - left))
    assert high.y == pytest.approx(bottom - 0.86 * (bottom - top), abs=0.05)
    assert high.low > high.y > high.high
    assert high.bar == pytest.approx(5 * low.bar)


def test_few_questions_show_no_liking_and_no_overconfidence() -> None:
    found = scores(0.85, 0.80, 0.90, n=10, claim="n = 10: too few to claim anything", **details())
    (row,) = build(a_view(a_row("baseline", found)))["rows"]
    assert (detail.sureness(row), detail.leaning(row)) == ("too few to tell", "too few to tell")


def test_report_json_has_intervals_of_groups_and_mcnemars_test() -> None:
    report = json.loads(json.dumps(build(a_view(*with_details()))))
    tuned = report["rows"][2]
    assert (tuned["wins"], tuned["losses"], tuned["p_mcnemar"]) == (110, 7, 1e-20)
    assert tuned["calibration"]["ece"] == 0.115
    assert report["rows"][0]["calibration"] is None
    assert report["by_choices"]["groups"][0] == {
        "name": "2", "n": 120, "accuracy": [None, None, 0.85, None], "ci95": [None, None, [0.78, 0.92], None]
    }  # fmt: skip


def test_frames_are_taken_once_for_each_clip_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = build(a_view(*with_details()))["rows"]
    rows[3]["changed"] = {"won": [], "lost": [a_change(2), a_change(3)]}
    asked: list[str] = []
    monkeypatch.setattr(detail, "pictures", lambda _, digest: asked.append(digest) or Pictures((), "none"))
    told: list[tuple[str, int, int]] = []
    taken = detail.frames(None, rows, lambda *what: told.append(what))  # type: ignore[arg-type]
    assert asked == list(taken) == [f"{number:064x}" for number in (1, 2, 3)]
    assert told[-1] == ("pictures", 3, 3)


def test_hostile_questions_are_shown_not_run() -> None:
    report = json.loads(json.dumps(build(a_view(*with_details(HOSTILE)))))
    shown = page.html(report)
    seen = Links()
    seen.feed(shown)
    assert not {"script", "img"} & set(seen.tags)
    assert "&lt;script&gt;" in shown
