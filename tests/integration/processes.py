"""The program's own processes on the servers of a test, each started as the Procfile does."""

import os
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import redis
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from services.local.stack import ROOT, free_port, procfile, redis_server
from shared.settings import Settings
from tests.waiting import wait_for


class Processes:
    """Starts processes in this environment, which has what labeler and augmenter need; ends what is left."""

    def __init__(self, config: Settings, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._started: list[subprocess.Popen[bytes]] = []

    def began(self, process: subprocess.Popen[bytes]) -> float:
        """When a worker began the task that it has in hand; 0 where it has none."""
        work = self._cache(self._started.index(process)) / "work"
        return max((space.stat().st_mtime for space in work.glob("*")), default=0.0)

    def _cache(self, number: int) -> Path:
        return self._folder / f"cache-{number}"

    def start(self, name: str, **changed: object) -> subprocess.Popen[bytes]:
        """A process of the Procfile, with some settings changed."""
        _, program, *words = shlex.split(procfile()[name])  # exec, .venvs/…/bin/…
        command = [sys.executable, "-m", "celery", *words] if program.endswith("/celery") else [sys.executable, *words]
        kept = {field: getattr(self._config, field) for field in self._config.model_fields_set}
        values = kept | {"cache_dir": self._cache(len(self._started))} | changed
        env = {f"ROADQA_{field.upper()}": _text(value) for field, value in values.items()}
        with (self._folder / f"{len(self._started)}-{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | env | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
            )
        self._started.append(process)
        return process

    def conductor(self, **changed: object) -> str:
        """Start one; returns the URL of its metrics."""
        port = free_port(0)
        self.start("conductor", metrics_port=port, **changed)
        return f"http://127.0.0.1:{port}/metrics"

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def metric(url: str, name: str, **labels: str) -> float | None:
    """One series of a conductor, as KEDA's metrics-api scaler finds it; None where there is none (KEDA: an error)."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((s.value for s in samples if s.name == name and labels.items() <= s.labels.items()), None)


class OwnRedis:
    """A server that a test may stop and start again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port(0)
        self.url = SecretStr(f"redis://127.0.0.1:{self.port}/0")
        self._command = [redis_server(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([*self._command, "--save", ""], stdout=subprocess.DEVNULL)
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis(port=self.port).ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


def age(file: Path) -> float:
    """Seconds since it was touched; without end where it does not exist."""
    return time.time() - file.stat().st_mtime if file.exists() else float("inf")


def beats(file: Path) -> None:
    """Wait for two touches after this moment."""
    for _ in range(2):
        before = file.stat().st_mtime_ns if file.exists() else 0
        wait_for(lambda before=before: file.exists() and file.stat().st_mtime_ns > before, seconds=30)
