"""Real servers for tests: one Redis and one S3 server on free loopback ports, stopped by pid."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from shared.settings import Settings

# The same cases each time: what passed yesterday and fails today was changed. `make prove` draws others.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def settings_of(env: dict[str, str], **changed: object) -> Settings:
    """Settings from a stack's environment, with some changed."""
    values = {k.removeprefix("ROADQA_").lower(): v for k, v in env.items() if k.startswith("ROADQA_")}
    return Settings.model_validate(values | changed)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Redis and the S3 server, without conductor and workers; their environment."""
    from services.local import stack  # the workers' environments run other tests and lack its libraries

    state = tmp_path_factory.mktemp("stack")
    env = stack.up(state, only=("redis", "store"))
    yield env
    stack.down(state)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips; tests that need it skip where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}")
    return folder


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests say what they are set to; nothing leaks in from the shell."""
    for name in [name for name in os.environ if name.startswith("ROADQA_")]:
        monkeypatch.delenv(name)
