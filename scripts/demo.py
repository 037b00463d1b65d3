"""`make demo`: the local stack, the sandbox pipeline through every stage, its table and its report."""

import json
import os
import shutil
import subprocess
import sys
import time

from scripts.environments import ROOT
from services.local import stack
from shared.errors import RoadQAError

DEMO = ROOT / "demo"
STATE = ROOT / ".state"


def main() -> None:
    """Start what is not running, run the preset, write demo/, stop what was started."""
    started = time.monotonic()
    with stack.borrowed(STATE) as env:
        _run(env)
    used = sum(path.lstat().st_size for path in STATE.rglob("*") if path.is_file())
    disk = shutil.disk_usage(ROOT).free
    print(
        f"\ndemo/report.html, demo/report.json, demo/submission.csv: {time.monotonic() - started:.0f} s in all; ",
        end="",
    )
    print(f"{used / 1e9:.1f} GB in .state/, {disk / 1e9:.0f} GB of disk left")


def _run(env: dict[str, str]) -> None:
    run = roadqa(env, "run", "--preset", "sandbox", capture=True).strip().splitlines()[-1]
    print(f"run {run}", flush=True)
    DEMO.mkdir(exist_ok=True)
    roadqa(env, "watch", run)
    roadqa(env, "report", run, "--html", str(DEMO / "report.html"), "--submission", str(DEMO / "submission.csv"))
    report = roadqa(env, "report", run, "--json", capture=True)
    json.loads(report)
    (DEMO / "report.json").write_text(report, encoding="utf-8")


def roadqa(env: dict[str, str], *words: str, capture: bool = False) -> str:
    """Run a command on the stack of `env`; with `capture`, returns what it printed.

    Raises:
        RoadQAError: it failed.
    """
    command = [sys.executable, "-m", "services.cli.main", *words]
    done = subprocess.run(
        command,
        env={**os.environ, **env},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE if capture else None,
        check=False,
    )
    if done.returncode:
        raise RoadQAError(f"`roadqa {' '.join(words[:2])}` ended with {done.returncode}; logs are in {STATE / 'logs'}")
    return done.stdout or ""


if __name__ == "__main__":
    with stack.one_line_errors():
        main()
