"""Which teacher the settings make, and what they lack."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import settings as module
from shared.context import FolderScratch
from shared.contracts import TeacherRecipe
from shared.errors import UsageError
from shared.settings import settings
from shared.teachers import BatchTeacher, from_settings
from shared.teachers.gemini import GeminiTeacher
from shared.teachers.openai_compatible import OpenAITeacher

GEMINI, OPENAI = TeacherRecipe(), TeacherRecipe(provider="openai", model="m")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No settings but the test's own, and none left behind."""
    monkeypatch.setitem(module.Settings.model_config, "env_file", None)
    monkeypatch.setattr(module, "SECRETS", tmp_path / "secrets")
    settings.cache_clear()
    yield
    settings.cache_clear()


def made(recipe: TeacherRecipe, folder: Path) -> type:
    async def make() -> type:
        teacher = from_settings(recipe, FolderScratch(folder))
        await teacher.aclose()
        return type(teacher)

    return asyncio.run(make())


def test_the_provider_and_the_settings_choose_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADQA_GEMINI_API_KEY", "k")
    monkeypatch.setenv("ROADQA_OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert made(GEMINI, tmp_path) is GeminiTeacher
    assert made(OPENAI, tmp_path) is OpenAITeacher
    monkeypatch.setenv("ROADQA_TEACHER_BATCH", "true")
    settings.cache_clear()
    assert made(GEMINI, tmp_path) is BatchTeacher
    with pytest.raises(UsageError, match="unset ROADQA_TEACHER_BATCH"):
        made(OPENAI, tmp_path)


@pytest.mark.parametrize(("recipe", "lacks"), [(GEMINI, "ROADQA_GEMINI_API_KEY"), (OPENAI, "ROADQA_OPENAI_BASE_URL")])
@pytest.mark.parametrize("batch", ["false", "true"])
def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: TeacherRecipe, lacks: str, batch: str
) -> None:
    monkeypatch.setenv("ROADQA_TEACHER_BATCH", batch)
    with pytest.raises(UsageError, match=lacks if batch == "false" or recipe is GEMINI else "ROADQA_TEACHER_BATCH"):
        made(recipe, tmp_path)


def test_a_key_may_be_a_mounted_file_and_shows_in_no_text(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "roadqa_openai_api_key").write_text("planted")
    assert settings().openai_api_key.get_secret_value() == "planted"
    assert "planted" not in repr(settings())
