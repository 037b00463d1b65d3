"""`make secrets`: random passwords where none are, and nothing that was there is touched."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import secrets
from services.local import stack
from shared import machine


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
    assert same == {
        "roadqa_s3_access_key", "roadqa_store_root_user", "roadqa_gemini_api_key", "roadqa_openai_api_key",
    }  # fmt: skip
    assert not first["roadqa_openai_api_key"]
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


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((secrets.ROOT / "pyproject.toml").read_text())["project"]
    assert secrets.version() == project["version"]


def test_where_linux_does_not_tell_the_processor_the_slow_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.vllm_lacks() == "nvfp4a16,mxfp4a16,awq,gptq"
    machine.CPUINFO.write_text("flags : sse2 avx512f\n")
    assert machine.vllm_lacks() == "nvfp4a16,mxfp4a16"


SOURCES = ("scripts/secrets.py", "shared/machine.py", "shared/__init__.py", "scripts/__init__.py")


def test_an_old_python_reads_it_all() -> None:
    """It may be the only one where images come ready from a registry."""
    for source in SOURCES:
        tree = ast.parse((secrets.ROOT / source).read_text(), feature_version=(3, 8))
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert imported <= {"os", "re", "secrets"}, source


@pytest.mark.parametrize("old", ["3.8", "3.9", "3.10"])
def test_an_old_python_writes_the_secrets(old: str, tmp_path: Path) -> None:
    python = shutil.which(f"python{old}")
    works = python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    if not works:
        pytest.skip(f"no Python {old} here; this is {sys.version.split()[0]}")
    for source in (*SOURCES, "compose/.env.example", "pyproject.toml"):
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(secrets.ROOT / source, tmp_path / source)
    done = subprocess.run(
        [str(python), "-m", "scripts.secrets"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "files written" in done.stdout
    assert f"ROADQA_VERSION={secrets.version()}\n" in (tmp_path / ".env").read_text()
