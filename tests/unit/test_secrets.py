"""`make secrets`: random passwords where none are, and nothing that was there is touched."""

from pathlib import Path

import pytest

from scripts import secrets
from services.local import stack


@pytest.fixture
def made(tmp_path: Path) -> Path:
    secrets.write(tmp_path / "secrets", tmp_path / ".env")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_second_time_changes_nothing(made: Path) -> None:
    before = contents(made)
    assert secrets.write(made / "secrets", made / ".env") == []
    assert contents(made) == before


def test_no_two_machines_share_a_password(made: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    secrets.write(other / "secrets", other / ".env")
    first, second = contents(made / "secrets"), contents(other / "secrets")
    same = {name for name in first if first[name] == second[name]}
    assert same == {"roadqa_s3_access_key", "roadqa_store_root_user", "roadqa_gemini_api_key"}
    assert first["roadqa_gemini_api_key"] == stack.SANDBOX_KEY
    assert all(len(first[name]) >= 32 for name in first.keys() - same)


def test_a_new_redis_password_comes_with_its_url(made: Path) -> None:
    (made / "secrets" / "redis_password").unlink()
    names = {path.name for path in secrets.write(made / "secrets", made / ".env")}
    assert names == {"redis_password", "roadqa_redis_url"}
    password = (made / "secrets" / "redis_password").read_text()
    assert (made / "secrets" / "roadqa_redis_url").read_text() == f"redis://:{password}@redis:6379/0"


def test_only_the_owner_enters_the_folder_and_env_holds_no_password(made: Path) -> None:
    assert (made / "secrets").stat().st_mode & 0o777 == 0o700
    env = (made / ".env").read_text()
    assert not [text for text in contents(made / "secrets").values() if len(text) > 20 and text in env]
    assert "ROADQA_VERSION=\n" not in env
