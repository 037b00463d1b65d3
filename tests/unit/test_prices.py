"""What tokens cost, by the table that ships and by one's own."""

from pathlib import Path

import pytest

from shared.contracts import TeacherRecipe
from shared.errors import UsageError
from shared.prices import TABLE, expected_tokens, read

PRICES = read(TABLE)


def test_the_default_teacher_and_the_sandboxs_have_a_price() -> None:
    assert {TeacherRecipe().model, "sandbox-teacher"} <= PRICES.models.keys()


def test_input_output_and_what_the_cache_held_have_prices_of_their_own() -> None:
    assert PRICES.usd("gemini-2.5-pro", 100_000, 10_000) == pytest.approx(0.125 + 0.1)
    assert PRICES.usd("gemini-2.5-pro", 100_000, 0, 80_000) == pytest.approx(0.025 + 0.01)


def test_a_long_request_has_the_long_rate_for_all_of_it() -> None:
    assert PRICES.usd("gemini-2.5-pro", 200_000, 0) == pytest.approx(0.25)
    assert PRICES.usd("gemini-2.5-pro", 200_001, 1000) == pytest.approx(0.5 + 0.015, rel=1e-4)


def test_batch_mode_costs_half() -> None:
    full = PRICES.usd("gemini-2.5-flash", 1000, 1000)
    assert full is not None
    assert PRICES.usd("gemini-2.5-flash", 1000, 1000, batch=True) == pytest.approx(full / 2)


def test_a_model_without_a_price_has_no_cost_rather_than_none() -> None:
    assert PRICES.usd("somebodys-model", 1, 1) is None


def test_what_a_request_is_expected_to_take() -> None:
    assert expected_tokens(10.0, TeacherRecipe(fps=2, thinking_budget=0), 400) == (20 * 258 + 100, 600)
    assert expected_tokens(10.0, TeacherRecipe(fps=2, thinking_budget=2000), 400)[1] == 2600


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("date: 2026-01-01\nbatch: 0.5\nmodels: {m: {input: 1.0, cached: 0.1}}\n", "models.m.output"),
        ("date: 2026-01-01\nbatch: 0.5\nmodels: {m: {input: -1, cached: 0, output: 0}}\n", "models.m.input"),
        ("date: [\n", "no table of prices"),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        read(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"none\.yaml"):
        read(tmp_path / "none.yaml")
