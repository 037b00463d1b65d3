"""Programs that no lock file can bring: found on this machine, or where tests/containers has put them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

#: What tests/containers keeps from one run to the next: images, Compose, promtool. Outside the checkout, which images
#: are built from.
STATE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadqa-containers"
UNPACKED = STATE / "apt" / "unpacked"
DOCKER_CONFIG = STATE / "config"


def promtool() -> Path:
    """Prometheus' own checker; the test that asks for it is skipped where there is none."""
    found = shutil.which("promtool") or shutil.which(UNPACKED / "usr/bin/promtool")
    if not found:
        pytest.skip("no promtool here: `make test-containers` brings one on Debian, as does `apt-get install promtool`")
    return Path(found)


def compose() -> dict[str, str]:
    """The environment in which `docker compose` works; the test that asks for it is skipped where it does not."""
    for more in ({}, {"DOCKER_CONFIG": str(DOCKER_CONFIG)}):
        env = {**os.environ, **more}
        if shutil.which("docker") and _composes(env):
            return env
    pytest.skip("no `docker compose` here; `make test-containers` brings one on Debian")


def _composes(env: dict[str, str]) -> bool:
    asked = subprocess.run(["docker", "compose", "version"], env=env, capture_output=True, check=False)
    return asked.returncode == 0
