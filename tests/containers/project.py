"""A copy of the project with secrets of its own, Compose on it, and what its images and containers are held to."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.secrets import version
from tests.containers import layers
from tests.containers.engine import ROOT, STATE, Engine, base_images

WORKERS = ("labeler", "augmenter", "trainer", "quantizer", "inference")
IMAGES = ("store-volume", *WORKERS)  #: the services that build them
PREFIX = "roadqa-test/"  #: before our images' names: an engine may hold others that are in use


class Project:
    """A copy of the project with secrets of its own, and Compose on it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder

    def compose(self, *words: object, capture: bool = False) -> str:
        return self.engine.docker(
            "compose", "-p", "roadqa-test", "--project-directory", self.folder, *self._files(), *words, capture=capture
        )

    def _files(self) -> list[object]:
        override = self.folder / "standins.yaml"
        return ["-f", self.folder / "compose.yaml", *(["-f", override] if override.exists() else [])]

    def roadqa(self, *words: object) -> str:
        """The CLI in its container; what it printed."""
        return self.compose("run", "--rm", "-T", "cli", *words, capture=True)

    def remove(self) -> None:
        self.compose("--profile", "*", "down", "-v", "--timeout", "20")

    def inspect(self, service: str, what: str) -> str:
        container = self.compose("--profile", "*", "ps", "-aq", service, capture=True).strip()
        return self.engine.docker("inspect", "-f", what, container, capture=True).strip()

    def image(self, service: str) -> str:
        found: str = yaml.safe_load(self.compose("--profile", "*", "config", capture=True))["services"][service][
            "image"
        ]
        return found

    @property
    def passwords(self) -> list[str]:
        """The random ones; a user's name may stand anywhere."""
        texts = [path.read_text() for path in (self.folder / "compose" / "secrets").iterdir()]
        return [text for text in texts if len(text) > 20]

    def check_image(self, service: str) -> None:
        """It is tagged with the version, runs as nobody, and no password is in any layer."""
        image = self.image(service)
        (config,) = json.loads(self.engine.docker("image", "inspect", image, capture=True))
        assert config["Config"]["User"] == "10001:10001"
        assert config["Config"]["Labels"]["org.opencontainers.image.version"] == image.split(":")[1] == version()
        told = self.engine.docker("history", "--no-trunc", image, capture=True) + json.dumps(config)
        assert not [password for password in self.passwords if password in told]
        with self.engine.reading("save", image) as saved:
            assert layers.found(saved, self.passwords) == set()

    def check_container(self, service: str) -> None:
        """It is hardened, and it is well."""
        said = json.loads(self.inspect(service, "{{json .}}"))
        host, user = said["HostConfig"], "999:999" if service == "redis" else "10001:10001"
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert 0 < host["PidsLimit"] <= 2048
        assert not host["Privileged"]
        assert said["Config"]["User"] == user
        assert self._running_as(said["Id"]) == {int(user.split(":")[0])}
        assert said["State"]["Health"]["Status"] == "healthy"
        assert not [password for password in self.passwords if password in json.dumps(said)]  # argument or variable

    def _running_as(self, container: str) -> set[int]:
        """The users of the container's processes, as the kernel has them."""
        listed = self.engine.docker("top", container, "-eo", "pid,uid", capture=True)
        return {int(line.split()[1]) for line in listed.splitlines()[1:]}


def copy(engine: Engine) -> Project:
    """A fresh copy, with what a killed run left behind taken away and its base images there.

    Raises:
        NoEngineError: base images cannot be had.
    """
    folder = STATE / "project"
    shutil.rmtree(folder, ignore_errors=True)
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(
        [sys.executable, "-m", "scripts.secrets"], cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    base_images(engine, _bases(folder / ".env"))
    with (folder / ".env").open("a") as env:
        env.write(f"ROADQA_REGISTRY={PREFIX}\n")
        if engine.standins:
            (folder / "standins.yaml").write_text(yaml.safe_dump(_override()))
            env.write("ROADQA_CPU_INDEX=\n")  # pip finds the CPU builds without it
    made = Project(engine, folder)
    made.remove()
    return made


def _bases(env: Path) -> dict[str, str]:
    values = dict(line.split("=", 1) for line in env.read_text().splitlines() if "=" in line and line[0] != "#")
    return {kind: values[f"ROADQA_{kind.upper()}_IMAGE"] for kind in ("python", "redis", "store")}


def _override() -> dict[str, Any]:
    """What stand-ins need beside the project's own compose file."""
    services: dict[str, Any] = {name: {"build": {"network": "host"}} for name in IMAGES}
    services["store"] = {"secrets": ["roadqa_s3_access_key", "roadqa_s3_secret_key"]}
    services["setup"] = {"command": ["--bucket-only"]}  # SeaweedFS has no MinIO admin API
    return {"services": services}
