"""Every image is built, and the sandbox pipeline runs through `docker compose`, a worker's container killed midway."""

import json
import os
import signal
import urllib.error
import urllib.request

import pytest
import yaml

from services.local.stack import free_port
from tests.containers.project import IMAGES, WORKERS, Project
from tests.waiting import wait_for

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


@pytest.fixture(scope="module")
def images(project: Project) -> Project:
    for name in IMAGES:  # one by one: two downloads of PyTorch at once fill a small machine
        project.compose("build", name)
    return project


@pytest.fixture(scope="module")
def up(images: Project) -> Project:
    (images.folder / "data" / "short.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    images.compose("up", "-d", "--wait", "--no-build", "--quiet-pull")
    return images


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_no_secret_and_runs_as_nobody(images: Project, name: str) -> None:
    images.check_image(name)


@pytest.mark.parametrize("name", ["redis", "store", "conductor", *WORKERS])
def test_a_container_is_hardened_and_healthy(up: Project, name: str) -> None:
    up.check_container(name)


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


def test_a_model_is_served_to_who_has_the_key(up: Project) -> None:
    port = free_port(0)
    with (up.folder / ".env").open("a") as env:
        env.write(f"ROADQA_SERVE_MODEL=sandbox-tiny\nROADQA_SERVE_PORT={port}\n")
    up.compose("--profile", "serve", "up", "-d", "--wait", "--wait-timeout", "600", "--no-build", "serve")
    up.check_container("serve")
    url, key = f"http://127.0.0.1:{port}", (up.folder / "compose/secrets/roadqa_serve_api_key").read_text()
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}), timeout=60
    ) as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == ["sandbox-tiny"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/v1/models", timeout=60)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/invocations", timeout=60)
    up.compose("--profile", "serve", "stop", "serve")
    assert up.inspect("serve", "{{.State.ExitCode}}") == "0", "it ends by itself when asked to"


def test_a_backup_restored_into_an_empty_stack_holds_every_run(up: Project) -> None:
    """As docs/operations.md says it is done: the store's volume is all there is to keep."""
    before = json.loads(up.roadqa("status", "--json"))
    up.compose("stop", "--timeout", "20")
    tar = ["run", "--rm", "--user", "0", "--entrypoint", "tar", "-v", "roadqa-test_store:/data",
           "-v", f"{up.folder}:/backup", up.image("conductor"), "-C", "/data"]  # fmt: skip
    up.engine.docker(*tar, "-cf", "/backup/store.tar", ".")
    up.remove()
    up.compose("up", "--no-start", "--no-build")
    up.engine.docker(*tar, "-xf", "/backup/store.tar")
    up.compose("up", "-d", "--wait", "--no-build")
    assert before
    assert json.loads(up.roadqa("status", "--json")) == before
