"""`roadqa run --plan`: what fits, what is refused and what would fit, known before anything is in the store."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from services.cli import forecast, memory, pace, runs
from services.cli.ground import Found, Past
from services.cli.main import main
from services.cli.memory import Devices, Load, Setting, need, parse_devices, remedies, verdict
from services.cli.rowcount import Reach, load, longest, rows_an_epoch
from shared import footprint, published
from shared.budget import VideoBudget
from shared.contracts import LoraRecipe, Portion, QuantizeRecipe, TrainRecipe
from shared.errors import UsageError
from shared.pipeline import Pipeline, parse_pipeline
from shared.run import Result
from shared.schema import Choice, Clip, Origin, Question
from shared.spread import Spread

EIGHT_B = footprint.model(published.SIZES["8B"])
SETTING = Setting(TrainRecipe(video=VideoBudget(max_frames=64)), 2)
FULL = Load(32, 768, 600)  #: a clip of 32 s
NOWHERE = "127.0.0.1:9"


def plan(pipeline: Pipeline, devices: str | None) -> forecast.Forecast:
    where = parse_devices(devices) if devices else Devices(1, None)
    return forecast.forecast(None, pipeline, where, devices)


@pytest.mark.parametrize(
    ("text", "count", "gib"), [("8x80GB", 8, 80), ("24 GB", 1, 24), ("2×141GiB", 2, 141), ("4x47.5g", 4, 47.5)]
)
def test_devices_are_read(text: str, count: int, gib: float) -> None:
    assert parse_devices(text) == Devices(count, gib * memory.GIB)


def test_processes_without_an_accelerator_have_no_memory_of_their_own() -> None:
    assert parse_devices("2xCPU") == Devices(2, None, cuda=False)


@pytest.mark.parametrize("text", ["", "80", "0x80GB", "00x80GB", "8x0GB", "8x0.0GB", "x80GB", "8x80TB", "-1x24GB"])
def test_devices_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="8x80GB"):
        parse_devices(text)


@pytest.mark.parametrize("devices", ["8x80GB", "1x80GB", "4x48GB", "1x24GB"])
def test_each_remedy_is_a_change_that_fits(devices: str) -> None:
    where = parse_devices(devices)
    assert verdict(need(EIGHT_B, SETTING, FULL, where), where) == "does not fit"
    proposed = remedies(EIGHT_B, SETTING, FULL, where)
    assert proposed
    for words in proposed:
        changed = applied(words.split(" and ")[0])
        assert verdict(need(EIGHT_B, changed, FULL, where), where) == "fits", words


def applied(words: str) -> Setting:
    """The setting with a remedy's changes written into it, as a user would."""
    values: dict[str, Any] = SETTING.recipe.model_dump()
    micro_batch = SETTING.micro_batch
    for change in words.split(" with "):
        if change.startswith("ROADQA_TRAINER_MICRO_BATCH="):
            micro_batch = int(change.partition("=")[2])
            continue
        written = parse_pipeline(f"name: p\ndata: {{}}\nmodels: {{}}\nsteps: {{s: {{{change}}}}}", "p").steps["s"]
        for name, value in written.items():
            values[name] = values[name] | value if name == "video" else value
    return Setting(TrainRecipe.model_validate(values), micro_batch)


def test_where_nothing_helps_nothing_is_proposed() -> None:
    assert remedies(EIGHT_B, SETTING, FULL, parse_devices("1x1GB")) == []


def test_the_seed_preset_fits_eight_cards_but_for_the_longest_clips() -> None:
    seed = runs.read_pipeline(None, "seed")
    found = plan(seed, "8x80GB")
    assert [one.step for one in found.training] == ["fine-tuned A", "fine-tuned B"]
    assert {one.verdict for one in found.training} <= {"fits", "long clips do not fit"}
    assert found.training[0].processes * found.training[0].micro_batch == 16
    forecast.check(found)
    assert found.training[0].checkpoint_bytes == 14 * EIGHT_B.total  # the 120 GB of an 8B with its optimiser
    assert found.storage.checkpoints == 28 * EIGHT_B.total
    assert [(one.scheme, round(one.bytes_before / one.bytes_after, 2)) for one in found.quantising] == [
        ("nvfp4a16", 2.32),
        ("awq", 2.42),
    ]


def test_the_seed_preset_is_refused_on_one_small_card_with_what_would_fit() -> None:
    found = plan(runs.read_pipeline(None, "seed"), "1x24GB")
    with pytest.raises(UsageError, match=r"fine-tuned A: needs 18\d\.\d GiB .*would fit: .*zero3-offload.*lora"):
        forecast.check(found)


def test_without_devices_nothing_is_judged() -> None:
    found = plan(runs.read_pipeline(None, "seed"), None)
    assert {one.verdict for one in found.training} == {None}
    forecast.check(found)


def test_what_does_not_divide_into_groups_is_refused_by_its_layer(tmp_path: Path) -> None:
    odd = published.SIZES["8B"] | {"text_config": published.SIZES["8B"]["text_config"] | {"intermediate_size": 12256}}
    pipeline = parse_pipeline(
        "name: p\ndata: {d: d}\nmodels: {m: Qwen3-VL-8B-Instruct}\n"
        "steps: {q: {stage: quantize, model: m, scheme: awq, data: d}}",
        "p",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "find", lambda _: odd)
        found = plan(pipeline, None)
    with pytest.raises(UsageError, match=r"steps.q: model.language_model.layers.0.mlp.down_proj: in_features 12256"):
        forecast.check(found)


def test_the_command_needs_no_store_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.cli.main.store", _no_store)
    done = CliRunner().invoke(main, ["run", "--preset", "seed", "--plan", "--devices", "8x80GB", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["training"][0]["memory"]["weights"] == 2 * EIGHT_B.total
    assert any("'public-test' is not in the store" in line for line in told["missing"])
    small = CliRunner().invoke(main, ["run", "--preset", "seed", "--plan", "--devices", "1x24GB"])
    assert small.exit_code == 2
    assert "does not fit" in small.stdout
    assert small.stderr.count("\n") == 1


def _no_store() -> None:
    from shared.errors import StoreError

    raise StoreError("no store")


def test_devices_are_for_a_plan() -> None:
    done = CliRunner().invoke(main, ["run", "--preset", "seed", "--devices", "8x80GB"])
    assert (done.exit_code, "--plan" in done.stderr) == (2, True)


# --- rows ------------------------------------------------------------------------------------------


def clip(seconds: float, digest: str = "0" * 64) -> Clip:
    return Clip(digest=digest, name="c", recording="r", size_bytes=10, seconds=seconds, fps=30, width=1280, height=720,
                codec="h264")  # fmt: skip


def question(number: int, answer: int | None, **origin: Any) -> Question:
    choices = tuple(Choice(label=label, text=label) for label in "AB")
    made = Origin(answer="none" if answer is None else "human", **origin)
    return Question(id=f"q{number}", clip="0" * 64, text="?", choices=choices, answer=answer, origin=made)


def test_a_step_sees_at_most_what_the_steps_before_it_can_make() -> None:
    answered = [question(n, 0) for n in range(3)]
    open_ = [question(n, None) for n in range(3, 7)]
    data = {
        "train": Found(("a",), tuple(answered), {"0" * 64: clip(8)}),
        "test": Found(("b",), tuple(open_), {"0" * 64: clip(8)}),
    }
    steps = {
        "labels": {"stage": "label", "data": "test"},
        "more": {"stage": "augment", "data": ["train", "labels"], "per_question": 2},
        "t": {"stage": "train", "data": ["train", "labels", "more"]},
        "blind": {"stage": "train", "data": ["train", "gone"]},
    }
    reach = Reach(data, steps)
    rows = reach.of("t")
    assert rows is not None
    assert rows.answered == {"human": 3, "teacher": 4, "augmented": 14}
    assert reach.of("blind") is None
    mixed = TrainRecipe(mix={"augmented": Portion(weight=0.5, cap=10), "teacher": Portion(weight=2)})
    assert rows_an_epoch(rows, mixed) == 3 + 8 + 5


def test_the_longest_row_is_that_of_the_longest_clip() -> None:
    budget = VideoBudget(tokens_per_patch=768)
    assert load(clip(8), budget)[:2] == (8, 40 * 22)
    data = Found(("a",), (question(0, 0),), {"0" * 64: clip(8), "1" * 64: clip(20, "1" * 64)})
    rows = Reach({"d": data}, {"t": {"stage": "train", "data": "d"}}).of("t")
    assert longest(rows, TrainRecipe(video=budget)).batch(SETTING, Devices(8, None)).visual == 20 * 768
    small = clip(300, "1" * 64).model_copy(update={"width": 320, "height": 192})  # 300 patches of 60: 18,000
    data = Found(("a",), (question(0, 0),), {"0" * 64: clip(40), "1" * 64: small})  # 40 of 768, cut to 8,192 a clip
    rows = Reach({"d": data}, {"t": {"stage": "train", "data": "d"}}).of("t")
    found = longest(rows, TrainRecipe(video=budget.model_copy(update={"tokens_per_clip": 8192})))
    assert found.patches == 300  # as many visual tokens at most, and more words between them
    assert longest(None, SETTING.recipe).batch(SETTING, Devices(8, None)).visual == 24576


# --- paces -----------------------------------------------------------------------------------------


def past(recipe: TrainRecipe, **facts: Any) -> Past:
    result = Result(artifact="a", stage="train", facts=facts, seconds=9.0, attempt=1)
    return Past("run-1", "t", recipe.model_dump(mode="json"), published.SIZES["8B"], result)


def test_ones_own_training_tells_the_pace_of_its_like_alone() -> None:
    done = past(SETTING.recipe, processes=8, gpu="H100", pace={"samples_per_second": 3.5})
    dealt = Spread(8, 2, 1)
    found = pace.training([done], EIGHT_B, SETTING.recipe, dealt, 25000, cuda=True)
    assert found == (3.5, "t of run run-1, on 8 × H100")
    other_cap = SETTING.recipe.model_copy(update={"video": VideoBudget(tokens_per_patch=256)})
    assert pace.training([done], EIGHT_B, other_cap, dealt, 25000, cuda=True) is None
    assert pace.training([done], EIGHT_B, SETTING.recipe, Spread(4, 2, 2), 25000, cuda=True) is None
    assert (
        pace.training([done], footprint.model(published.SIZES["4B"]), SETTING.recipe, dealt, 25000, cuda=True) is None
    )


def test_a_cpus_pace_is_no_gpus_and_the_other_way_round() -> None:
    done = past(SETTING.recipe, processes=2, pace={"samples_per_second": 0.1})
    dealt = Spread(2, 2, 4)
    assert pace.training([done], EIGHT_B, SETTING.recipe, dealt, 25000, cuda=True) is None
    assert pace.training([done], EIGHT_B, SETTING.recipe, dealt, 25000, cuda=False) is not None
    lora = SETTING.recipe.model_copy(update={"lora": LoraRecipe()})
    assert pace.training([], EIGHT_B, lora, Spread(1, 2, 8), 6300, cuda=False) is None


def test_a_past_training_of_another_architecture_tells_nothing() -> None:
    done = past(SETTING.recipe, processes=8, gpu="H100", pace={"samples_per_second": 3.5})
    done = done._replace(config={"model_type": "qwen3_vl_moe"})
    assert pace.training([done], EIGHT_B, SETTING.recipe, Spread(8, 2, 1), 25000, cuda=True) is None


def test_a_mixture_of_experts_is_planned_without_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "find", lambda _: {"model_type": "qwen3_vl_moe"})
    found = plan(runs.read_pipeline(None, "seed"), "8x80GB")
    assert found.training == ()
    assert any("the memory of a qwen3_vl_moe is not reckoned" in line for line in found.missing)


def test_the_benchmark_tells_the_pace_of_rows_like_its_own() -> None:
    lora = SETTING.recipe.model_copy(update={"lora": LoraRecipe()})
    alone = Spread(1, 2, 8)
    found = pace.training([], EIGHT_B, lora, alone, 6300, cuda=True)
    assert found is not None
    assert found.samples_per_second == pytest.approx(0.61, abs=0.01)
    assert "H200" in found.source
    assert pace.training([], EIGHT_B, lora, alone, 25000, cuda=True) is None
    assert pace.training([], EIGHT_B, lora, Spread(8, 2, 1), 6300, cuda=True) is None
    assert pace.training([], EIGHT_B, SETTING.recipe, alone, 6300, cuda=True) is None


def test_a_quantisation_that_was_never_done_has_no_time() -> None:
    assert pace.quantising([], EIGHT_B, QuantizeRecipe(scheme="nvfp4a16")) == (None, None)
