"""`make test` and its parts, each with its minutes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from scripts.environments import ENVIRONMENTS, ROOT

SERVICES = ENVIRONMENTS[0].python
_WITH_TOOLS = ("tests/unit/test_compose.py", "tests/unit/test_alerts.py")
_WORKERS = {env.name: env.python for env in ENVIRONMENTS[1:]}


class Step(NamedTuple):
    """One command of a part."""

    what: str
    command: tuple[object, ...]


def _pytest(python: Path, *paths: str) -> tuple[object, ...]:
    return (python, "-m", "pytest", *paths)


def _worker_units() -> list[Step]:
    folders = {"vlm": "inference"}  # which worker's environment runs a folder that is not named after one
    found = []
    for folder in sorted((ROOT / "tests" / "unit").iterdir()):
        worker = folders.get(folder.name, folder.name)
        if folder.is_dir() and worker in _WORKERS and any(folder.glob("test_*.py")):
            found.append(Step(f"unit {folder.name}", _pytest(_WORKERS[worker], f"tests/unit/{folder.name}")))
    return found


def parts() -> dict[str, list[Step]]:
    """Part → its commands."""
    ignored = [f"--ignore=tests/unit/{step.what.removeprefix('unit ')}" for step in _worker_units()]
    return {
        "check": [
            Step("ruff", (SERVICES, "-m", "ruff", "check", ".")),
            Step("ruff format", (SERVICES, "-m", "ruff", "format", "--check", "-q", ".")),
            Step("mypy", (SERVICES, "-m", "mypy")),
            Step("import-linter", (SERVICES.parent / "lint-imports", "--no-cache")),
            Step(
                "hadolint",
                (
                    SERVICES.parent / "hadolint",
                    *sorted(ROOT.glob("workers/*/Dockerfile")),
                    ROOT / "services" / "Dockerfile",
                ),
            ),
            Step("stage versions", (SERVICES, "-m", "scripts.stage_versions")),
            Step("docs", (SERVICES, "-m", "scripts.docs", "--check")),
        ],
        "unit": [Step("unit", _pytest(SERVICES, "tests/unit", *ignored)), *_worker_units()],
        "integration": [Step("integration", _pytest(SERVICES, "tests/integration"))],
        "e2e": [Step("e2e", _pytest(SERVICES, "tests/e2e"))],
        # and those unit tests that skip what they have no tools for: now they have them
        "core": [Step("containers: core", _pytest(SERVICES, "tests/containers/test_core.py", *_WITH_TOOLS, "-rs"))],
        "containers": [Step("containers", _pytest(SERVICES, "tests/containers", *_WITH_TOOLS, "-s"))],
    }


def main() -> None:
    """Run the named parts, or all that `make test` means; stop at the first failure."""
    wanted = sys.argv[1:] or ["check", "unit", "integration", "e2e", "core"]
    minutes = []
    for part in wanted:
        started = time.monotonic()
        for step in parts()[part]:
            print(f"== {part}: {step.what}", flush=True)
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            code = subprocess.run([str(word) for word in step.command], cwd=ROOT, env=env, check=False).returncode
            if code:
                sys.exit(f"{part}: {step.what} failed ({code})")
        minutes.append(f"{part} {(time.monotonic() - started) / 60:.1f} min")
    print("all passed: " + ", ".join(minutes))


if __name__ == "__main__":
    main()
