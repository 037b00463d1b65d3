"""The images are built, and the sandbox pipeline runs through `docker compose`, a worker's container killed midway."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.secrets import version
from tests.containers import layers
from tests.containers.engine import ROOT, STATE, Engine, engine, packages_served, standins
from tests.waiting import wait_for

WORKERS = ("labeler", "augmenter", "trainer", "quantizer", "inference")
IMAGES = ("store-volume", *WORKERS)  #: who builds them
PIPELINE = {
    "name": "short",
    "video": {"fps": 2, "tokens_per_patch": 6, "max_frames": 8},
    "system_prompt": "short",
    "data": {
        "train": {"import": "sandbox", "split": "train", "recordings": 12, "seed": 1},
        "public test": {"import": "sandbox", "split": "public-test", "recordings": 4, "seed": 2},
        "held out": {"import": "sandbox", "split": "held-out", "recordings": 6, "seed": 3},
    },
    "models": {"base": "sandbox-tiny"},
    "steps": {
        "labels": {"stage": "label", "data": "public test",
                   "teacher": {"provider": "gemini", "model": "sandbox-teacher"}},
        "augmented": {"stage": "augment", "data": ["train", "labels"]},
        "fine-tuned B": {"stage": "train", "model": "base", "data": ["train", "labels", "augmented"], "epochs": 3,
                         "learning_rate": 3e-4, "global_batch": 16, "precision": "float32"},
        "B fp4": {"stage": "quantize", "model": "fine-tuned B", "scheme": "fp4"},
        "B awq": {"stage": "quantize", "model": "fine-tuned B", "scheme": "awq", "data": ["train"],
                  "calibration_rows": 16, "group_size": 32},
    },
    "report": {
        "test": "held out",
        "rows": {"baseline": {"model": "base"}, "fine-tuned B": {"parent": "baseline"},
                 "B fp4": {"parent": "fine-tuned B"}, "B awq": {"parent": "fine-tuned B"}},
    },
    "submission": {"data": "public test", "model": "B awq"},
}  # fmt: skip


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
        container = self.compose("ps", "-q", service, capture=True).strip()
        return self.engine.docker("inspect", "-f", what, container, capture=True).strip()

    @property
    def passwords(self) -> list[str]:
        """The random ones; a user's name may stand anywhere."""
        texts = [path.read_text() for path in (self.folder / "compose" / "secrets").iterdir()]
        return [text for text in texts if len(text) > 20]


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
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
    (folder / "data" / "short.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    with engine() as running, packages_served():
        made = Project(running, folder)
        if running.standins:
            standins(running, base_images(folder / ".env"))
            (folder / "standins.yaml").write_text(yaml.safe_dump(override()))
            with (folder / ".env").open("a") as env:
                env.write("ROADQA_CPU_INDEX=\n")  # pip finds the CPU builds without it
        made.remove()  # what a killed run left behind
        yield made
        made.remove()


def base_images(env: Path) -> dict[str, str]:
    values = dict(line.split("=", 1) for line in env.read_text().splitlines() if "=" in line and line[0] != "#")
    return {kind: values[f"ROADQA_{kind.upper()}_IMAGE"] for kind in ("python", "redis", "store")}


def override() -> dict[str, Any]:
    """What stand-ins need beside the project's own compose file."""
    services: dict[str, Any] = {name: {"build": {"network": "host"}} for name in IMAGES}
    services["store"] = {"secrets": ["roadqa_s3_access_key", "roadqa_s3_secret_key"]}
    services["setup"] = {"command": ["--bucket-only"]}  # SeaweedFS has no MinIO admin API
    return {"services": services}


@pytest.fixture(scope="session")
def images(project: Project) -> Project:
    for name in IMAGES:  # one by one: two downloads of PyTorch at once fill a small machine
        project.compose("build", name)
    return project


@pytest.fixture(scope="session")
def up(images: Project) -> Project:
    images.compose("up", "-d", "--wait", "--no-build", "--quiet-pull")
    return images


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_no_secret_and_runs_as_nobody(images: Project, name: str) -> None:
    image = yaml.safe_load(images.compose("config", capture=True))["services"][name]["image"]
    (config,) = json.loads(images.engine.docker("image", "inspect", image, capture=True))
    assert config["Config"]["User"] == "10001:10001"
    assert config["Config"]["Labels"]["org.opencontainers.image.version"] == image.split(":")[1] == version()
    told = images.engine.docker("history", "--no-trunc", image, capture=True) + json.dumps(config)
    assert not [password for password in images.passwords if password in told]
    with images.engine.reading("save", image) as saved:
        assert layers.found(saved, images.passwords) == set()


@pytest.mark.parametrize(
    ("name", "user"),
    [("redis", "999:999"), ("store", "10001:10001"), *((name, "10001:10001") for name in ("conductor", *WORKERS))],
)
def test_a_container_is_hardened_and_healthy(up: Project, name: str, user: str) -> None:
    said = json.loads(up.inspect(name, "{{json .}}"))
    host = said["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert 0 < host["PidsLimit"] <= 2048
    assert not host["Privileged"]
    assert said["Config"]["User"] == user
    assert running_as(up, name) == {int(user.split(":")[0])}
    assert said["State"]["Health"]["Status"] == "healthy"
    assert not [password for password in up.passwords if password in json.dumps(said)]  # no argument, no variable


def running_as(up: Project, name: str) -> set[int]:
    """The users of the container's processes, as the kernel has them."""
    container = up.compose("ps", "-q", name, capture=True).strip()
    listed = up.engine.docker("top", container, "-eo", "pid,uid", capture=True)
    return {int(line.split()[1]) for line in listed.splitlines()[1:]}


def test_the_pipeline_survives_a_killed_trainer(up: Project) -> None:
    run = up.roadqa("run", "short.yaml").strip().splitlines()[-1]
    wait_for(lambda: "attempt 1" in up.compose("logs", "trainer", capture=True), "the first attempt", 300, 0.5)
    os.kill(int(up.inspect("trainer", "{{.State.Pid}}")), signal.SIGKILL)  # as a crash: `docker kill` would not restart
    print(up.roadqa("watch", run))
    report = json.loads(up.roadqa("report", run, "--json"))
    assert report["state"] == "complete"
    assert [row["name"] for row in report["rows"]] == list(PIPELINE["report"]["rows"])  # type: ignore[index]
    assert all(row["accuracy"] is not None for row in report["rows"])
    assert "attempt 2" in up.compose("logs", "trainer", capture=True)
    assert int(up.inspect("trainer", "{{.RestartCount}}")) == 1
    up.roadqa("report", run, "--submission", "submission.csv", "--html", "report.html")
    assert (up.folder / "data" / "submission.csv").read_text().startswith("id,answer\n")


def test_a_backup_restored_into_an_empty_stack_holds_every_run(up: Project) -> None:
    """As docs/operations.md says it is done: the store's volume is all there is to keep."""
    before = json.loads(up.roadqa("status", "--json"))
    up.compose("stop", "--timeout", "20")
    tar = ["run", "--rm", "--user", "0", "--entrypoint", "tar", "-v", "roadqa-test_store:/data",
           "-v", f"{up.folder}:/backup", f"roadqa-services:{version()}", "-C", "/data"]  # fmt: skip
    up.engine.docker(*tar, "-cf", "/backup/store.tar", ".")
    up.remove()
    up.compose("up", "--no-start", "--no-build")
    up.engine.docker(*tar, "-xf", "/backup/store.tar")
    up.compose("up", "-d", "--wait", "--no-build")
    assert before
    assert json.loads(up.roadqa("status", "--json")) == before
