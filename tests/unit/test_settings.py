"""Settings that cannot work are refused in one line that names the variable, and never show a secret."""

import traceback
from pathlib import Path

import pytest

from shared import settings
from shared.errors import BrokerError, UsageError
from shared.lease import Board
from shared.settings import Settings, own_settings


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        own_settings()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_the_conductor_sleeps_for_less_than_redis_may_take_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ROADQA_TICK_SECONDS is 10" in refused(monkeypatch, ROADQA_TICK_SECONDS="10")
    monkeypatch.setenv("ROADQA_TICK_SECONDS", "9")
    assert own_settings().tick_seconds < settings.REDIS_SECONDS


def test_a_lease_outlives_three_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(monkeypatch, ROADQA_HEARTBEAT_SECONDS="20")
    assert "ROADQA_HEARTBEAT_SECONDS is 20, ROADQA_LEASE_SECONDS 15" in said
    assert "a third" in said
    monkeypatch.setenv("ROADQA_LEASE_SECONDS", "60")
    assert own_settings().heartbeat_seconds == 20


def test_a_value_of_the_wrong_kind_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(monkeypatch, ROADQA_ENGINES="many")
    assert said.startswith("ROADQA_ENGINES: ")


def test_the_process_refuses_such_settings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROADQA_TICK_SECONDS", "600")
    settings.settings.cache_clear()
    with pytest.raises(UsageError, match="ROADQA_TICK_SECONDS is 600"):
        settings.settings()


def test_a_mounted_secret_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "roadqa_gemini_api_key").write_text("mounted\n")
    monkeypatch.setattr(settings, "SECRETS", tmp_path)
    assert own_settings().gemini_api_key.get_secret_value() == "mounted"
    monkeypatch.setenv("ROADQA_GEMINI_API_KEY", "exported")
    assert own_settings().gemini_api_key.get_secret_value() == "exported"


@pytest.mark.parametrize("special", ["/", "#"])
def test_a_password_that_breaks_the_url_is_not_shown(special: str) -> None:
    url = f"redis://:s3cr{special}et@127.0.0.1:6379/0"
    with pytest.raises(BrokerError) as caught:
        Board(Settings.model_validate({"redis_url": url}))
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))
    assert "ROADQA_REDIS_URL" in str(caught.value)
    assert "percent-encode" in str(caught.value)
