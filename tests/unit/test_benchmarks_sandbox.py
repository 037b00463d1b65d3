"""The benchmarks that train the sandbox's model: their pipelines can be planned, and their judgement is right."""

from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from benchmarks import ablation, learning
from benchmarks.parts.preset import SEEDS, Answered, pooled, preset
from shared.pipeline import make_plan, parse_pipeline


def planned(pipeline: dict[str, Any]) -> Any:
    parsed = parse_pipeline(yaml.safe_dump(pipeline, sort_keys=False, allow_unicode=True), "test")
    return make_plan(parsed, {name: (name,) for name in parsed.data}, dict.fromkeys(parsed.models, "m"))


def test_each_lot_draws_other_scenes_and_trains_by_another_seed() -> None:
    drawn = [tuple(data["seed"] for data in preset(lot)["data"].values()) for lot in SEEDS]
    assert len({seed for seeds in drawn for seed in seeds}) == 3 * len(SEEDS)
    for lot in SEEDS:
        plan = planned(preset(lot))
        assert [node.recipe["seed"] for node in plan.nodes if node.stage == "train"] == [lot, lot]
        assert [row.name for row in plan.rows] == ["baseline", "prompt", "fine-tuned A", "fine-tuned B"]


@pytest.mark.parametrize("setting", ablation.SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_trains_and_asks_under_one_contract(setting: ablation.Setting) -> None:
    plan = planned(ablation.pipeline(setting, 1))
    videos = [node.recipe["video"] for node in plan.nodes if node.stage in ("train", "predict")]
    assert all(video == videos[0] for video in videos)
    assert all(videos[0][name] == value for name, value in setting.video.items())
    assert [row.name for row in plan.rows][-2:] == (
        ["fine-tuned A", "fine-tuned B"] if setting.own else ["prompt", "fine-tuned B"]
    )


def answered(right: list[int], seconds: float = 1.0) -> Answered:
    half = len(right) // 2
    return Answered(
        right, [f"rec{i // 4}" for i in range(len(right))], ["signs"] * half + ["lights"] * half,
        [0.5] * len(right), seconds,
    )  # fmt: skip


def test_lots_are_pooled_with_recordings_of_their_own() -> None:
    whole = pooled({0: answered([1] * 40), 1: answered([0] * 40, seconds=3.0)})
    score = whole.score()
    assert (score["accuracy"], score["n"], score["recordings"], whole.seconds) == (0.5, 80, 20, 2.0)
    assert score["by_category"] == {"lights": 0.5, "signs": 0.5}
    assert whole.categories()["signs"]["chance"] == 0.5


def scores(base: float, a: float, b: float) -> dict[str, Any]:
    return {
        short: {"accuracy": share, "ci95": [share - 0.03, share + 0.03]}
        for short, share in {"base": base, "a": a, "b": b}.items()
    }


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (scores(0.55, 0.75, 0.71), []),
        (scores(0.70, 0.90, 0.90), ["the base is not between 0.40 and 0.65"]),
        (scores(0.55, 0.75, 0.69), ["fine-tuned B gains +14.0 points, not 15"]),
        (scores(0.55, 0.60, 0.75),
         ["fine-tuned A gains +5.0 points, not 15", "fine-tuned A's interval meets the baseline's"]),
    ],
)  # fmt: skip
def test_what_is_short_is_said(found: dict[str, Any], said: list[str]) -> None:
    assert learning.faults(found) == said


def test_a_category_is_at_chance_where_no_model_is_above_a_guess() -> None:
    good, poor = {"ci95": [0.6, 0.8], "chance": 0.4}, {"ci95": [0.35, 0.5], "chance": 0.4}
    categories = {
        "base": {"x": poor, "y": poor}, "a": {"x": poor, "y": good}, "b": {"x": poor, "y": poor},
    }  # fmt: skip
    assert learning.at_chance(categories) == ["x"]


def test_every_row_stands_in_the_picture() -> None:
    own = {"prompt": answered([1, 0] * 24), "fine-tuned A": answered([1] * 48), "fine-tuned B": answered([1] * 48)}
    answers = {
        ablation.OWN.name: {0: own},
        "frames a second 4": {0: {name: own[name] for name in (ablation.BASE, ablation.B)}},
    }
    made = ablation.rows(answers)
    assert [(row["knob"], row["row"]) for row in made] == [
        *(("tokens a patch", name) for name in (ablation.BASE, ablation.B, ablation.A)),
        *(("frames a second", name) for name in (ablation.BASE, ablation.B)),
    ]
    assert [row["row"] for row in made if "against_own_b" in row] == ["fine-tuned A", "fine-tuned B"]
    drawn = ElementTree.fromstring(ablation.picture(made))
    assert len(drawn.findall(".//{*}g/{*}title")) == len(made)


def test_the_comparison_is_paired() -> None:
    found = ablation.against(answered([1, 1, 0, 1] * 12), answered([1, 0, 0, 1] * 12))
    assert (found["wins"], found["losses"], found["difference"]) == (12, 0, 0.25)
